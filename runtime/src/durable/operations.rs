//! What is done with stored tasks and with queues by whoever looks after them: statements for any
//! connection, in a transaction or outside of one.
//!
//! Must not know: workers.

use diesel::backend::Backend;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::result::QueryResult;

use super::id::TaskId;
use super::sql::Sql;

/// A statement about stored tasks: run it with `.execute(conn)`, on an asynchronous connection with
/// `.execute(conn).await`.
#[derive(Debug, Clone)]
#[must_use = "a statement does nothing until it is executed"]
pub struct TaskStatement(Sql<'static>);

impl<DB> QueryFragment<DB> for TaskStatement
where
    DB: Backend,
    Sql<'static>: QueryFragment<DB>,
{
    fn walk_ast<'b>(&'b self, out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        self.0.walk_ast(out)
    }
}

impl QueryId for TaskStatement {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Conn> diesel::RunQueryDsl<Conn> for TaskStatement {}

/// Cancels a durable task. One that no worker has taken never runs. One that was taken is stopped
/// when its worker next extends its lease, within ten seconds by default, where it is an `async`
/// one or was not started yet; a plain `fn` that runs is not tried again. One that has ended stays
/// as it is.
///
/// In a transaction the row is locked until that ends: do not keep it open for long, because the
/// worker that runs the task waits for it when the task has ended.
///
/// It counts the tasks that it found: 0 or 1.
///
/// # Examples
/// ```
/// # #[cfg(feature = "sqlite")]
/// # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// use diesel::prelude::*;
/// use diesel_deferred::{DeferredConnection, atomic, cancel_task, deferred_task};
/// use diesel_migrations::MigrationHarness;
///
/// #[deferred_task(durable)]
/// fn remind(user_id: i32) {
///     println!("user {user_id}");
/// }
///
/// let conn = &mut DeferredConnection::<SqliteConnection>::establish(":memory:")?;
/// conn.run_pending_migrations(diesel_deferred::migrations())?;
/// let id = atomic!(conn, -> QueryResult<_>, { remind(7).after_commit(conn) })?;
/// assert_eq!(cancel_task(id).execute(conn)?, 1);
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
pub fn cancel_task(id: TaskId) -> TaskStatement {
    // MySQL makes one assignment after the other: what others look at goes last.
    let cancel = Sql::new("UPDATE deferred_tasks SET cancel_requested = (state = 'running'), ended_at_ms = CASE WHEN state = 'running' THEN NULL ELSE ")
        .now()
        .sql(
            " END, unique_key = NULL, freed_key = CASE WHEN state IN ('ready', 'blocked') OR (state = 'scheduled' AND attempts > 0) THEN task_key ELSE freed_key END, \
             state = CASE WHEN state = 'running' THEN state ELSE 'cancelled' END WHERE id = ",
        )
        .bind(id)
        .sql(" AND state IN ('ready', 'blocked', 'scheduled', 'unknown', 'running')");
    TaskStatement(cancel)
}

/// Has a dead letter, or a cancelled task, run again: now, with all of its attempts.
///
/// It counts the tasks that it found: 0 or 1.
///
/// # Examples
/// ```
/// # #[cfg(feature = "sqlite")]
/// # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// use diesel::prelude::*;
/// use diesel_deferred::{TaskId, replay_task};
/// # use diesel_migrations::MigrationHarness;
///
/// # let conn = &mut SqliteConnection::establish(":memory:")?;
/// # conn.run_pending_migrations(diesel_deferred::migrations())?;
/// # let dead_letter = "0192f0c1-2b5e-7c3a-9d4e-5f6071829304";
/// let id: TaskId = dead_letter.parse()?; // of `SELECT id, task, error FROM deferred_tasks WHERE state = 'dead'`
/// assert_eq!(replay_task(id).execute(conn)?, 0, "there is no such task");
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
pub fn replay_task(id: TaskId) -> TaskStatement {
    TaskStatement(replay().sql("id = ").bind(id).sql(" AND state IN ('dead', 'cancelled')"))
}

/// Has all dead letters of a task run again; it counts them.
///
/// # Examples
/// ```
/// # #[cfg(feature = "sqlite")]
/// # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// use diesel::prelude::*;
/// use diesel_deferred::replay_dead;
/// # use diesel_migrations::MigrationHarness;
///
/// # let conn = &mut SqliteConnection::establish(":memory:")?;
/// # conn.run_pending_migrations(diesel_deferred::migrations())?;
/// let replayed = replay_dead("my_service::orders::send_receipt").execute(conn)?;
/// assert_eq!(replayed, 0);
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
pub fn replay_dead(task: impl Into<String>) -> TaskStatement {
    TaskStatement(replay().sql("state = 'dead' AND task = ").bind(task.into()))
}

fn replay() -> Sql<'static> {
    Sql::new("UPDATE deferred_tasks SET state = CASE WHEN freed_key IS NULL THEN 'ready' ELSE 'scheduled' END, attempts = 0, snoozes = 0, unique_key = NULL, refusals = 0, refused_at_ms = NULL, \
         ended_at_ms = NULL, run_at_ms = ")
        .now()
        .sql(" WHERE ")
}

/// Has no worker take tasks of a queue until it is [resumed](resume_queue). What runs goes on.
///
/// A queue that is paused already stays so. The number of rows that the statement returns is 1 then
/// on MySQL and MariaDB, as if it had not been, and 0 on the others.
///
/// # Examples
/// ```
/// # #[cfg(feature = "sqlite")]
/// # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// use diesel::prelude::*;
/// use diesel_deferred::{pause_queue, resume_queue};
/// # use diesel_migrations::MigrationHarness;
///
/// # let conn = &mut SqliteConnection::establish(":memory:")?;
/// # conn.run_pending_migrations(diesel_deferred::migrations())?;
/// pause_queue("mail").execute(conn)?;
/// // … until the mail server is back …
/// resume_queue("mail").execute(conn)?;
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
pub fn pause_queue(queue: impl Into<String>) -> TaskStatement {
    let pause = Sql::new("INSERT INTO deferred_paused_queues (queue) VALUES (").bind(queue.into());
    TaskStatement(pause.sql(")").unless_there())
}

/// Has workers take tasks of a queue again.
pub fn resume_queue(queue: impl Into<String>) -> TaskStatement {
    TaskStatement(Sql::new("DELETE FROM deferred_paused_queues WHERE queue = ").bind(queue.into()))
}
