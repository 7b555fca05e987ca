//! Waking a worker, and doing nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use diesel::connection::{InstrumentationEvent, SimpleConnection};
use diesel::prelude::*;
use diesel_async::{AsyncConnection, AsyncPgConnection};
use diesel_deferred::{DeferredConnection, Worker, atomic};
use tokio::sync::mpsc;

use crate::by_hand::{ByHand, Value, new_id};
use crate::figures::print_times;
use crate::schema::{Schema, Working};
use crate::{CONCURRENCY, Progress, arrive};

/// From the end of COMMIT to a task's first line, where the worker is idle: in the process of the
/// worker, and in another one.
pub async fn wake(schema: &Schema, times: usize) {
    schema.empty();
    let (sender, mut arrivals) = mpsc::unbounded_channel::<Instant>();
    let working = Working::start(schema.worker().state(sender).queue("wake", CONCURRENCY));
    let mut deferred = DeferredConnection::new(schema.connect());
    let committed = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&committed);
    deferred.set_instrumentation(move |event: InstrumentationEvent<'_>| {
        if let InstrumentationEvent::FinishQuery { query, .. } = event
            && query.to_string().contains("COMMIT")
        {
            *seen.lock().expect("nobody panics") = Some(Instant::now());
        }
    });
    let mut here = Vec::new();
    for _ in 0..times {
        tokio::time::sleep(Duration::from_millis(5)).await;
        atomic!(deferred, -> QueryResult<()>, {
            arrive();
            Ok(())
        })
        .expect("commit");
        let arrived = arrivals.recv().await.expect("it works");
        let committed = committed.lock().expect("nobody panics").take().expect("it was seen");
        here.push(arrived.saturating_duration_since(committed));
    }
    print_times("COMMIT to first line, same process", here);

    // On a connection that is none of ours, so that nothing but the notification tells the worker.
    let mut plain = schema.connect();
    let mut elsewhere = Vec::new();
    for _ in 0..times {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let insert = ByHand::new(
            "INSERT INTO deferred_tasks (id, task, queue, payload, max_attempts, run_at_ms, enqueued_at_ms) SELECT ",
        );
        let insert = insert.bind(Value::Id(new_id())).sql(", 'arrive', 'wake', '{}', 20, 0, 0");
        plain.batch_execute("BEGIN").expect("begun");
        insert.execute(&mut plain).expect("an insert");
        plain.batch_execute("COMMIT; NOTIFY deferred_tasks").expect("committed");
        let committed = Instant::now();
        let arrived = arrivals.recv().await.expect("it works");
        elsewhere.push(arrived.saturating_duration_since(committed));
    }
    print_times("COMMIT to first line, by NOTIFY only", elsewhere);
    working.stop().await;
}

/// What a worker without anything to do costs.
pub async fn idle(schema: &Schema, time: Duration) {
    schema.empty();
    let statements = Arc::new(AtomicU64::new(0));
    let (url, counter) = (schema.url.clone(), Arc::clone(&statements));
    let builder = Worker::<AsyncPgConnection>::builder_with(move || {
        let (url, counter) = (url.clone(), Arc::clone(&counter));
        async move {
            let mut conn = AsyncPgConnection::establish(&url).await?;
            conn.set_instrumentation(move |event: InstrumentationEvent<'_>| {
                if let InstrumentationEvent::StartQuery { .. } = event {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
            Ok(conn)
        }
    });
    let (sender, _arrivals) = mpsc::unbounded_channel::<Instant>();
    let working = Working::start(builder.state(Progress::of(1)).state(sender).queue("bench", CONCURRENCY));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (before, cpu, start) = (statements.load(Ordering::Relaxed), cpu_time(), Instant::now());
    tokio::time::sleep(time).await;
    let sent = statements.load(Ordering::Relaxed) - before;
    let (cpu, took) = (cpu_time().saturating_sub(cpu), start.elapsed().as_secs_f64());
    println!(
        "idle worker: {:.2} statements a second, {:.3} % of a core",
        sent as f64 / took,
        100.0 * cpu.as_secs_f64() / took
    );
    working.stop().await;
}

/// What this process has used so far, where Linux tells.
fn cpu_time() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanoseconds = threads.filter_map(|thread| {
        let spent = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        spent.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}
