//! Durable tasks: a call that becomes a row of the table `deferred_tasks` in the transaction that
//! it was made in, and the worker that runs what such rows say.
//!
//! Must not know: how a transaction ends (`connection` asks for the rows to be written, just before
//! COMMIT), or how a task captures its arguments (the macros).

mod call;
mod clock;
mod dialect;
mod id;
mod json;
mod migrations;
mod notify;
mod operations;
mod outbox;
mod payload;
mod registry;
mod row;
mod running;
mod sql;
mod wake;
#[cfg(feature = "worker")]
mod worker;

#[allow(unreachable_pub, reason = "named by the macros' expansions, and in hidden methods of public traits")]
pub use self::call::{CallOptions, Defaults, Durable, Stored, Unique};
#[cfg(feature = "testing")]
pub(crate) use self::dialect::Dialect;
pub use self::id::{SqlTaskId, TaskId};
pub use self::migrations::{Migrations, migrations};
pub use self::notify::never_notify;
pub(crate) use self::notify::{claim_notification, give_notification_back, notification_failed};
pub use self::operations::{TaskStatement, cancel_task, pause_queue, replay_dead, replay_task, resume_queue};
pub use self::outbox::StoredCalls;
pub(crate) use self::outbox::{Outbox, SPILL_BEYOND, SPILL_BEYOND_BYTES, TABLE, TaskTable, is_due, no_outbox};
#[allow(unreachable_pub, reason = "named by the macros' expansions")]
pub use self::payload::{Decoder, Encoder, Storable, Undecodable};
#[allow(unreachable_pub, reason = "named by the macros' expansions")]
pub use self::registry::Registered;
#[cfg(feature = "testing")]
pub(crate) use self::registry::Registry;
pub use self::row::NewTask;
#[cfg(feature = "testing")]
pub(crate) use self::row::Schedule;
#[allow(unreachable_pub, reason = "named by the macros' expansions")]
pub use self::running::Running;
pub use self::running::{Attempt, Discard, Snooze};
#[cfg(feature = "testing")]
pub(crate) use self::sql::Sql;
pub(crate) use self::wake::wake_workers;
#[cfg(feature = "worker")]
pub use self::worker::{
    AbandonedAttempt, FailedAttempt, Handlers, Handling, Job, Worker, WorkerBuilder, WorkerConnection, WorkerError,
    WorkerReport,
};
#[cfg(feature = "testing")]
pub(crate) use self::worker::{Lease, Outcome, Settlement, by_hand, find, run};
