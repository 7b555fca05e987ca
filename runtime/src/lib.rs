//! Background tasks for [Diesel](diesel) that run after the transaction commits.
//!
//! A task called inside a transaction must not start before the COMMIT: it would not find the rows.
//! It must not run at all when what it belongs to was rolled back, and it must see the arguments of
//! *its* call, not of the last one in the loop. Here all three follow from a plain function call:
//!
//! ```
//! use diesel::prelude::*;
//! use diesel_deferred::{DeferredConnection, atomic, deferred_task};
//!
//! # diesel::table! { users { id -> Integer, email -> Text, } }
//! #[deferred_task]
//! fn send_welcome(user_id: i32, email: &str) {
//!     println!("welcome, user {user_id} <{email}>");
//! }
//!
//! # fn main() -> QueryResult<()> {
//! let conn = &mut DeferredConnection::<SqliteConnection>::establish(":memory:").expect("in memory");
//! # use diesel::connection::SimpleConnection;
//! # conn.batch_execute("CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT NOT NULL)")?;
//! # let new_users = [(1, "ada@example.org".to_owned()), (2, "bob@example.org".to_owned())];
//! atomic!(conn, {
//!     for (id, email) in &new_users {
//!         diesel::insert_into(users::table)
//!             .values((users::id.eq(id), users::email.eq(email)))
//!             .execute(conn)?;
//!         send_welcome(*id, email); // captured by value here, run after the outermost COMMIT
//!     }
//!     Ok(())
//! })
//! # }
//! ```
//!
//! | what | where |
//! |---|---|
//! | make a function a task | [`#[deferred_task]`](deferred_task) |
//! | a transaction whose task calls wait for the commit | [`atomic!`] |
//! | the connection that keeps them | [`DeferredConnection`], and over diesel-async's `AsyncDeferredConnection` |
//! | where `async` and `blocking` tasks run, and get their states | `Dispatcher` |
//! | tasks that survive a crash | [`#[deferred_task(durable)]`](deferred_task#durable-tasks), `migrations`, `Worker` |
//! | closures instead of tasks | [`DeferredConnection::after_commit`], [`after_rollback`](DeferredConnection::after_rollback), [`before_commit`](DeferredConnection::before_commit) |
//! | what waits, what failed | [`DeferredConnection::pending`], [`DeferredConnection::last_report`] |
//! | a COMMIT that did not commit | [`CommitError`] |
//!
//! # Guarantees
//! * A commit hook (a task's call, or a closure) runs when the *outermost* transaction has really
//!   committed, once: a plain function and a closure before `atomic!` returns, in the order in
//!   which they were registered, over all nested blocks; an `async` or `blocking` task on tokio,
//!   started in that order.
//! * Commit hooks of a nested block (a savepoint) that was rolled back never run, whatever happens
//!   to the outer one.
//! * While a commit hook runs the connection is outside of any transaction. A hook may open its own
//!   `atomic!`.
//! * A hook that fails or panics changes nothing that was committed and does not stop the next one:
//!   it is reported in [`DeferredConnection::last_report`] or to the dispatcher's failure handler,
//!   and as a `tracing` event with the task's name and call site.
//! * A task that could not run (no runtime, a dispatcher that was shut down, a missing `#[state]`),
//!   or could not be stored, fails its transaction.
//! * In-process hooks are at most once: a process that dies between COMMIT and hook loses the hook.
//!   Durable tasks are rows of the transaction, which a worker runs at least once.
//!
//! What raw SQL can do to the first two is on [`DeferredConnection`].
//!
//! # Features
//! None is on by default.
//!
//! | feature | brings |
//! |---|---|
//! | `sqlite`, `postgres`, `mysql`, `r2d2` | Diesel's, passed on |
//! | `tokio` | `async` and `blocking` tasks, `#[state]`, `Dispatcher` |
//! | `async-sqlite`, `async-postgres`, `async-mysql` | `AsyncDeferredConnection` over diesel-async's connections, with `tokio` |
//! | `bb8`, `deadpool`, `mobc` | diesel-async's pools, passed on |
//! | `durable` | `#[deferred_task(durable)]`, `migrations` and what goes with them, on any connection |
//! | `worker` | `Worker`, with `async` and `durable` |
//! | `metrics` | counts and times, for a recorder of the crate `metrics` |
//! | `opentelemetry` | spans of transactions, tasks and attempts, which are one trace |
//! | `testing` | the test kit [`testing`], for `[dev-dependencies]` |

