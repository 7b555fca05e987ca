//! Captures calls in place of running them.
//!
//! Must not know: the table.

use std::fmt;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};

use super::expected::{Expectable, Expected};
use super::found::{Found, fail};
use super::kind::Kind;
use super::seen::Seen;
use crate::connection::{
    AsyncDeferrable, AsyncDeferredConnection, Deferrable, DeferredConnection, HeldCall, Wrapper, run_held,
};
use crate::dispatch::Stage;
use crate::hook::{Body, Facts, Hook, Outcome, Step, outcome};
use crate::lost;
use crate::panics::caught;
use crate::report::HookKind;

/// Runs a block, and captures the calls that would run when it has ended: those whose transaction was
/// committed in it, and those that wait for one that was open before. Nothing runs.
///
/// Calls of what was rolled back are not among them, and neither is what was registered before
/// (T5). Calls of durable tasks are, and are rows all the same. In a capture in a capture the inner
/// one has them, and the outer one does not.
///
/// The calls that run in this process come first, in the order of registration, then those that are
/// rows.
///
/// # Examples
/// ```
/// use diesel::prelude::*;
/// use diesel_deferred::testing::capture;
/// use diesel_deferred::{DeferredConnection, assert_deferred, atomic, deferred_task, refute_deferred};
///
/// #[deferred_task]
/// fn send_welcome(user_id: i32, email: &str) {
///     println!("user {user_id}: {email}");
/// }
///
/// fn sign_up(conn: &mut DeferredConnection<SqliteConnection>, id: i32, email: &str) -> QueryResult<()> {
///     atomic!(conn, {
///         send_welcome(id, email);
///         Ok(())
///     })
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let conn = &mut DeferredConnection::<SqliteConnection>::establish(":memory:")?;
/// let captured = capture(conn, |conn| sign_up(conn, 7, "ada@example.org"));
/// assert_deferred!(captured, send_welcome(7, "ada@example.org"));
/// refute_deferred!(captured, send_welcome(8, _));
///
/// captured.run(conn)?; // now they do
/// assert_eq!(conn.last_report().ran(), 1);
/// # Ok(())
/// # }
/// ```
pub fn capture<C, R>(
    conn: &mut DeferredConnection<C>,
    block: impl FnOnce(&mut DeferredConnection<C>) -> R,
) -> Captured<DeferredConnection<C>, R>
where
    C: Deferrable,
{
    let mut begun = Begun::begin(conn);
    let outcome = catch_unwind(AssertUnwindSafe(|| block(begun.conn)));
    let calls = begun.end();
    match outcome {
        Ok(value) => Captured { value, calls },
        Err(panic) => resume_unwind(panic),
    }
}

/// [`capture`], on an asynchronous connection.
///
/// # Examples
/// ```
/// # #[cfg(feature = "async-sqlite")]
/// # mod example {
/// use diesel::prelude::*;
/// use diesel_async::AsyncConnection;
/// use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
/// use diesel_deferred::testing::capture_async;
/// use diesel_deferred::{AsyncDeferredConnection, assert_deferred, atomic, deferred_task};
///
/// #[deferred_task]
/// async fn send_welcome(user_id: i32) {
///     println!("user {user_id}");
/// }
///
/// # pub async fn test() -> Result<(), Box<dyn std::error::Error>> {
/// let conn = &mut AsyncDeferredConnection::<SyncConnectionWrapper<SqliteConnection>>::establish(":memory:").await?;
/// let captured = capture_async(conn, async |conn| {
///     atomic!(conn, -> QueryResult<()>, async {
///         send_welcome(7);
///         Ok(())
///     })
///     .await
/// })
/// .await;
/// assert_deferred!(captured, send_welcome(7));
/// # Ok(())
/// # }
/// # }
/// # #[cfg(feature = "async-sqlite")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> { example::test().await }
/// # #[cfg(not(feature = "async-sqlite"))]
/// # fn main() {}
/// ```
pub async fn capture_async<C, R>(
    conn: &mut AsyncDeferredConnection<C>,
    block: impl AsyncFnOnce(&mut AsyncDeferredConnection<C>) -> R,
) -> Captured<AsyncDeferredConnection<C>, R>
where
    C: AsyncDeferrable,
{
    let mut begun = Begun::begin(conn);
    let outcome = caught(Box::pin(block(begun.conn))).await;
    let calls = begun.end();
    match outcome {
        Ok(value) => Captured { value, calls },
        Err(panic) => resume_unwind(panic),
    }
}

