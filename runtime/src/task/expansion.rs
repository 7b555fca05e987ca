//! What `#[deferred_task]`'s expansion names: how a task captures its arguments, and gets onto a
//! connection. Much of it is there for what it says when it does not compile.
//!
//! Must not know: how hooks are stored.

use std::fmt::{self, Debug};

pub use diesel::QueryResult;
pub use diesel_deferred_macros::__with_items as with_items;

pub use super::call_site::CallSite;
pub use super::shown::{Opaque, Shown, Shows};
pub use super::start::{Alone, Blocking, Here, Spawned, spawnable};
pub use super::{Receiver, Start, Taken, Task};
pub use crate::connection::AfterCommit;
pub use crate::dispatch::{Required, States};
#[cfg(feature = "durable")]
use crate::durable::{Durable, TaskId};
pub use crate::error::BoxError;
use crate::report::SECRET;

/// A type's name for itself. With a parameter in it, a bound of a concrete type is what a caller
/// has to prove, not a mistake where it stands.
pub trait Argument<Anything> {
    /// Itself.
    type Type: ?Sized;
}

impl<T: ?Sized, Anything> Argument<Anything> for T {
    type Type = T;
}

/// An argument that can wait for the commit.
#[diagnostic::on_unimplemented(
    message = "a deferred task cannot capture `{Self}`",
    label = "cannot be sent to another thread",
    note = "a captured call waits in the connection, which may move to another thread before it commits: write a type that \
            is `Send`, such as `Arc` for `Rc` and `Mutex` for `RefCell`, or a bound `Send + 'static` where it is a generic \
            parameter"
)]
pub trait Captured: Send + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Send + 'static> Captured for T {}

/// A task whose calls are rows: what the options of a single call ask for.
#[diagnostic::on_unimplemented(
    message = "only a call of a durable task can be delayed",
    label = "`{Self}` runs right after the commit",
    note = "write `#[deferred_task(durable)]` on the function: its calls are then rows, which wait for their time and for a worker"
)]
pub trait IsDurable {}

#[cfg(feature = "durable")]
#[diagnostic::do_not_recommend]
impl<T: Durable> IsDurable for T {}

/// A task whose calls are no rows. Nothing asks for it of one that has none.
#[diagnostic::on_unimplemented(
    message = "a call of a durable task cannot wait for a rollback",
    label = "`{Self}` is a row of the transaction, and would be rolled back with it",
    note = "write a task without `durable` for what is to be done after a rollback"
)]
pub trait IsInProcess {}

#[diagnostic::do_not_recommend]
impl<T: NoRow> IsInProcess for T {}

/// No durable task is one.
pub trait NoRow {}

/// Registers `task` to run after the commit, for `task(…).after_commit(conn)`.
///
/// # Errors
/// `NotInTransaction` outside of a transaction.
pub fn after_commit<T: Task>(task: T, conn: &mut impl AfterCommit) -> QueryResult<()> {
    conn.defer_task(task)
}

/// Has a durable task stored with what the transaction commits, for `task(…).after_commit(conn)`.
///
/// # Errors
/// `NotInTransaction` outside of a transaction, and what is wrong with the call.
#[cfg(feature = "durable")]
pub fn store<T: Durable>(task: T, conn: &mut impl AfterCommit) -> QueryResult<TaskId> {
    conn.store_task(task)
}

/// Registers `task` to run after the commit, or runs it now where there is no transaction.
///
/// # Errors
/// What the task returns when it runs now.
pub fn after_commit_or_now<T: Task>(task: T, conn: &mut impl AfterCommit) -> Result<(), BoxError> {
    conn.defer_task_or_run_it(task)
}

/// Registers `task` to run after a rollback, for `task(…).after_rollback(conn)`.
///
/// # Errors
/// `NotInTransaction` outside of a transaction.
pub fn after_rollback<T: Task>(task: T, conn: &mut impl AfterCommit) -> QueryResult<()> {
    conn.compensate_task(task)
}

/// What is shown of a `#[secret]` argument.
pub struct Secret;

impl Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SECRET)
    }
}

/// The arguments of a captured call, as they are shown.
pub struct Arguments<'a, T>(pub &'a T);

impl<T: Task> fmt::Display for Arguments<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write_arguments(f)
    }
}

impl<T: Task> Debug for Arguments<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Shows a captured call.
///
/// # Errors
/// What the sink returns.
pub fn fmt_call<T: Task>(call: &T, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    fmt_any_call(f, T::NAME, &Arguments(call))
}

/// Not generic, because it would be compiled for each task.
fn fmt_any_call(f: &mut fmt::Formatter<'_>, task: &str, arguments: &dyn fmt::Display) -> fmt::Result {
    f.write_str(task)?;
    f.write_str("(")?;
    fmt::Display::fmt(arguments, f)?;
    f.write_str(")")
}
