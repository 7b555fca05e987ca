//! How a captured call gets onto a connection: `task(…).after_commit(conn)` and the like.
//!
//! Must not know: the macros, or how a task captures its arguments.

use std::panic::Location;

use diesel::result::QueryResult;

use super::keeper::{Interrupted, Waiting};
use super::wrapper::{State, Wrapper};
use crate::dispatch::{CannotRun, Needs, Stage};
#[cfg(feature = "durable")]
use crate::durable::{Durable, NewTask, TaskId};
#[cfg(feature = "durable")]
use crate::error::CannotStore;
use crate::error::{BoxError, CommitError};
use crate::hook::Hook;
use crate::pooled::for_each_pooled;
use crate::report::HookKind;
use crate::sealed::Sealed;
use crate::task::{Receiver, Start, Taken, Task};

/// Something that a task can be registered on: a [`DeferredConnection`](crate::DeferredConnection),
/// or a pooled one; with the feature `async` also an `AsyncDeferredConnection`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not keep tasks until the commit",
    label = "expected a `&mut DeferredConnection` or a `&mut AsyncDeferredConnection`",
    note = "pass a `DeferredConnection`: establish one with `DeferredConnection::<…>::establish(url)`, or wrap a connection \
            with `DeferredConnection::new(conn)`; a connection of diesel-async's is wrapped with `AsyncDeferredConnection::new(conn)`",
    note = "a guard of a pool of these: pass `&mut *conn`, or turn on the feature `r2d2`, `bb8`, `deadpool` or `mobc` of diesel-deferred"
)]
pub trait AfterCommit: Sealed {
    /// The connection that keeps the tasks.
    #[doc(hidden)]
    type Wrapper: Registry;

    /// The connection that keeps the tasks.
    #[doc(hidden)]
    fn deferring(&mut self) -> &mut Self::Wrapper;

    /// Whether a transaction is open. Sends no SQL.
    fn in_transaction(&mut self) -> bool {
        self.deferring().is_in_transaction()
    }

    /// Registers a task to run after the outermost commit.
    ///
    /// # Errors
    /// [`NotInTransaction`](crate::CommitError::NotInTransaction) outside of a transaction.
    fn defer_task<T: Task>(&mut self, task: T) -> QueryResult<()> {
        task.hand_over(Deferred(self.deferring()))
    }

    /// Registers a task to run after a rollback of the innermost open transaction or of one around
    /// it.
    ///
    /// # Errors
    /// [`NotInTransaction`](crate::CommitError::NotInTransaction) outside of a transaction;
    /// [`CommitError::TaskCannotRun`](crate::CommitError::TaskCannotRun) where the task could not
    /// run.
    fn compensate_task<T: Task>(&mut self, task: T) -> QueryResult<()> {
        task.hand_over(Compensation(self.deferring()))
    }

    /// Registers a task to run after the outermost commit, or runs it now where no transaction is
    /// open; an `async` or `blocking` one is spawned.
    ///
    /// # Errors
    /// What the task returns when it runs here and now, or what it lacks.
    fn defer_task_or_run_it<T: Task>(&mut self, task: T) -> Result<(), BoxError> {
        task.hand_over(DeferredOrRun(self.deferring()))
    }

    /// Has a durable task stored, in the transaction that is open, and says which identity it has.
    ///
    /// # Errors
    /// [`NotInTransaction`](crate::CommitError::NotInTransaction) outside of a transaction;
    /// [`CommitError::TaskCannotBeStored`](crate::CommitError::TaskCannotBeStored) where something
    /// is wrong with the call.
    #[cfg(feature = "durable")]
    #[doc(hidden)]
    fn store_task<T: Durable>(&mut self, task: T) -> QueryResult<TaskId> {
        self.deferring().store(task.call())
    }
}

#[diagnostic::do_not_recommend]
impl<A: AfterCommit + ?Sized> AfterCommit for &mut A {
    type Wrapper = A::Wrapper;

    fn deferring(&mut self) -> &mut A::Wrapper {
        (**self).deferring()
    }
}

