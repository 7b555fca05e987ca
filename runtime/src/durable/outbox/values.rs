//! The INSERT for databases without arrays: a list of values a row.

use super::{are_traced, blocked};
use crate::durable::row::{NewTask, Schedule};
use crate::durable::sql::Sql;

/// `INSERT … VALUES …`; `now` is the SQL of the time.
pub(super) fn insert<'c>(calls: &'c [NewTask], now: &'static str) -> Sql<'c> {
    let mut sql = Sql::new(
        "INSERT INTO deferred_tasks (id, task, queue, payload, priority, max_attempts, task_key, unique_key, replaces, \
         enqueued_at_ms, run_at_ms, state",
    );
    // That of one call, which most transactions have, is worth to be kept prepared.
    if calls.len() > 1 {
        sql = sql.varying();
    }
    let traced = are_traced(calls);
    sql.push_sql(if traced { ", trace_parent) VALUES " } else { ") VALUES " });
    let blocked = blocked(calls);
    for (at, (call, blocked)) in calls.iter().zip(blocked).enumerate() {
        let ready = if blocked { ", 'blocked'" } else { ", 'ready'" };
        sql.push_sql(if at == 0 { "(" } else { ", (" });
        sql.push_bind(call.id);
        for text in [call.task, &*call.queue, call.payload.json()] {
            sql.push_sql(", ");
            sql.push_bind(text);
        }
        sql.push_sql(", ");
        sql.push_bind(call.priority);
        sql.push_sql(", ");
        sql.push_bind(i32::from(call.max_attempts));
        for key in [&call.key, &call.unique_key] {
            sql.push_sql(", ");
            sql.push_bind(key.as_deref());
        }
        sql.push_sql(", ");
        sql.push_bind(call.replaces);
        sql.push_sql(", ");
        sql.push_sql(now);
        sql.push_sql(", ");
        match call.schedule {
            Schedule::Now => {
                sql.push_sql(now);
                sql.push_sql(ready);
            }
            Schedule::AfterMs(ms) => {
                sql.push_sql(now);
                sql.push_sql(" + ");
                sql.push_bind(ms);
                sql.push_sql(if ms > 0 { ", 'scheduled'" } else { ready });
            }
            Schedule::AtMs(ms) => {
                sql.push_bind(ms);
                sql.push_sql(", CASE WHEN ");
                sql.push_bind(ms);
                sql.push_sql(" > ");
                sql.push_sql(now);
                sql.push_sql(" THEN 'scheduled' ELSE 'ready' END");
            }
        }
        if traced {
            sql.push_sql(", ");
            sql.push_bind(call.origin.trace_parent());
        }
        sql.push_sql(")");
    }
    sql
}
