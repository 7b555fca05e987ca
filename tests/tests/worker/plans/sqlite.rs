//! SQLite's plans: none reads a whole table or index.

use std::sync::{Arc, Mutex};

use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel_async::AsyncConnection;
use diesel_deferred::Worker;
use diesel_deferred_tests::{AsyncSqliteConnection, Database, Scratch, Statements, record, record_async};

use super::{Others, have_called, operations, work};

#[derive(QueryableByName)]
struct Step {
    #[diesel(sql_type = Text)]
    detail: String,
}

/// What is wrong with the plan of this statement, if anything is.
fn fault(conn: &mut SqliteConnection, sql: &str) -> Option<String> {
    let plan: Vec<Step> = diesel::sql_query(format!("EXPLAIN QUERY PLAN {sql}"))
        .load(conn)
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    let plan: Vec<_> = plan.into_iter().map(|step| step.detail).collect();
    // The lists that a statement is given, or has made, are read from end to end.
    let ours = ["SCAN CONSTANT ROW", "SCAN k", "SCAN front"];
    let is_ours = |step: &&String| !ours.contains(&step.as_str());
    // A plan does not say how much it reads: of what holds a key only what is before a row may be read.
    let reads_all = |step: &String| {
        step.starts_with("SCAN ") || step.starts_with("USE TEMP B-TREE") || step.ends_with("_held_key (task_key=?)")
    };
    plan.iter().filter(is_ours).any(reads_all).then(|| format!("{sql}\n    {}", plan.join("\n    ")))
}

/// D16: "SQLite: no SCAN in any plan". A database that nobody has analyzed, then one that was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_d16_a_statement_reads_what_it_takes() {
    let db = &Scratch::<SqliteConnection>::with_tasks();
    let others = Others {
        count: 1_000,
        series: |count| {
            format!(
                "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {count}) SELECT n FROM s)"
            )
        },
        id: "randomblob(16)",
        now: "CAST(ROUND((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)",
        busy_key: "'busy-' || (n % 100)",
    };
    others.insert(db);
    let mut faults = Vec::new();
    let mut seen = Vec::new();
    for analyzed in [false, true] {
        if analyzed {
            db.run_sql("ANALYZE");
        }
        let cancelled = have_called(db);
        let mut conn = db.patient();
        let of_operations = record(&mut conn);
        for operation in operations(cancelled) {
            SqliteConnection::tell(&mut conn, operation).expect("done");
        }
        let (of_worker, url) = (Arc::new(Mutex::new(Vec::<Statements>::new())), db.url().to_owned());
        let sink = Arc::clone(&of_worker);
        let connect = move || {
            let (sink, url) = (Arc::clone(&sink), url.clone());
            async move {
                let mut conn = AsyncSqliteConnection::establish(&url).await?;
                sink.lock().expect("no panic").push(record_async(&mut conn));
                Ok(conn)
            }
        };
        work(db, Worker::<AsyncSqliteConnection>::builder_with(connect), analyzed).await;
        let of_worker = of_worker.lock().expect("no panic").iter().flat_map(Statements::take).collect::<Vec<_>>();
        let mut told: Vec<_> = of_operations.take().into_iter().chain(of_worker).collect();
        told.retain(|sql| ["SELECT", "UPDATE", "DELETE", "INSERT", "WITH"].iter().any(|word| sql.starts_with(word)));
        told.sort_unstable();
        told.dedup();
        let mut observer = db.observer();
        faults.extend(told.iter().filter_map(|sql| fault(&mut observer, sql)));
        seen.extend(told);
    }
    assert!(seen.len() > 30, "only {seen:#?}");
    assert!(faults.is_empty(), "{} of {} statements read too much:\n{}", faults.len(), seen.len(), faults.join("\n"));
}