/// What derefs to a connection that keeps tasks.
macro_rules! like_its_target {
    ($($feature:literal [$($generics:tt)*] $type:ty => $target:ty,)*) => {$(
        #[cfg(feature = $feature)]
        #[diagnostic::do_not_recommend]
        impl<$($generics)*> AfterCommit for $type
        where
            $target: AfterCommit,
        {
            type Wrapper = <$target as AfterCommit>::Wrapper;

            fn deferring(&mut self) -> &mut Self::Wrapper {
                (**self).deferring()
            }
        }
    )*};
}

for_each_pooled!(like_its_target);

/// A connection's list of tasks.
#[doc(hidden)]
pub trait Registry {
    /// Whether anything can be registered.
    fn is_in_transaction(&mut self) -> bool;
    /// Registers a task.
    fn register<T: Task + Send + 'static, S: Start<T>>(&mut self, task: Taken<T>, start: S) -> QueryResult<()>;
    /// Registers a compensation.
    fn register_compensation<T: Task + Send + 'static, S: Start<T>>(
        &mut self,
        task: Taken<T>,
        start: S,
    ) -> QueryResult<()>;
    /// Whether there is what a task takes to run later.
    fn can_run(&mut self, needs: Option<Needs>) -> Result<(), CannotRun>;
    /// What a task takes to run at once.
    fn stage(&mut self, needs: Option<Needs>) -> Result<Stage, CannotRun>;
    /// Holds a task back that would run now; hands it back where none is held back.
    #[cfg(feature = "testing")]
    fn hold_back<T: Task + Send + 'static, S: Start<T>>(&mut self, task: Taken<T>, start: S) -> Option<Taken<T>>;
    /// Registers a durable task.
    #[cfg(feature = "durable")]
    fn store(&mut self, call: Result<NewTask, CannotStore>) -> QueryResult<TaskId>;
}

impl<W: Wrapper> Registry for W {
    fn is_in_transaction(&mut self) -> bool {
        // A transaction that was cancelled is one that nothing can be registered in.
        self.keeper().interrupted != Interrupted::No || self.state().is_some_and(State::is_nested)
    }

    fn register<T: Task + Send + 'static, S: Start<T>>(&mut self, task: Taken<T>, start: S) -> QueryResult<()> {
        open_queue(self, T::NAME, task.call_site())?;
        let hook = self.keeper().traced(Hook::task(task, start));
        self.keeper().queue.after_commit(hook);
        if Needs::any::<T, S>() {
            self.keeper().note_needs();
        }
        Ok(())
    }

    fn register_compensation<T: Task + Send + 'static, S: Start<T>>(
        &mut self,
        task: Taken<T>,
        start: S,
    ) -> QueryResult<()> {
        let call_site = task.call_site();
        let needs = Needs::of::<T, S>(call_site);
        open_queue(self, T::NAME, call_site)?;
        // After a rollback there is nothing left to refuse.
        self.can_run(needs).map_err(CommitError::TaskCannotRun)?;
        let hook = self.keeper().traced(Hook::task(task, start));
        open_queue(self, T::NAME, call_site)?.after_rollback(hook);
        Ok(())
    }

    fn can_run(&mut self, needs: Option<Needs>) -> Result<(), CannotRun> {
        if self.keeper().holds() {
            return Ok(());
        }
        self.keeper().can_run(needs.into_iter())
    }

    fn stage(&mut self, needs: Option<Needs>) -> Result<Stage, CannotRun> {
        self.keeper().route.stage(needs.into_iter())
    }

    #[cfg(feature = "testing")]
    fn hold_back<T: Task + Send + 'static, S: Start<T>>(&mut self, task: Taken<T>, start: S) -> Option<Taken<T>> {
        if !self.keeper().holds() {
            return Some(task);
        }
        self.keeper().hold(vec![Hook::task(task, start)], HookKind::AfterCommit);
        None
    }

    #[cfg(feature = "durable")]
    fn store(&mut self, call: Result<NewTask, CannotStore>) -> QueryResult<TaskId> {
        let (task, call_site) = name_and_call_site(&call);
        open_queue_for(self, task, call_site, true)?;
        let call = call.map_err(CommitError::TaskCannotBeStored)?;
        self.make_room_now()?;
        let (id, bytes) = (call.id, call.bytes());
        let mut call = Ok(call);
        self.keeper().trace(&mut call);
        open_queue_for(self, task, call_site, true)?.store(call, bytes);
        Ok(id)
    }
}

