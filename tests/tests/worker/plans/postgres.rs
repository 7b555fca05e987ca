//! The pages that PostgreSQL reads, and the rows that it looks at in vain, beside a hundred thousand
//! rows of each kind.

use std::pin::pin;
use std::sync::{Arc, Mutex};

use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use diesel_deferred::Worker;
use diesel_deferred_tests::Scratch;
use futures_util::{StreamExt, stream};
use serde_json::Value;
use tokio_postgres::{AsyncMessage, NoTls};

use super::{COUNTED, Others, counts, have_called, operations, work};

/// The plans of all statements of a connection, as they were executed.
#[derive(Clone, Default)]
struct Plans(Arc<Mutex<Vec<Value>>>);

impl Plans {
    /// A connection whose statements are noted here.
    async fn connect(&self, url: &str) -> AsyncPgConnection {
        let (client, mut connection) = tokio_postgres::connect(url, NoTls).await.expect("a connection");
        let plans = self.clone();
        tokio::spawn(async move {
            let mut messages = pin!(stream::poll_fn(move |context| connection.poll_message(context)));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notice(notice) = message
                    && let Some((_, plan)) = notice.message().split_once("plan:\n")
                {
                    let plan = serde_json::from_str(plan).expect("a plan");
                    plans.0.lock().expect("no panic").push(plan);
                }
            }
        });
        let mut conn = AsyncPgConnection::try_from(client).await.expect("a connection");
        conn.batch_execute(
            "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_analyze = on; \
             SET auto_explain.log_buffers = on; SET auto_explain.log_timing = off; SET auto_explain.log_format = json; \
             SET auto_explain.log_level = notice; \
             SET client_min_messages = notice",
        )
        .await
        .expect("plans are told");
        conn
    }

    fn take(&self) -> Vec<Value> {
        std::mem::take(&mut *self.0.lock().expect("no panic"))
    }
}

/// How the table is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Small,
    Large,
    Analyzed,
}

/// All nodes of a plan.
fn nodes(plan: &Value) -> Vec<&Value> {
    let below = plan["Plans"].as_array().into_iter().flatten().flat_map(nodes);
    std::iter::once(plan).chain(below).collect()
}

fn number(node: &Value, field: &str) -> u64 {
    node[field].as_f64().unwrap_or(0.0) as u64
}

/// How many rows it changed.
fn changed(plan: &Value) -> u64 {
    let changes = nodes(plan).into_iter().filter(|node| node["Node Type"] == "ModifyTable");
    let rows = changes.flat_map(|change| change["Plans"].as_array().into_iter().flatten());
    rows.filter(|rows| rows["Parent Relationship"] == "Outer").map(|rows| number(rows, "Actual Rows")).sum()
}

/// How many rows it locked and left as they are: a claim, those that wait for others of their key,
/// which the next statement moves out of its way.
fn left(plan: &Value, changed: u64) -> u64 {
    let locks = nodes(plan).into_iter().filter(|node| node["Node Type"] == "LockRows");
    locks.map(|lock| number(lock, "Actual Rows")).sum::<u64>().saturating_sub(changed)
}

/// What is wrong with it, if anything is.
fn fault(told: &Value) -> Option<String> {
    let plan = &told["Plan"];
    // What others run with longer leases than the worker's own is looked at in its first minute: the
    // clock may have gone back before.
    if told["Query Text"].as_str().is_some_and(|text| text.contains("lease_until_ms > started_at_ms")) {
        return None;
    }
    let pages = number(plan, "Shared Hit Blocks") + number(plan, "Shared Read Blocks");
    let changed = changed(plan);
    if told["Query Text"].as_str().is_some_and(counts) {
        let limits: Vec<_> = nodes(plan).into_iter().filter(|node| node["Node Type"] == "Limit").collect();
        let counted: Vec<_> = limits.into_iter().map(|limit| number(limit, "Actual Rows")).collect();
        // Of a queue each, and a page of the table for each row at most, which says whether it is there.
        let is_bounded = counted.iter().all(|rows| *rows <= COUNTED) && pages <= 100 + counted.iter().sum::<u64>();
        return (!is_bounded).then(|| format!("{pages} pages for {counted:?} rows: {}\n{plan:#}", told["Query Text"]));
    }
    let filtered = |node: &&Value| {
        number(node, "Rows Removed by Filter")
            + number(node, "Rows Removed by Join Filter")
            + number(node, "Rows Removed by Index Recheck")
            >= 1_000
    };
    // Of each row the way there by an index; and of one that is changed, that of its other indexes. A
    // page of an index that is full is tidied up first, or split: that reads the rows it points at.
    let returned = number(plan, "Actual Rows");
    let full_pages = if changed > 0 { 40 } else { 0 };
    // Entries of rows that are gone stay while anybody on the server has an old transaction open, as other
    // tests do: some of them.
    let fetched = nodes(plan).into_iter().map(|node| number(node, "Heap Fetches")).sum::<u64>();
    let gone = fetched.saturating_sub(returned).min(20);
    if pages <= 20 + gone + 15 * changed + full_pages + 5 * (left(plan, changed) + returned.max(changed))
        && !nodes(plan).iter().any(filtered)
    {
        return None;
    }
    Some(format!("{pages} pages for {changed} rows: {}\n{plan:#}", told["Query Text"]))
}

