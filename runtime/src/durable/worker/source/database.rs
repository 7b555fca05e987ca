//! What a database must be able to do for a worker, and within which time.
//!
//! Must not know: the SQL of any database, and what a source does with it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use diesel::ConnectionResult;
use diesel::result::QueryResult;
use diesel_async::{AsyncConnection, SimpleAsyncConnection};

use super::floor::Start;
use super::statements::{Ended, Exchange, Look, Manner, Mine, Past, RescuedRow, Since, Unread};
use super::{Claim, Hint, Lease, Settlement, Unknown, Waiting};
use crate::durable::id::TaskId;

/// A connection that a worker can take tasks by: diesel-async's `AsyncPgConnection`,
/// `AsyncMysqlConnection`, and `SyncConnectionWrapper<SqliteConnection>`, and an
/// [`AsyncDeferredConnection`](crate::AsyncDeferredConnection) around one of these.
#[diagnostic::on_unimplemented(
    message = "a worker cannot take tasks by a `{Self}`",
    label = "expected one of diesel-async's own connections",
    note = "write `AsyncPgConnection`, `AsyncMysqlConnection` or `SyncConnectionWrapper<SqliteConnection>`, and turn on the feature \
            `async-postgres`, `async-mysql` or `async-sqlite` of diesel-deferred"
)]
pub trait WorkerConnection: AsyncConnection + 'static {
    /// Not methods of the connection itself: their names might meet those of a user's traits.
    #[doc(hidden)]
    type Statements: Statements<Self>;
}

/// What is done with the table by a connection of the type `C`.
#[allow(private_interfaces, private_bounds, reason = "nobody can name the trait")]
pub trait Statements<C: AsyncConnection> {
    /// Whether the database has roles, which may lack rights.
    const HAS_ROLES: bool = true;

    /// What they are sent by.
    type Session: SimpleAsyncConnection + Send;

    /// Opens a connection.
    fn establish(url: &str) -> impl Future<Output = ConnectionResult<C>> + Send {
        C::establish(url)
    }

    /// Makes a new one ready for a worker.
    fn open(conn: C, opening: &Opening) -> impl Future<Output = QueryResult<Self::Session>> + Send;

    /// Whether each transaction there may run in another session of the database's.
    fn has_pooler(conn: &Self::Session) -> bool {
        let _ = conn;
        false
    }

    /// See [`Source::exchange`].
    fn exchange(
        conn: &mut Self::Session,
        lease: &Lease,
        settled: &[Settlement],
        claims: &[(Claim, Option<Start>)],
        manner: Manner,
    ) -> impl Future<Output = QueryResult<Exchange>> + Send;

    /// What runs here by the table.
    fn mine(conn: &mut Self::Session, lease: &Lease) -> impl Future<Output = QueryResult<Vec<Mine>>> + Send;

    /// See [`Source::park`].
    fn park(conn: &mut Self::Session, unknown: &Unknown) -> impl Future<Output = QueryResult<usize>> + Send;

    /// See [`Source::renew`].
    fn renew(
        conn: &mut Self::Session,
        lease: &Lease,
        tasks: &[TaskId],
    ) -> impl Future<Output = QueryResult<Vec<(TaskId, bool)>>> + Send;

    /// What there is from there on, by one statement.
    fn look(conn: &mut Self::Session, from: &Since) -> impl Future<Output = QueryResult<Look>> + Send;

    /// See [`Source::has_due`].
    fn has_due(conn: &mut Self::Session, queues: &[Arc<str>]) -> impl Future<Output = QueryResult<bool>> + Send;

    /// See [`Source::waiting`].
    fn waiting(conn: &mut Self::Session, queues: &[Arc<str>])
    -> impl Future<Output = QueryResult<Vec<Waiting>>> + Send;

    /// What there is that is in no hurry: what is kept no longer, and what no program could read.
    fn look_back(conn: &mut Self::Session) -> impl Future<Output = QueryResult<Past>> + Send;

    /// Scheduled tasks that are due become ready; says how many.
    fn promote(conn: &mut Self::Session) -> impl Future<Output = QueryResult<usize>> + Send;

    /// Tasks whose lease has ended go back, or are given up; says which.
    fn rescue(conn: &mut Self::Session) -> impl Future<Output = QueryResult<Vec<RescuedRow>>> + Send;

    /// Deletes what ended so long ago; says how many.
    fn prune(conn: &mut Self::Session, ended: Ended, kept: Duration)
    -> impl Future<Output = QueryResult<usize>> + Send;

    /// What runs by the table, and started in the time to come, is leased from now on; says how many.
    fn start_anew(conn: &mut Self::Session, lease: &Lease) -> impl Future<Output = QueryResult<usize>> + Send;

    /// Those that no program could read for so long are given up; says which.
    fn give_up_refused(
        conn: &mut Self::Session,
        after: Duration,
    ) -> impl Future<Output = QueryResult<Vec<RescuedRow>>> + Send;

    /// What no program could read so far, of this task, becomes ready; says how many.
    fn adopt(conn: &mut Self::Session, task: &str, unread: Unread) -> impl Future<Output = QueryResult<usize>> + Send;

    /// Looks who waits behind the keys that these rows left; says of how many rows that is done.
    fn free_keys(
        conn: &mut Self::Session,
        rows: &[(TaskId, String)],
    ) -> impl Future<Output = QueryResult<usize>> + Send;

    /// The next task behind this one of which there are rows that no program could read, and
    /// whether they are offered again.
    fn next_unknown(
        conn: &mut Self::Session,
        behind: &str,
    ) -> impl Future<Output = QueryResult<Option<(String, bool)>>> + Send;

    /// Rows that left a key.
    fn freed(conn: &mut Self::Session) -> impl Future<Output = QueryResult<Vec<(TaskId, String)>>> + Send;

    /// See [`Source::hinted`].
    fn hinted(conn: &mut Self::Session) -> impl Future<Output = Hint> + Send {
        let _ = conn;
        std::future::pending()
    }
}

/// How a connection is made ready for a worker.
#[derive(Debug)]
pub struct Opening {
    /// How long the worker waits for an answer. The server gives up before that.
    pub(crate) patience: Duration,
    /// Whether it is to be given hints, where the database has any.
    pub(crate) listens: bool,
    /// Whether there is a pooler in between; `None`: that is to be found out.
    pub(crate) pooler: Option<bool>,
}

/// How long a statement may take. What takes longer has gone wrong, although nobody says so: a
/// connection that hangs. It is given up early enough for leases to be extended by another one:
/// they are extended when a third is over, and that may be what hangs.
pub(super) fn patience(lease: Duration) -> Duration {
    (lease / 3).max(Duration::from_secs(5))
}

/// How long one statement may take before the server gives it up: less than the worker's patience,
/// of which some is over when it is sent.
pub(super) fn statement_limit(patience: Duration) -> Duration {
    patience * 3 / 5
}

/// How long after the beginning of an exchange a claim may begin, so that the server gives it up
/// before the worker does.
pub(super) fn in_time(lease: Duration) -> Duration {
    patience(lease) / 5
}
