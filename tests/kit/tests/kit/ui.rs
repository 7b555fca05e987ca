//! What the compiler says of assertions that are written wrongly.

use std::panic::catch_unwind;

/// T8
#[test]
fn t08_mistakes_in_assertions() {
    let compile = || trybuild::TestCases::new().compile_fail("tests/kit/ui/*.rs");
    // trybuild takes a compiler that was killed, while it builds what the case depends on, for one
    // that found no mistake. What was built by then is built, so that a second time is short.
    if catch_unwind(compile).is_err() {
        compile();
    }
}
