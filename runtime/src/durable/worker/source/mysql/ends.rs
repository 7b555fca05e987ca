//! How attempts ended, and who is next of their keys.
//!
//! Must not know: why an attempt ended as it did.

use std::collections::HashSet;

use diesel::result::{Error, QueryResult};
use diesel_async::{AsyncConnection, AsyncMysqlConnection, RunQueryDsl};

use super::keys::{HandedOver, hand_over};
use super::rows::{DELETE, lock};
use crate::durable::clock::MYSQL_NOW_MS as NOW;
use crate::durable::id::{SqlTaskId, TaskId};
use crate::durable::sql::Sql;
use crate::durable::worker::source::floor::Start;
use crate::durable::worker::source::statements::{EndWords, LISTED, keys_of, settle};
use crate::durable::worker::source::{Claim, Lease, Settlement};

/// Tells how attempts ended, and hands over to these claims who is next of their keys. Returns what
/// they took, and the ends that were not told, because somebody has locked their rows, or the next row
/// of their key.
pub(super) async fn tell(
    conn: &mut AsyncMysqlConnection,
    lease: &Lease,
    settled: &[Settlement],
    claims: &[(Claim, Option<Start>)],
) -> QueryResult<(HandedOver, Vec<TaskId>)> {
    let mut untold = Vec::new();
    let mut left = settled.to_vec();
    // A few times, then for the next round.
    for _ in 0..4 {
        if left.is_empty() {
            break;
        }
        let (who, ends, mut stuck) = (*lease, left.clone(), Vec::new());
        let told = conn
            .transaction::<_, Error, _>(async |conn| {
                // Whose rows are locked is not waited for: InnoDB would end one of two that wait for
                // each other.
                let ids: Vec<_> = ends.iter().map(|settlement| settlement.id).collect();
                let free: HashSet<_> = lock(conn, &ids).await?.into_iter().collect();
                let (ends, locked): (Vec<_>, Vec<_>) = ends.into_iter().partition(|end| free.contains(&end.id));
                for statement in settle(&who, &ends, &WORDS) {
                    statement.execute(conn).await?;
                }
                let mut next = hand_over(conn, &who, &keys_of(&ends), claims).await?;
                stuck = std::mem::take(&mut next.stuck);
                if stuck.is_empty() { Ok((next, locked)) } else { Err(Error::RollbackTransaction) }
            })
            .await;
        match told {
            Ok((next, locked)) => {
                // One that is not there any more is nobody's to be told of.
                let locked: Vec<_> = locked.iter().map(|settlement| settlement.id).collect();
                untold.extend(still_there(conn, lease, &locked).await?);
                return Ok((next, untold));
            }
            Err(Error::RollbackTransaction) => {}
            Err(error) => return Err(error),
        }
        let is_stuck = |settlement: &Settlement| settlement.key.as_ref().is_some_and(|key| stuck.contains(key));
        untold.extend(left.iter().filter(|settlement| is_stuck(settlement)).map(|settlement| settlement.id));
        left.retain(|settlement| !is_stuck(settlement));
    }
    untold.extend(left.iter().map(|settlement| settlement.id));
    Ok((HandedOver::default(), untold))
}

/// Which of these are still ours.
async fn still_there(conn: &mut AsyncMysqlConnection, lease: &Lease, tasks: &[TaskId]) -> QueryResult<Vec<TaskId>> {
    let mut ours = Vec::new();
    for tasks in tasks.chunks(LISTED) {
        let select = Sql::<(SqlTaskId,)>::new("SELECT id FROM deferred_tasks WHERE state = 'running' AND worker = ")
            .bind(lease.worker)
            .sql(" AND id IN (")
            .list(tasks.iter().copied())
            .sql(")");
        ours.extend(select.load::<(TaskId,)>(conn).await?.into_iter().map(|row| row.0));
    }
    Ok(ours)
}

/// Where another one has come that is the same, this row is a second one from now on.
const WORDS: EndWords = EndWords { now: NOW, delete: DELETE, forget_unique: FORGET_UNIQUE };

const FORGET_UNIQUE: &str = "UPDATE deferred_tasks AS t JOIN deferred_tasks AS o ON o.task = t.task \
     AND o.waiting_unique_key = t.unique_key SET t.unique_key = NULL WHERE t.id = ";