/// The queue, where a transaction is open, with a mark for each depth; `task` and `call_site` say
/// what is to be registered there.
///
/// # Errors
/// [`CommitError::NotInTransaction`] or [`CommitError::Cancelled`].
pub(super) fn open_queue<'c, W: Wrapper>(
    conn: &'c mut W,
    task: &'static str,
    call_site: &'static Location<'static>,
) -> QueryResult<&'c mut Waiting<W>> {
    open_queue_for(conn, task, call_site, false)
}

/// The same; says also whether it is a durable call.
fn open_queue_for<'c, W: Wrapper>(
    conn: &'c mut W,
    task: &'static str,
    call_site: &'static Location<'static>,
    durable: bool,
) -> QueryResult<&'c mut Waiting<W>> {
    if conn.keeper().interrupted != Interrupted::No {
        return Err(CommitError::Cancelled.into());
    }
    // What is registered directly in a test transaction would wait for ever: in production it is
    // outside of any.
    let Some(State { depth, .. }) = conn.state().filter(|state| state.is_nested()) else {
        return Err(CommitError::NotInTransaction { task, call_site, durable }.into());
    };
    let queue = conn.keeper().queue();
    // Transactions may have been opened below the wrapper, or before it.
    queue.begin_up_to(depth);
    Ok(queue)
}

#[cfg(feature = "durable")]
fn name_and_call_site(call: &Result<NewTask, CannotStore>) -> (&'static str, &'static Location<'static>) {
    match call {
        Ok(call) => (call.task, call.call_site),
        Err(cannot_store) => (cannot_store.task, cannot_store.call_site),
    }
}

struct Deferred<'c, W>(&'c mut W);

impl<W: Registry> Receiver for Deferred<'_, W> {
    type Output = QueryResult<()>;
    fn receive<T: Task + Send + 'static, S: Start<T>>(self, task: T, start: S) -> QueryResult<()> {
        self.0.register(Taken::new(task), start)
    }

    #[cfg(feature = "durable")]
    fn receive_durable(self, call: Result<NewTask, CannotStore>) -> QueryResult<()> {
        self.0.store(call).map(drop)
    }
}

struct Compensation<'c, W>(&'c mut W);

impl<W: Registry> Receiver for Compensation<'_, W> {
    type Output = QueryResult<()>;
    fn receive<T: Task + Send + 'static, S: Start<T>>(self, task: T, start: S) -> QueryResult<()> {
        self.0.register_compensation(Taken::new(task), start)
    }

    #[cfg(feature = "durable")]
    fn receive_durable(self, call: Result<NewTask, CannotStore>) -> QueryResult<()> {
        let reason =
            "a durable task is a row of the transaction that it is called in, and would be rolled back with it";
        let (task, call_site) = name_and_call_site(&call);
        Err(CommitError::TaskCannotBeStored(CannotStore { task, call_site, reason: reason.to_owned() }).into())
    }
}

struct DeferredOrRun<'c, W>(&'c mut W);

impl<W: Registry> Receiver for DeferredOrRun<'_, W> {
    type Output = Result<(), BoxError>;
    fn receive<T: Task + Send + 'static, S: Start<T>>(self, task: T, start: S) -> Result<(), BoxError> {
        let task = Taken::new(task);
        if self.0.is_in_transaction() {
            return Ok(self.0.register(task, start)?);
        }
        #[cfg(feature = "testing")]
        let task = match self.0.hold_back(task, start) {
            Some(task) => task,
            None => return Ok(()),
        };
        let stage = self.0.stage(Needs::of::<T, S>(task.call_site()))?;
        start.run(task, &stage, HookKind::AfterCommit)
    }
    /// There is no transaction that it could be a row of: `NotInTransaction`.
    #[cfg(feature = "durable")]
    fn receive_durable(self, call: Result<NewTask, CannotStore>) -> Result<(), BoxError> {
        self.0.store(call)?;
        Ok(())
    }
}
