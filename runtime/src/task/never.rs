//! The type `!`, which has no name on stable Rust but the one here, and what a task that never
//! returns is.
//!
//! Must not know: the macros' expansions.

use super::TaskOutput;
use crate::error::BoxError;
use crate::sealed::Sealed;

/// The type of an expression that is never done.
pub(crate) type Never = <fn() -> ! as FnOutput>::Output;

/// Names the return type of a function pointer.
pub trait FnOutput {
    /// That type.
    type Output;
}

impl<R> FnOutput for fn() -> R {
    type Output = R;
}

impl Sealed for Never {}

#[diagnostic::do_not_recommend]
impl TaskOutput for Never {
    fn into_result(self) -> Result<(), BoxError> {
        self
    }
}