// Each item says on docs.rs which feature it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]
// What one feature has no use for another one has: the lints are for all of them together.
#![cfg_attr(
    not(all(
        feature = "worker",
        feature = "sqlite",
        feature = "postgres",
        feature = "mysql",
        feature = "async-sqlite",
        feature = "async-postgres",
        feature = "async-mysql",
        feature = "metrics",
        feature = "opentelemetry"
    )),
    allow(dead_code, unused_imports, unused_macros, unreachable_pub)
)]

mod atomic;
mod connection;
mod dispatch;
#[cfg(feature = "durable")]
mod durable;
#[cfg(not(feature = "durable"))]
#[path = "durable/off.rs"]
mod durable;
mod error;
#[cfg(test)]
mod events;
mod guarded;
#[cfg(doctest)]
mod guide;
mod hook;
#[cfg(feature = "testing")]
mod lost;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(not(feature = "metrics"))]
#[path = "metrics/off.rs"]
mod metrics;
mod panics;
mod pooled;
mod queue;
mod report;
mod sealed;
#[cfg(feature = "opentelemetry")]
mod spans;
#[cfg(not(feature = "opentelemetry"))]
#[path = "spans/off.rs"]
mod spans;
mod task;
#[cfg(feature = "testing")]
pub mod testing;

pub use atomic::{
    HasDeferrable, HasExclusive, HasImmediate, HasIsolation, HasReadOnly, IsolationLevel, RetryingTransaction,
    TransactionBuilder,
};
pub use connection::{AfterCommit, CommitProof, Deferrable, DeferredConnection, DeferredTransactionManager, Deferring};
#[cfg(feature = "async")]
pub use connection::{AsyncDeferrable, AsyncDeferredConnection, AsyncDeferredTransactionManager};
pub use diesel_deferred_macros::{atomic, deferred_task};
#[cfg(feature = "tokio")]
pub use dispatch::{AbandonedTask, Dispatcher, DispatcherBuilder, ShutdownReport};
pub use dispatch::{CannotRun, Missing};
#[cfg(feature = "worker")]
pub use durable::{
    AbandonedAttempt, FailedAttempt, Handlers, Handling, Job, Worker, WorkerBuilder, WorkerConnection, WorkerError,
    WorkerReport,
};
#[cfg(feature = "durable")]
pub use durable::{
    Attempt, Discard, Migrations, NewTask, Snooze, SqlTaskId, StoredCalls, TaskId, TaskStatement, cancel_task,
    migrations, never_notify, pause_queue, replay_dead, replay_task, resume_queue,
};
pub use error::{BoxError, CannotStore, CommitError};
#[cfg(feature = "metrics")]
pub use metrics::describe_metrics;
pub use report::{FailureCause, HookFailure, HookKind, PendingHook, Report};
pub use task::{Task, TaskOutput};

/// What the macros expand to. Not part of the public interface: its name changes with every
/// version.
#[doc(hidden)]
pub mod __private_0_1_0 {
    pub use crate::atomic::{AtomicTarget, BeginOptions, DefersTasks, DefersTasksAsync, IsolationLevel, Registrar};
    #[cfg(feature = "async")]
    pub use crate::atomic::{Attempts, BlockValue, Caught, Open};
    pub use crate::atomic::{caught, future, never_returned};
    #[cfg(feature = "durable")]
    pub use crate::durable::{
        CallOptions, Decoder, Defaults, Durable, Encoder, Registered, Running, Storable, Stored, TaskId, Undecodable,
        Unique,
    };
    pub use crate::task::expansion::*;
    pub use crate::task::statement::*;
    #[cfg(feature = "testing")]
    pub use crate::testing::expansion::*;
    #[cfg(feature = "testing")]
    pub use diesel_deferred_macros::__assertion as assertion;
    #[cfg(feature = "durable")]
    pub use {inventory, serde};
}
