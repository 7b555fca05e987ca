//! The INSERT for PostgreSQL: an array a column, so that its text is the same for any number of
//! rows.

use diesel::pg::Pg;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::sql_types::{Array, BigInt, Bool, Integer, Nullable, SmallInt, Text};

use super::{ON_CONFLICT, Outbox, SPILL_BEYOND, TaskTable, are_traced, blocked};
use crate::durable::id::{SqlTaskId, TaskId};
use crate::durable::row::{NewTask, Schedule};

/// The calls, a list for each column.
pub(crate) struct InsertArrays<'c> {
    ids: Vec<TaskId>,
    tasks: Vec<&'c str>,
    queues: Vec<&'c str>,
    payloads: Vec<&'c str>,
    priorities: Vec<i16>,
    max_attempts: Vec<i32>,
    delays_ms: Vec<Option<i64>>,
    times_ms: Vec<Option<i64>>,
    keys: Vec<Option<&'c str>>,
    unique_keys: Vec<Option<&'c str>>,
    replaces: Vec<bool>,
    blocked: Vec<bool>,
    traces: Traces<'c>,
    has_unique: bool,
}

/// What the calls are a part of.
enum Traces<'c> {
    None,
    /// Of the same, as those of one transaction mostly are.
    One(&'c str),
    Several(Vec<Option<&'c str>>),
}

impl<'c> Traces<'c> {
    fn of(calls: &'c [NewTask]) -> Self {
        let of = |call: &'c NewTask| call.origin.trace_parent();
        match calls.first().and_then(of) {
            Some(first) if calls.iter().all(|call| of(call) == Some(first)) => Self::One(first),
            None if !are_traced(calls) => Self::None,
            _ => Self::Several(calls.iter().map(of).collect()),
        }
    }
}

impl Outbox<Pg> for TaskTable {
    type Statement<'c> = InsertArrays<'c>;

    const NOTIFIES: bool = true;
    const CALLS_IN_ONE_STATEMENT: usize = SPILL_BEYOND;

    fn insert(calls: &[NewTask]) -> InsertArrays<'_> {
        InsertArrays {
            ids: calls.iter().map(|call| call.id).collect(),
            tasks: calls.iter().map(|call| call.task).collect(),
            queues: calls.iter().map(|call| &*call.queue).collect(),
            payloads: calls.iter().map(|call| call.payload.json()).collect(),
            priorities: calls.iter().map(|call| call.priority).collect(),
            max_attempts: calls.iter().map(|call| i32::from(call.max_attempts)).collect(),
            delays_ms: calls
                .iter()
                .map(|call| if let Schedule::AfterMs(ms) = call.schedule { Some(ms) } else { None })
                .collect(),
            times_ms: calls
                .iter()
                .map(|call| if let Schedule::AtMs(ms) = call.schedule { Some(ms) } else { None })
                .collect(),
            keys: calls.iter().map(|call| call.key.as_deref()).collect(),
            unique_keys: calls.iter().map(|call| call.unique_key.as_deref()).collect(),
            replaces: calls.iter().map(|call| call.replaces).collect(),
            blocked: blocked(calls),
            traces: Traces::of(calls),
            has_unique: calls.iter().any(|call| call.unique_key.is_some()),
        }
    }
}

impl QueryFragment<Pg> for InsertArrays<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "INSERT INTO deferred_tasks (id, task, queue, payload, priority, max_attempts, task_key, unique_key, replaces, \
             state, run_at_ms, enqueued_at_ms",
        );
        out.push_sql(if matches!(self.traces, Traces::None) { ")" } else { ", trace_parent)" });
        out.push_sql(
            " SELECT c.id, c.task, c.queue, c.payload, c.priority, c.max_attempts, c.task_key, c.unique_key, c.replaces, \
             CASE WHEN COALESCE(c.at_ms, now.ms + c.delay_ms) > now.ms THEN 'scheduled' WHEN c.blocked THEN 'blocked' \
             ELSE 'ready' END, \
             COALESCE(c.at_ms, now.ms + c.delay_ms, now.ms), now.ms",
        );
        match &self.traces {
            Traces::None => {}
            Traces::One(trace_parent) => {
                out.push_sql(", ");
                out.push_bind_param::<Text, str>(trace_parent)?;
                out.push_sql("::text");
            }
            Traces::Several(_) => out.push_sql(", c.trace_parent"),
        }
        out.push_sql(" FROM unnest(");
        out.push_bind_param::<Array<SqlTaskId>, _>(&self.ids)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.tasks)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.queues)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.payloads)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<SmallInt>, _>(&self.priorities)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Integer>, _>(&self.max_attempts)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<BigInt>>, _>(&self.delays_ms)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<BigInt>>, _>(&self.times_ms)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Text>>, _>(&self.keys)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Text>>, _>(&self.unique_keys)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Bool>, _>(&self.replaces)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Bool>, _>(&self.blocked)?;
        if let Traces::Several(trace_parents) = &self.traces {
            out.push_sql(", ");
            out.push_bind_param::<Array<Nullable<Text>>, _>(trace_parents)?;
        }
        out.push_sql(
            ") AS c(id, task, queue, payload, priority, max_attempts, delay_ms, at_ms, task_key, unique_key, replaces, blocked",
        );
        out.push_sql(if matches!(self.traces, Traces::Several(_)) { ", trace_parent)" } else { ")" });
        out.push_sql(" CROSS JOIN (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS ms) AS now");
        if self.has_unique {
            out.push_sql(ON_CONFLICT);
            out.push_sql(", overtaken = false WHERE excluded.replaces");
        }
        Ok(())
    }
}

impl QueryId for InsertArrays<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Conn> diesel::RunQueryDsl<Conn> for InsertArrays<'_> {}
