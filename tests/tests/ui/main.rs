//! What does not compile, and what is said of it.

mod refused;

/// Each file in `ui/fail` has one mistake in it, and beside it the message that points at it.
///
/// `TRYBUILD=overwrite` writes the messages anew: read each of them as somebody who made the mistake.
#[test]
fn mistakes_are_explained() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("ui/fail/*.rs");
    // The compiler shortens a path where the name is unambiguous, which depends on the backends that are compiled in.
    if cfg!(all(feature = "postgres", feature = "mysql")) {
        cases.compile_fail("ui/fail_with_servers/*.rs");
    }
}
