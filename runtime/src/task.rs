//! A captured call of a task function, and what becomes of a statement's value in an `atomic!` block.
//!
//! Must not know: connections beyond the registrar that a block hands out, and how hooks are stored.

use std::fmt::{self, Write};
use std::panic::Location;

use crate::error::BoxError;

/// A call of a [`#[deferred_task]`](crate::deferred_task) function, captured by value.
///
/// The attribute implements it; there is no need to write an implementation by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a captured task call",
    note = "put `#[deferred_task]` on the function and pass what calling it returns"
)]
pub trait Task: Sized {
    /// What the function returns.
    type Output: TaskOutput;

    /// Module path and name of the function, or the `name = "…"` of the attribute.
    const NAME: &'static str;

    /// Runs the function's body with the captured arguments, now.
    fn run(self) -> Self::Output;

    /// Where the function was called.
    fn call_site(&self) -> &'static Location<'static>;

    /// Writes the captured arguments as `name: value, …`; a value that is not `Debug` is written as its type.
    ///
    /// # Errors
    /// What the sink returns.
    fn write_arguments(&self, f: &mut dyn Write) -> fmt::Result;
}

impl<T: Task> Task for Box<T> {
    type Output = T::Output;
    const NAME: &'static str = T::NAME;

    fn run(self) -> T::Output {
        (*self).run()
    }

    fn call_site(&self) -> &'static Location<'static> {
        (**self).call_site()
    }

    fn write_arguments(&self, f: &mut dyn Write) -> fmt::Result {
        (**self).write_arguments(f)
    }
}

/// What a task or hook may return: `()` or `Result<(), E>` with an `E` that converts into [`BoxError`].
#[diagnostic::on_unimplemented(
    message = "a deferred task cannot return `{Self}`",
    label = "expected `()` or `Result<(), E>`",
    note = "nobody is there to take a value when the task runs after the commit: return `()`, or `Result<(), E>` where \
            `E` converts into `Box<dyn std::error::Error + Send + Sync>`"
)]
pub trait TaskOutput {
    /// Turns the output into the result that is reported.
    ///
    /// # Errors
    /// The task's own error.
    fn into_result(self) -> Result<(), BoxError>;
}

impl TaskOutput for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<E: Into<BoxError>> TaskOutput for Result<(), E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

/// Named by the macros' expansions only.
#[allow(unreachable_pub, reason = "re-exported whole by the crate's hidden module")]
pub mod expansion {
    use std::fmt::{self, Debug, Write};

    pub use diesel::QueryResult;

    pub use super::Task;
    use super::TaskOutput;
    use crate::atomic::Registrar;
    pub use crate::connection::AfterCommit;
    use crate::connection::Deferrable;
    pub use crate::error::BoxError;
    use crate::hook::Hook;

    /// The value of a statement in an `atomic!` block.
    ///
    /// `Statement(value).settle(…)` finds the inherent method when the value is a task, and the one of [`Pass`] when it
    /// is anything else: which of the two is all that is decided by type.
    #[derive(Debug)]
    pub struct Statement<T>(pub T);

    impl<T: Settle> Statement<T> {
        /// Registers the task on the block's connection.
        #[inline]
        pub fn settle<C: Deferrable>(self, registrar: &Registrar<C>) -> T::Settled {
            self.0.settle(registrar)
        }

        /// Refuses the task: it was called where `atomic!` does not reach.
        pub fn stray(self) -> T::Settled
        where
            T: WithinReach,
        {
            self.0.pass()
        }
    }

    /// What a statement that is no task does with its value: hand it on, so that a dropped `Result` still warns.
    pub trait Pass<T> {
        /// Hands the value on.
        fn settle<C: Deferrable>(self, registrar: &Registrar<C>) -> T;
        /// Hands the value on.
        fn stray(self) -> T;
    }

