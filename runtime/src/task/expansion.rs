//! What the macros' expansions name: what becomes of a statement's value in an `atomic!` block, and how a task captures its
//! arguments. Much of it is there for what it says when it does not compile.
//!
//! Must not know: connections beyond the registrar that a block hands out, and how hooks are stored.

use std::fmt::{self, Debug, Write};
use std::marker::PhantomData;

pub use diesel::QueryResult;
pub use diesel_deferred_macros::__with_items as with_items;

use super::TaskOutput;
pub use super::call_site::CallSite;
pub use super::start::{Blocking, Here, Spawned, spawnable};
pub use super::{Receiver, Start, Taken, Task};
use crate::atomic::Registrar;
pub use crate::connection::AfterCommit;
use crate::connection::Deferring;
use crate::dispatch::Needs;
pub use crate::dispatch::{Required, States};
#[cfg(feature = "durable")]
use crate::durable::{Durable, NewTask, TaskId};
pub use crate::error::BoxError;
#[cfg(feature = "durable")]
use crate::error::CannotStore;
use crate::hook::Hook;
pub use crate::report::SECRET;
use crate::sealed::Sealed;

/// The type of a statement's value in an `atomic!` block.
///
/// `Statement::of(&value).__settle_statement(value, …)` finds the inherent method when the value is a task, and the one of [`Pass`]
/// when it is anything else: which of the two is all that is decided by type.
///
/// Not the value itself: a diverging call's would be coerced to a type that is not known yet on its way in. A reference to
/// it is not.
#[derive(Debug)]
pub struct Statement<T>(PhantomData<fn(T)>);

impl<T> Statement<T> {
    /// The statement of this value.
    #[inline]
    pub fn of(_: &T) -> Self {
        Self(PhantomData)
    }
}

impl<T: Settle> Statement<T> {
    /// Registers the task on the block's connection.
    #[inline]
    pub fn __settle_statement<W: Deferring>(self, value: T, registrar: &Registrar<W>) -> T::Settled {
        value.settle(registrar)
    }

    /// Refuses the task: it was called where `atomic!` does not reach.
    pub fn __stray_statement(self, value: T) -> T::Settled
    where
        T: WithinReach,
    {
        value.pass()
    }
}

/// What a statement that is no task does with its value: hand it on, so that a dropped `Result` still warns. The names must
/// not meet those of a trait of a user's that is implemented for every type.
pub trait Pass<T> {
    /// Hands the value on.
    fn __settle_statement<W: Deferring>(self, value: T, registrar: &Registrar<W>) -> T;
    /// Hands the value on.
    fn __stray_statement(self, value: T) -> T;
}

impl<T> Pass<T> for Statement<T> {
    #[inline]
    fn __settle_statement<W: Deferring>(self, value: T, _: &Registrar<W>) -> T {
        value
    }

    fn __stray_statement(self, value: T) -> T {
        value
    }
}

/// A value in an arm that is never taken.
pub fn unreachable<T>(_: &T) -> T {
    unreachable!("the arm of this value is never taken")
}

/// Values of statements that go through the inherent method.
///
/// Besides tasks: the types that inference would send there anyway, because nothing was known of them yet. For those
/// settling is the identity.
#[diagnostic::on_unimplemented(
    message = "the type of this statement's value is not known early enough in an `atomic!` block",
    label = "this turned out to be `{Self}` only later",
    note = "name the type where the value comes from, as in `let mut list: Vec<{Self}> = …`, or write `let _ = …;`"
)]
pub trait Settle: Sized {
    /// `()` for a task, the value itself otherwise.
    type Settled;
    /// Registers a task, hands on anything else.
    fn settle<W: Deferring>(self, registrar: &Registrar<W>) -> Self::Settled;
}

#[diagnostic::do_not_recommend]
impl<T: Task> Settle for T {
    type Settled = ();

    #[inline]
    fn settle<W: Deferring>(self, registrar: &Registrar<W>) {
        self.hand_over(Registered(registrar));
    }
}

/// What may be dropped by a statement in a closure or async block. No task may.
#[diagnostic::on_unimplemented(
    message = "this task is never registered",
    label = "called in a closure or async block, where `atomic!` does not reach: it may run at any time, or never",
    note = "write a `for` loop in place of the closure, a plain block in place of the async one, or \
            `{Self}(…).after_commit(conn)?` with the connection that it is given"
)]
pub trait WithinReach: Settle {
    /// Hands on anything but a task.
    fn pass(self) -> Self::Settled;
}

macro_rules! settles_to_itself {
    ($([$($generic:tt)*] $type:ty,)*) => {$(
        #[diagnostic::do_not_recommend]
        impl<$($generic)*> Settle for $type {
            type Settled = Self;
            #[inline]
            fn settle<W: Deferring>(self, _: &Registrar<W>) -> Self {
                self
            }
        }
        #[diagnostic::do_not_recommend]
        impl<$($generic)*> WithinReach for $type {
            fn pass(self) -> Self {
                self
            }
        }
    )*};
}

