//! How the arguments of a captured call are shown, one at a time.
//!
//! Must not know: what a task is.

use std::fmt::{self, Debug, Write};

/// Where a call's arguments are shown. Keeps the first error: a `?` for each argument takes the
/// compiler longer than all else in the function.
pub struct Shows<'a> {
    to: &'a mut dyn Write,
    result: fmt::Result,
}

impl<'a> Shows<'a> {
    pub(super) fn to(to: &'a mut dyn Write) -> Self {
        Self { to, result: Ok(()) }
    }

    pub(super) fn end(self) -> fmt::Result {
        self.result
    }

    fn show(&mut self, argument: fmt::Arguments<'_>) {
        if self.result.is_ok() {
            self.result = self.to.write_fmt(argument);
        }
    }
}

impl Debug for Shows<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shows").finish_non_exhaustive()
    }
}

/// Shows a captured argument behind its name: `Shown("x: ", &x).write(f)` finds [`Shown::write`]
/// when it is `Debug`, [`Opaque::write`] when it is not.
#[derive(Debug)]
pub struct Shown<'a, T>(pub &'static str, pub &'a T);

impl<T: Debug> Shown<'_, T> {
    /// Writes the value.
    pub fn write(&self, f: &mut Shows<'_>) {
        f.show(format_args!("{}{:?}", self.0, self.1));
    }
}

/// The arguments that are not `Debug`.
pub trait Opaque {
    /// Writes the type.
    fn write(&self, f: &mut Shows<'_>);
}

impl<T> Opaque for Shown<'_, T> {
    fn write(&self, f: &mut Shows<'_>) {
        f.show(format_args!("{}<{}>", self.0, std::any::type_name::<T>()));
    }
}