    impl<T> Pass<T> for Statement<T> {
        #[inline]
        fn settle<C: Deferrable>(self, _: &Registrar<C>) -> T {
            self.0
        }

        fn stray(self) -> T {
            self.0
        }
    }

    /// Values of statements that go through the inherent method.
    ///
    /// Besides tasks: the types that inference would send there anyway, because nothing was known of them yet. For those
    /// settling is the identity.
    #[diagnostic::on_unimplemented(
        message = "the type of this statement's value is not known early enough in an `atomic!` block",
        label = "this turned out to be `{Self}` only later",
        note = "name the type where the value comes from (`let mut list: Vec<User> = …`), or write `let _ = …;`"
    )]
    pub trait Settle: Sized {
        /// `()` for a task, the value itself otherwise.
        type Settled;
        /// Registers a task, hands on anything else.
        fn settle<C: Deferrable>(self, registrar: &Registrar<C>) -> Self::Settled;
        /// Hands on anything but a task.
        fn pass(self) -> Self::Settled
        where
            Self: WithinReach;
    }

    impl<T: Task + Send + 'static> Settle for T {
        type Settled = ();

        #[inline]
        fn settle<C: Deferrable>(self, registrar: &Registrar<C>) {
            registrar.register(Hook::task(self));
        }

        fn pass(self)
        where
            Self: WithinReach,
        {
            // No task is `WithinReach`: this cannot be called.
        }
    }

    /// What may be dropped by a statement in a closure or async block. No task may.
    #[diagnostic::on_unimplemented(
        message = "this task is never registered",
        label = "called in a closure or async block, where `atomic!` does not reach: it may run at any time, or never",
        note = "write `{Self}(…).after_commit(conn)?` with the connection that the closure is given, or a nested `atomic!(conn, …)`"
    )]
    pub trait WithinReach {}

    macro_rules! settles_to_itself {
        ($([$($generic:tt)*] $type:ty,)*) => {$(
            impl<$($generic)*> Settle for $type {
                type Settled = Self;
                #[inline]
                fn settle<C: Deferrable>(self, _: &Registrar<C>) -> Self {
                    self
                }
                fn pass(self) -> Self {
                    self
                }
            }
            impl<$($generic)*> WithinReach for $type {}
        )*};
    }

    /// `!`, which has no name on stable Rust but this one. A diverging call is inferred to be a task otherwise.
    type Never = <fn() -> ! as FnOutput>::Output;

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
        [T] Option<T>,
        [T] Vec<T>,
        [T, const N: usize] [T; N],
        [T, E] Result<T, E>,
        [A, B] (A, B),
        [A, B, D] (A, B, D),
        [A, B, D, E] (A, B, D, E),
    }

    /// Fails to compile, on the argument's type, where a task could not keep the argument until the commit.
    pub const fn captured_argument_is_send_and_static<T: Send + 'static>() {}

    /// Registers `task` to run after the commit, for `task(…).after_commit(conn)`.
    ///
    /// # Errors
    /// `NotInTransaction` outside of a transaction.
    pub fn after_commit<T: Task + Send + 'static>(task: T, conn: &mut impl AfterCommit) -> QueryResult<()> {
        conn.defer_task(task)
    }

    /// Registers `task` to run after the commit, or runs it now where there is no transaction.
    ///
    /// # Errors
    /// What the task returns when it runs now.
    pub fn after_commit_or_now<T: Task + Send + 'static>(task: T, conn: &mut impl AfterCommit) -> Result<(), BoxError> {
        if conn.in_transaction() { Ok(conn.defer_task(task)?) } else { task.run().into_result() }
    }

    /// Registers `task` to run after a rollback, for `task(…).after_rollback(conn)`.
    ///
    /// # Errors
    /// `NotInTransaction` outside of a transaction.
    pub fn after_rollback<T: Task + Send + 'static>(task: T, conn: &mut impl AfterCommit) -> QueryResult<()> {
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
}
