//! The table by a connection of the application's own type, which defers tasks: by the one below
//! it. An application that has an alias for its connections writes `Worker::<Conn>`.
//!
//! Must not know: the SQL of any database.

use std::sync::Arc;
use std::time::Duration;

use diesel::result::QueryResult;

use super::floor::Start;
use super::statements::{Exchange, Look, Mine, Past, RescuedRow, Since};
use super::table::{Statements, WorkerConnection};
use super::{Claim, Hint, Lease, Settlement};
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

    async fn prepare(conn: &mut AsyncDeferredConnection<C>, patience: Duration) -> QueryResult<()> {
        C::Statements::prepare(conn.inner_mut(), patience).await
    }

    async fn listen(conn: &mut AsyncDeferredConnection<C>) -> QueryResult<()> {
        C::Statements::listen(conn.inner_mut()).await
    }

    async fn exchange(
        conn: &mut AsyncDeferredConnection<C>,
        lease: &Lease,
        settled: &[Settlement],
        claims: &[(Claim, Option<Start>)],
        careful: bool,
    ) -> QueryResult<Exchange> {
        C::Statements::exchange(conn.inner_mut(), lease, settled, claims, careful).await
    }

    async fn mine(conn: &mut AsyncDeferredConnection<C>, lease: &Lease) -> QueryResult<Vec<Mine>> {
        C::Statements::mine(conn.inner_mut(), lease).await
    }

    async fn renew(
        conn: &mut AsyncDeferredConnection<C>,
        lease: &Lease,
        tasks: &[TaskId],
    ) -> QueryResult<Vec<(TaskId, bool)>> {
        C::Statements::renew(conn.inner_mut(), lease, tasks).await
    }

    async fn look(conn: &mut AsyncDeferredConnection<C>, from: &Since) -> QueryResult<Look> {
        C::Statements::look(conn.inner_mut(), from).await
    }

    async fn has_due(conn: &mut AsyncDeferredConnection<C>, queues: &[Arc<str>]) -> QueryResult<bool> {
        C::Statements::has_due(conn.inner_mut(), queues).await
    }

    async fn look_back(conn: &mut AsyncDeferredConnection<C>) -> QueryResult<Past> {
        C::Statements::look_back(conn.inner_mut()).await
    }

    async fn promote(conn: &mut AsyncDeferredConnection<C>) -> QueryResult<usize> {
        C::Statements::promote(conn.inner_mut()).await
    }

    async fn rescue(conn: &mut AsyncDeferredConnection<C>) -> QueryResult<Vec<RescuedRow>> {
        C::Statements::rescue(conn.inner_mut()).await
    }

    async fn prune(conn: &mut AsyncDeferredConnection<C>, kept: Duration) -> QueryResult<usize> {
        C::Statements::prune(conn.inner_mut(), kept).await
    }

    async fn start_anew(conn: &mut AsyncDeferredConnection<C>, lease: &Lease) -> QueryResult<usize> {
        C::Statements::start_anew(conn.inner_mut(), lease).await
    }

    async fn give_up_refused(conn: &mut AsyncDeferredConnection<C>, after: Duration) -> QueryResult<Vec<RescuedRow>> {
        C::Statements::give_up_refused(conn.inner_mut(), after).await
    }

    async fn adopt(conn: &mut AsyncDeferredConnection<C>, task: &str) -> QueryResult<usize> {
        C::Statements::adopt(conn.inner_mut(), task).await
    }

    async fn free_keys(conn: &mut AsyncDeferredConnection<C>, rows: &[(TaskId, String)]) -> QueryResult<()> {
        C::Statements::free_keys(conn.inner_mut(), rows).await
    }

    async fn next_unknown(conn: &mut AsyncDeferredConnection<C>, behind: &str) -> QueryResult<Option<(String, bool)>> {
        C::Statements::next_unknown(conn.inner_mut(), behind).await
    }

    async fn freed(conn: &mut AsyncDeferredConnection<C>) -> QueryResult<Vec<(TaskId, String)>> {
        C::Statements::freed(conn.inner_mut()).await
    }

    async fn hinted(conn: &mut AsyncDeferredConnection<C>) -> Hint {
        C::Statements::hinted(conn.inner_mut()).await
    }
}