/// A capture that has begun, and what waited then. Where its future is dropped it ends, and its calls
/// are dropped.
struct Begun<'c, W: Wrapper> {
    conn: &'c mut W,
    hooks: usize,
    calls: usize,
    ended: bool,
}

impl<'c, W: Wrapper> Begun<'c, W> {
    fn begin(conn: &'c mut W) -> Self {
        let keeper = conn.keeper();
        let (hooks, calls) = keeper.queue_counts();
        keeper.held().begin_capture();
        Self { conn, hooks, calls, ended: false }
    }

    fn end(&mut self) -> Vec<HeldCall<W>> {
        self.ended = true;
        let keeper = self.conn.keeper();
        let mut calls = keeper.held().end_capture();
        let (hooks, stored) = keeper.take_registered_since(self.hooks, self.calls);
        calls.extend(hooks.into_iter().map(|hook| HeldCall::Hook(hook, HookKind::AfterCommit)));
        calls.extend(stored.into_iter().map(HeldCall::Stored));
        calls
    }
}

impl<W: Wrapper> Drop for Begun<'_, W> {
    fn drop(&mut self) {
        if !self.ended {
            self.end();
        }
    }
}

/// The calls that a block made, and what it returned: see [`capture`].
#[allow(private_bounds, reason = "nobody else implements it")]
pub struct Captured<W, R> {
    value: R,
    calls: Vec<HeldCall<W>>,
}

impl<W, R> Captured<W, R> {
    pub(super) fn new(value: R, calls: Vec<HeldCall<W>>) -> Self {
        Self { value, calls }
    }

    /// What the block returned.
    pub fn value(&self) -> &R {
        &self.value
    }

    /// What the block returned. The calls are dropped.
    pub fn into_value(self) -> R {
        self.value
    }

    /// How many calls there are.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// The calls, each as text, with its arguments, and where it was called.
    pub fn shown(&self) -> Vec<String> {
        let shown = |seen: Seen<'_>| format!("{}({}) {}", seen.task, seen.arguments, seen.place);
        self.calls.iter().map(|call| shown(Seen::held(call))).collect()
    }

    /// For [`assert_deferred!`](crate::assert_deferred).
    ///
    /// # Panics
    /// Where there is no such call.
    #[doc(hidden)]
    #[track_caller]
    #[allow(clippy::needless_pass_by_value, reason = "the macro writes it as a value")]
    pub fn assert_deferred<T: Expectable + 'static>(&self, expected: Expected<T>) {
        fail(self.look(&expected).missing());
    }

    /// For [`refute_deferred!`](crate::refute_deferred).
    ///
    /// # Panics
    /// Where there is such a call.
    #[doc(hidden)]
    #[track_caller]
    #[allow(clippy::needless_pass_by_value, reason = "the macro writes it as a value")]
    pub fn refute_deferred<T: Expectable + 'static>(&self, expected: Expected<T>) {
        fail(self.look(&expected).unwanted());
    }

    fn look<T: Expectable + 'static>(&self, expected: &Expected<T>) -> Found {
        Found::look(expected, "among what was captured", |see| self.calls.iter().for_each(|call| see(Seen::held(call))))
    }
}

impl<W, R> fmt::Debug for Captured<W, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.shown()).finish()
    }
}

