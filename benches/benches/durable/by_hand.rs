//! The same by hand, on the same table.

use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Text, Uuid as SqlUuid};
use diesel_deferred::TaskId;
use uuid::Uuid;

use crate::Progress;
use crate::schema::Schema;

/// As one would write it for one kind of task: what is the same for all of them is not sent.
pub fn insert_by_hand(tasks: i64) -> ByHand {
    const NOW: &str = "(SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS ms) AS now";
    const INTO: &str = "INSERT INTO deferred_tasks (id, task, queue, payload, priority, max_attempts, state, run_at_ms, enqueued_at_ms)";
    let payload = |number| format!("{{\"number\":{number}}}");
    let insert = ByHand::new(INTO);
    if tasks == 1 {
        let insert =
            insert.sql(" SELECT ").bind(Value::Id(new_id())).sql(", 'noop', 'bench', ").bind(Value::Text(payload(0)));
        return insert.sql(", 0, 20, 'ready', now.ms, now.ms FROM ").sql(NOW);
    }
    let insert = insert.sql(" SELECT c.id, 'noop', 'bench', c.payload, 0, 20, 'ready', now.ms, now.ms FROM unnest(");
    let insert = insert.bind(Value::Ids((0..tasks).map(|_| new_id()).collect())).sql(", ");
    insert.bind(Value::Texts((0..tasks).map(payload).collect())).sql(") AS c(id, payload) CROSS JOIN ").sql(NOW)
}

pub fn new_id() -> TaskId {
    Uuid::now_v7().into()
}

/// A statement with values, which is prepared once for each text. `sql_query` prepares its own each
/// time.
pub struct ByHand(Vec<Piece>);

enum Piece {
    Sql(&'static str),
    Bind(Value),
}

pub enum Value {
    Id(TaskId),
    Text(String),
    Number(i64),
    Ids(Vec<TaskId>),
    Texts(Vec<String>),
}

impl ByHand {
    pub fn new(sql: &'static str) -> Self {
        Self(vec![Piece::Sql(sql)])
    }

    pub fn sql(mut self, sql: &'static str) -> Self {
        self.0.push(Piece::Sql(sql));
        self
    }

    pub fn bind(mut self, value: Value) -> Self {
        self.0.push(Piece::Bind(value));
        self
    }
}

impl QueryFragment<Pg> for ByHand {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        for piece in &self.0 {
            match piece {
                Piece::Sql(sql) => out.push_sql(sql),
                Piece::Bind(Value::Id(id)) => out.push_bind_param::<SqlUuid, _>(id)?,
                Piece::Bind(Value::Text(text)) => out.push_bind_param::<Text, _>(text)?,
                Piece::Bind(Value::Number(number)) => out.push_bind_param::<BigInt, _>(number)?,
                Piece::Bind(Value::Ids(ids)) => out.push_bind_param::<Array<SqlUuid>, _>(ids)?,
                Piece::Bind(Value::Texts(texts)) => out.push_bind_param::<Array<Text>, _>(texts)?,
            }
        }
        Ok(())
    }
}

impl QueryId for ByHand {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for ByHand {
    type SqlType = (SqlUuid, Text);
}

impl<C> RunQueryDsl<C> for ByHand {}

/// A loop that claims and deletes so many at a time.
pub fn drain_by_hand(schema: &Schema, synchronous_commit: &str, at_a_time: usize, progress: &Progress) -> Duration {
    let start = Instant::now();
    let mut conn = schema.connect();
    conn.batch_execute(&format!("SET synchronous_commit = {synchronous_commit}")).expect("a setting");
    let worker = new_id();
    loop {
        let claim = ByHand::new("UPDATE deferred_tasks SET state = 'running', attempts = attempts + 1, worker = ")
            .bind(Value::Id(worker))
            .sql(
                ", lease_until_ms = (extract(epoch FROM clock_timestamp()) * 1000)::bigint + 30000 \
                 WHERE id = ANY(ARRAY(SELECT id FROM deferred_tasks WHERE state = 'ready' AND queue = ",
            )
            .bind(Value::Text("bench".to_owned()))
            .sql(" ORDER BY priority, run_at_ms, id LIMIT ")
            .bind(Value::Number(i64::try_from(at_a_time).expect("few")))
            .sql(" FOR UPDATE SKIP LOCKED)) RETURNING id, payload");
        let claimed: Vec<(TaskId, String)> = claim.load(&mut conn).expect("a claim");
        if claimed.is_empty() {
            return start.elapsed();
        }
        let ids = claimed.into_iter().map(|(id, payload)| {
            assert!(payload.starts_with('{'));
            progress.ran();
            id
        });
        let delete = ByHand::new("DELETE FROM deferred_tasks WHERE id = ANY(").bind(Value::Ids(ids.collect())).sql(")");
        delete.execute(&mut conn).expect("an end");
    }
}
