//! What the compiler says of assertions that are written wrongly.

/// T8
#[test]
fn t08_mistakes_in_assertions() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/kit/ui/*.rs");
}