/// `!`, which has no name on stable Rust but this one. A diverging call is inferred to be a task otherwise.
pub(crate) type Never = <fn() -> ! as FnOutput>::Output;

impl Sealed for Never {}

#[diagnostic::do_not_recommend]
impl TaskOutput for Never {
    fn into_result(self) -> Result<(), BoxError> {
        self
    }
}

/// Names the return type of a function pointer.
pub trait FnOutput {
    /// That type.
    type Output;
}

impl<R> FnOutput for fn() -> R {
    type Output = R;
}

settles_to_itself! {
    [] (),
    [] Never,
    [] bool, [] char, [] f32, [] f64, [] String,
    [] i8, [] i16, [] i32, [] i64, [] i128, [] isize,
    [] u8, [] u16, [] u32, [] u64, [] u128, [] usize,
    [T, const N: usize] [T; N],
    [T, E] Result<T, E>,
    [A, B] (A, B),
    [A, B, D] (A, B, D),
    [A, B, D, E] (A, B, D, E),
}

/// `option.map(|id| send(id));` and `flag.then(|| send(id));`: the compiler does not mind that the value is dropped, so
/// that the task would be lost without a word.
#[diagnostic::do_not_recommend]
impl<T: Settle> Settle for Option<T> {
    type Settled = Option<T::Settled>;

    #[inline]
    fn settle<W: Deferring>(self, registrar: &Registrar<W>) -> Self::Settled {
        self.map(|value| value.settle(registrar))
    }
}

#[diagnostic::do_not_recommend]
impl<T: WithinReach> WithinReach for Option<T> {
    fn pass(self) -> Self::Settled {
        self.map(T::pass)
    }
}

/// `ids.map(send).collect::<Vec<_>>();`, for the same reason.
#[diagnostic::do_not_recommend]
impl<T: Settle> Settle for Vec<T> {
    type Settled = Vec<T::Settled>;

    #[inline]
    fn settle<W: Deferring>(self, registrar: &Registrar<W>) -> Self::Settled {
        self.into_iter().map(|value| value.settle(registrar)).collect()
    }
}

#[diagnostic::do_not_recommend]
impl<T: WithinReach> WithinReach for Vec<T> {
    fn pass(self) -> Self::Settled {
        self.into_iter().map(T::pass).collect()
    }
}

/// What a block without a value ended in.
#[derive(Debug)]
pub struct End<'a, T>(pub &'a T);

impl<T> End<'_, T> {
    /// The block's result: never reached, or a mistake.
    pub fn end<R>(self) -> R
    where
        T: Diverges,
    {
        self.0.never()
    }
}

/// What a block without a value may be: one that never gets to its end.
#[diagnostic::on_unimplemented(
    message = "this `atomic!` block ends without a `Result`",
    label = "`Ok(())` is missing here",
    note = "`Ok(…)` commits, `Err(…)` rolls back"
)]
pub trait Diverges {
    /// Is never called.
    fn never<R>(&self) -> R;
}

#[diagnostic::do_not_recommend]
impl Diverges for Never {
    fn never<R>(&self) -> R {
        match *self {}
    }
}

/// A type's name for itself. With a parameter in it, a bound of a concrete type is what a caller has to prove, not a
/// mistake where it stands.
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

struct Registered<'r, W>(&'r Registrar<W>);

impl<W: Deferring> Receiver for Registered<'_, W> {
    type Output = ();
    #[inline]
    fn receive<T: Task + Send + 'static, S: Start<T>>(self, task: T, start: S) {
        self.0.register(Hook::task(Taken::new(task), start), Needs::any::<T, S>());
    }

    #[cfg(feature = "durable")]
    fn receive_durable(self, call: Result<NewTask, CannotStore>) {
        self.0.store(call);
    }
}

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

/// Shows a captured argument: `(&Shown(&x)).write(f)` finds [`Shown::write`] when it is `Debug`, [`Opaque::write`]
/// when it is not.
#[derive(Debug)]
pub struct Shown<'a, T>(pub &'a T);

impl<T: Debug> Shown<'_, T> {
    /// Writes the value.
    ///
    /// # Errors
    /// What the sink returns.
    pub fn write(&self, f: &mut dyn Write) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// The arguments that are not `Debug`.
pub trait Opaque {
    /// Writes the type.
    ///
    /// # Errors
    /// What the sink returns.
    fn write(&self, f: &mut dyn Write) -> fmt::Result;
}

impl<T> Opaque for Shown<'_, T> {
    fn write(&self, f: &mut dyn Write) -> fmt::Result {
        write!(f, "<{}>", std::any::type_name::<T>())
    }
}
