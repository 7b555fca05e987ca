//! Each file in `ui` has one mistake in it, and beside it the message that points at it.
//!
//! `TRYBUILD=overwrite` writes the messages anew: read each of them as somebody who made the mistake.

#[test]
fn mistakes_are_explained() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("ui/fail/*.rs");
    #[cfg(feature = "postgres")]
    cases.compile_fail("ui/fail_postgres/*.rs");
}
