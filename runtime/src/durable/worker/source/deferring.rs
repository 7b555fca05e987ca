//! The table by a connection of the application's own type, which defers tasks: by the one below
//! it. An application that has an alias for its connections writes `Worker::<Conn>`.
//!
//! Must not know: the SQL of any database.

use std::sync::Arc;
use std::time::Duration;

use diesel::result::{ConnectionResult, QueryResult};

use super::database::{Opening, Statements, WorkerConnection};
use super::floor::Start;
use super::statements::{Ended, Exchange, Look, Manner, Mine, Past, RescuedRow, Since, Unread};
use super::{Claim, Hint, Lease, Settlement, Unknown, Waiting};
use crate::connection::{AsyncDeferrable, AsyncDeferredConnection};
use crate::durable::id::TaskId;

/// By the connection below.
#[derive(Debug)]
pub struct Below;

#[diagnostic::do_not_recommend]
impl<C: WorkerConnection + AsyncDeferrable> WorkerConnection for AsyncDeferredConnection<C> {
    type Statements = Below;
}

#[allow(private_interfaces, reason = "nobody can name the trait")]
impl<C: WorkerConnection + AsyncDeferrable> Statements<AsyncDeferredConnection<C>> for Below {
    const HAS_ROLES: bool = C::Statements::HAS_ROLES;

    type Session = <C::Statements as Statements<C>>::Session;

    async fn establish(url: &str) -> ConnectionResult<AsyncDeferredConnection<C>> {
        C::Statements::establish(url).await.map(AsyncDeferredConnection::new)
    }

    async fn open(conn: AsyncDeferredConnection<C>, opening: &Opening) -> QueryResult<Self::Session> {
        C::Statements::open(conn.into_inner(), opening).await
    }

    fn has_pooler(conn: &Self::Session) -> bool {
        C::Statements::has_pooler(conn)
    }

    async fn exchange(
        conn: &mut Self::Session,
        lease: &Lease,
        settled: &[Settlement],
        claims: &[(Claim, Option<Start>)],
        manner: Manner,
    ) -> QueryResult<Exchange> {
        C::Statements::exchange(conn, lease, settled, claims, manner).await
    }

    async fn mine(conn: &mut Self::Session, lease: &Lease) -> QueryResult<Vec<Mine>> {
        C::Statements::mine(conn, lease).await
    }

    async fn park(conn: &mut Self::Session, unknown: &Unknown) -> QueryResult<usize> {
        C::Statements::park(conn, unknown).await
    }

    async fn renew(conn: &mut Self::Session, lease: &Lease, tasks: &[TaskId]) -> QueryResult<Vec<(TaskId, bool)>> {
        C::Statements::renew(conn, lease, tasks).await
    }

    async fn look(conn: &mut Self::Session, from: &Since) -> QueryResult<Look> {
        C::Statements::look(conn, from).await
    }

    async fn has_due(conn: &mut Self::Session, queues: &[Arc<str>]) -> QueryResult<bool> {
        C::Statements::has_due(conn, queues).await
    }

    async fn waiting(conn: &mut Self::Session, queues: &[Arc<str>]) -> QueryResult<Vec<Waiting>> {
        C::Statements::waiting(conn, queues).await
    }

    async fn look_back(conn: &mut Self::Session) -> QueryResult<Past> {
        C::Statements::look_back(conn).await
    }

    async fn promote(conn: &mut Self::Session) -> QueryResult<usize> {
        C::Statements::promote(conn).await
    }

    async fn rescue(conn: &mut Self::Session) -> QueryResult<Vec<RescuedRow>> {
        C::Statements::rescue(conn).await
    }

    async fn prune(conn: &mut Self::Session, ended: Ended, kept: Duration) -> QueryResult<usize> {
        C::Statements::prune(conn, ended, kept).await
    }

    async fn start_anew(conn: &mut Self::Session, lease: &Lease) -> QueryResult<usize> {
        C::Statements::start_anew(conn, lease).await
    }

    async fn give_up_refused(conn: &mut Self::Session, after: Duration) -> QueryResult<Vec<RescuedRow>> {
        C::Statements::give_up_refused(conn, after).await
    }

    async fn adopt(conn: &mut Self::Session, task: &str, unread: Unread) -> QueryResult<usize> {
        C::Statements::adopt(conn, task, unread).await
    }

    async fn free_keys(conn: &mut Self::Session, rows: &[(TaskId, String)]) -> QueryResult<usize> {
        C::Statements::free_keys(conn, rows).await
    }

    async fn next_unknown(conn: &mut Self::Session, behind: &str) -> QueryResult<Option<(String, bool)>> {
        C::Statements::next_unknown(conn, behind).await
    }

    async fn freed(conn: &mut Self::Session) -> QueryResult<Vec<(TaskId, String)>> {
        C::Statements::freed(conn).await
    }

    async fn hinted(conn: &mut Self::Session) -> Hint {
        C::Statements::hinted(conn).await
    }
}
