//! What the flow of a transaction asks of a deferring connection, and of the one below it: the same
//! of a synchronous and of an asynchronous one.
//!
//! The flow (`transaction`, `commit`, `run`) is written once, as async code. On a synchronous
//! connection nothing in it ever waits, so that [`now`] runs it to its end.
//!
//! Must not know: in which order these things are done.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use diesel::connection::{InstrumentationEvent, TransactionManagerStatus};
use diesel::result::QueryResult;

use super::ending::CommitProof;
use super::keeper::Keeper;
use crate::atomic::BeginOptions;
#[cfg(feature = "durable")]
use crate::durable::{NewTask, StoredCalls};
use crate::sealed::Sealed;

/// A deferring connection: [`DeferredConnection`](crate::DeferredConnection) or
/// `AsyncDeferredConnection`.
pub trait Deferring: Sealed + Send + Sized {
    /// The connection below.
    type Wrapped;
}

/// What the flow needs of one.
pub(crate) trait Wrapper: Deferring {
    /// What it takes to believe that a COMMIT committed.
    const PROOF: CommitProof;

    /// Whether it is known to be MySQL or MariaDB.
    #[cfg(feature = "durable")]
    const IS_MYSQL: bool;

    /// Whether the connection below can be used again when the future of a statement was dropped.
    const OUTLIVES_DROPPED_STATEMENTS: bool;

    /// Whether it is diesel-async's: closures are awaited.
    const ASYNC: bool;

    /// How many lists of hooks may be run one in the other: a hook opens a block, whose hooks open
    /// blocks. They must fit on the 2 MB of a thread of tokio's or of the standard library's, in a
    /// debug build.
    const HOOK_DEPTH: usize;

    /// What it keeps.
    fn keeper(&mut self) -> &mut Keeper<Self>;

    /// Diesel's own bookkeeping.
    fn status(&mut self) -> &mut TransactionManagerStatus;

    /// Tells the connection's instrumentation.
    fn tell(&mut self, event: InstrumentationEvent<'_>);

    /// The SQL that begins a transaction with these options.
    fn begin_sql(options: &BeginOptions) -> String;

    /// Begins a transaction or savepoint, as Diesel does.
    fn send_begin(&mut self) -> impl Future<Output = QueryResult<()>> + Send;

    /// Ends a transaction or savepoint, as Diesel does.
    fn send_commit(&mut self) -> impl Future<Output = QueryResult<()>> + Send;

    /// Rolls a transaction or savepoint back, as Diesel does.
    fn send_rollback(&mut self) -> impl Future<Output = QueryResult<()>> + Send;

    /// Runs SQL that Diesel is not to know of.
    fn send_sql(&mut self, sql: &str) -> impl Future<Output = QueryResult<()>> + Send;

    /// Writes as many rows of durable calls as one statement takes; says how many that were.
    #[cfg(feature = "durable")]
    fn send_calls(&mut self, calls: &[NewTask]) -> impl Future<Output = QueryResult<StoredCalls>> + Send;

    /// Runs a task to its end that needs no connection; `Err`: it panicked with that.
    #[cfg(feature = "testing")]
    fn finish(task: super::aside::Task) -> super::aside::Finishing;

    /// Stores durable calls where very many wait, if that can be done without being awaited.
    #[cfg(feature = "durable")]
    fn make_room_now(&mut self) -> QueryResult<()>;

    /// Diesel's state, or `None` where the connection is broken.
    #[inline]
    fn state(&mut self) -> Option<State> {
        match self.status() {
            TransactionManagerStatus::InError => None,
            TransactionManagerStatus::Valid(status) => Some(match &status.in_transaction {
                None => State { depth: 0, base: 0, aborted: false },
                Some(open) => State {
                    depth: open.transaction_depth.get() as usize,
                    base: usize::from(open.test_transaction),
                    aborted: open.requires_rollback_maybe_up_to_top_level,
                },
            }),
        }
    }

    /// The depth of open transactions, as Diesel knows it. A broken connection has none.
    fn depth(&mut self) -> usize {
        self.state().map_or(0, |state| state.depth)
    }

    /// Whether a concurrent transaction was in the way of the last one, which may succeed when it
    /// is run again. Not where it may have been committed, nor on a broken connection.
    fn lost_to_another(&mut self) -> bool {
        self.keeper().watch.saw_conflict() && self.state().is_some()
    }
}

/// What Diesel knows of the open transaction.
#[derive(Clone, Copy)]
pub(crate) struct State {
    pub(super) depth: usize,
    /// 1 in a test transaction, whose own depth does not count.
    pub(super) base: usize,
    /// A statement failed, and only a rollback can follow.
    pub(super) aborted: bool,
}

impl State {
    /// Whether a transaction begun now would be a savepoint of the application's.
    pub(crate) fn is_nested(self) -> bool {
        self.depth > self.base
    }

    /// Whether BEGIN is what begins a transaction now.
    pub(crate) fn is_idle(self) -> bool {
        self.depth == 0
    }
}

/// Runs a flow that never waits.
#[inline(always)]
pub(crate) fn now<F: Future>(flow: F) -> F::Output {
    match pin!(flow).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("a synchronous connection never waits"),
    }
}