/// What a captured block returns: whether it failed, so that none of its calls is to run.
#[diagnostic::on_unimplemented(
    message = "nobody knows whether a block that returns `{Self}` has failed",
    note = "have the captured block return `()` or a `Result`, of which nothing runs where it is an `Err`"
)]
pub trait BlockResult: Send {
    /// Whether it failed.
    #[doc(hidden)]
    fn has_failed(&self) -> bool;
}

impl BlockResult for () {
    fn has_failed(&self) -> bool {
        false
    }
}

impl<T: Send, E: Send> BlockResult for Result<T, E> {
    fn has_failed(&self) -> bool {
        self.is_err()
    }
}

impl<W: Kind, R: BlockResult> Captured<W, R> {
    /// Runs the calls, in their order, as they would have run after the COMMIT, and returns what the
    /// block returned. Where that is an error nothing runs (T3), also not what was to run after a
    /// rollback. Calls of durable tasks are rows:
    /// [`drain`](super::drain) runs those.
    ///
    /// What a call registers itself runs at the end of its own block, as in production. What failed is
    /// in the connection's [`last_report`](DeferredConnection::last_report).
    ///
    /// In a transaction that is open, what runs now has run too early where that transaction is rolled
    /// back: the report and an event say so then (T4), and [`no_lost_calls`](super::no_lost_calls)
    /// fails.
    ///
    /// # Panics
    /// Where a call cannot run: a `#[state]` is missing, or a runtime. The message names it.
    #[track_caller]
    pub fn run<'c>(self, conn: &'c mut W) -> W::Done<'c, R>
    where
        R: 'c,
    {
        let caller = Location::caller();
        W::done(async move {
            let Self { value, calls } = self;
            if value.has_failed() {
                return value;
            }
            if let Err(cannot_run) = run(conn, calls).await {
                panic!("what was captured cannot run, at {caller}: {cannot_run}");
            }
            value
        })
    }
}

async fn run<W: Wrapper>(conn: &mut W, calls: Vec<HeldCall<W>>) -> Result<(), crate::dispatch::CannotRun> {
    conn.keeper().begin_report();
    // Before any of them runs.
    conn.keeper().can_run(calls.iter().filter_map(|call| match call {
        HeldCall::Hook(hook, _) => hook.needs(),
        HeldCall::Stored(_) => None,
    }))?;
    let mut ghosts = Vec::new();
    let mut hooks = calls.into_iter().filter_map(|call| match call {
        HeldCall::Hook(hook, kind) => Some((hook, kind)),
        HeldCall::Stored(_) => None,
    });
    let mut next = hooks.next();
    while let Some((hook, kind)) = next.take() {
        ghosts.push(Ghost { name: hook.name(), call_site: hook.call_site() });
        let mut of_kind = vec![hook];
        for (hook, other) in hooks.by_ref() {
            if other != kind {
                next = Some((hook, other));
                break;
            }
            ghosts.push(Ghost { name: hook.name(), call_site: hook.call_site() });
            of_kind.push(hook);
        }
        run_held(conn, of_kind, kind).await?;
    }
    if conn.state().is_some_and(|state| state.is_nested()) {
        let depth = conn.depth();
        let queue = conn.keeper().queue_up_to(depth);
        ghosts.into_iter().for_each(|ghost| queue.after_rollback(Hook::closure(ghost)));
    }
    Ok(())
}

/// A call that has run although its transaction was still open.
struct Ghost {
    name: &'static str,
    call_site: &'static Location<'static>,
}

const GHOST: &str =
    "it ran in a test before its transaction was committed, which was rolled back: it must not have run";

/// It runs where that transaction is rolled back.
impl<W> Body<W> for Ghost {
    fn run<'a>(&'a mut self, _: &'a mut W, _: &'a Stage, _: HookKind) -> Step<'a, Outcome> {
        lost::note(self.name, self.call_site, GHOST);
        Step::Done(outcome(self.call_site, Ok(Err(GHOST.into()))))
    }

    fn facts(&self) -> Facts {
        Facts { name: self.name, call_site: self.call_site, needs: None, wants_connection: false }
    }
}