/// What it reads from end to end, although no limit is set: cheap while there is little, and a plan
/// that is made then is kept.
fn reads_all(told: &Value) -> Option<String> {
    fn scans<'p>(node: &'p Value, limited: bool, found: &mut Vec<&'p Value>) {
        let kind = node["Node Type"].as_str().unwrap_or_default();
        let is_scan = kind == "Seq Scan" || kind.starts_with("Index") || kind.starts_with("Bitmap Index");
        if is_scan && !limited && node["Index Cond"].is_null() {
            found.push(node);
        }
        for below in node["Plans"].as_array().into_iter().flatten() {
            // Of a subquery of its own.
            let limited = kind == "Limit" || (limited && below["Parent Relationship"] == "Outer");
            scans(below, limited, found);
        }
    }
    let mut found = Vec::new();
    scans(&told["Plan"], false, &mut found);
    // Of queues there are few.
    found.retain(|scan| scan["Relation Name"].as_str().is_none_or(|name| name == "deferred_tasks"));
    let found: Vec<_> = found.into_iter().map(|scan| &scan["Index Name"]).collect();
    (!found.is_empty()).then(|| format!("reads all of {found:?}: {}\n{:#}", told["Query Text"], told["Plan"]))
}

/// D16: "what a worker's statement reads is bounded by what it takes or changes, whatever else is in
/// the table". A small table, then a large one that nobody has analyzed, then one that was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d16_a_statement_reads_what_it_takes() {
    let db = &Scratch::<PgConnection>::with_tasks();
    db.run_sql("ALTER TABLE deferred_tasks SET (autovacuum_enabled = off)");
    let others = Others {
        count: 100_000,
        series: |count| format!("generate_series(1, {count}) AS s(n)"),
        id: "gen_random_uuid()",
        now: "(extract(epoch FROM now()) * 1000)::bigint",
        busy_key: "'busy-' || n % 100",
    };
    let mut faults = Vec::new();
    let mut seen = 0;
    for stage in [Stage::Small, Stage::Large, Stage::Analyzed] {
        match stage {
            Stage::Small => Others { count: 10, ..others }.insert(db),
            Stage::Large => {
                db.run_sql("TRUNCATE deferred_tasks, deferred_paused_queues");
                others.insert(db);
            }
            Stage::Analyzed => {}
        }
        if stage != Stage::Large {
            db.run_sql("ANALYZE deferred_tasks");
        }
        let plans = Plans::default();
        let (of_worker, url) = (plans.clone(), db.url().to_owned());
        let connect = move || {
            let (plans, url) = (of_worker.clone(), url.clone());
            async move { Ok(plans.connect(&url).await) }
        };
        let cancelled = have_called(db);
        let conn = &mut plans.connect(db.url()).await;
        for operation in operations(cancelled) {
            operation.execute(conn).await.expect("done");
        }
        // With a history, and without one.
        work(db, Worker::<AsyncPgConnection>::builder_with(connect), stage == Stage::Analyzed).await;
        let told = plans.take();
        seen += told.len();
        faults.extend(told.iter().filter_map(if stage == Stage::Small { reads_all } else { fault }));
        db.run_sql("DELETE FROM deferred_tasks WHERE task = 'worker::support::fail'");
    }
    assert!(seen > 50, "only {seen} plans");
    assert!(faults.is_empty(), "{} of {seen} statements read too much:\n{}", faults.len(), faults.join("\n"));
}
