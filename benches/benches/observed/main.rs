//! What being observed costs: the same work with a recorder of metrics, with a subscriber for spans, with
//! both, and with neither, in alternating slices, on one thread. Prints the ratio of the medians, between
//! which values half of the slices' ratios are, and the ratio of the fastest tenths, which have had the
//! machine to themselves.
//!
//! Words after `--` choose by the names of the observers: `nothing`, `metrics`, `spans`, `sampled` (of one
//! trace in a hundred), `both`.
//!
//! `PG_DATABASE_URL=… cargo bench -p diesel-deferred-benches --bench observed`; `--test` runs each once.
//! The empty block is on SQLite in memory, where a block costs least; the rest is on PostgreSQL, in a
//! schema that is dropped at the end.

use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel_async::AsyncPgConnection;
use diesel_deferred::{DeferredConnection, Worker, atomic, deferred_task};
use diesel_migrations::MigrationHarness;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter};
use tokio::runtime::Runtime;
use tracing::Dispatch;
use tracing_subscriber::layer::SubscriberExt;

#[deferred_task(durable, name = "noop", queue = "bench")]
async fn noop(number: i64) {
    let _ = number;
}

/// Whoever watches.
struct Observer {
    name: &'static str,
    recorder: Option<PrometheusRecorder>,
    spans: Option<Dispatch>,
}

/// Takes spans, and does nothing with them.
#[derive(Debug)]
struct Nowhere;

impl SpanExporter for Nowhere {
    async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
        Ok(())
    }
}

/// A subscriber as programs have it, with an exporter that does nothing; of so many traces.
fn spans(of_all: f64) -> Dispatch {
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(of_all)));
    let provider = SdkTracerProvider::builder().with_sampler(sampler).with_batch_exporter(Nowhere).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("bench"));
    Dispatch::new(tracing_subscriber::registry().with(layer))
}

impl Observer {
    /// Runs it, watched or not; says how long it took.
    fn time(&self, is_on: bool, work: &mut dyn FnMut()) -> Duration {
        let begin = Instant::now();
        match (&self.recorder, &self.spans) {
            (Some(recorder), None) if is_on => metrics::with_local_recorder(recorder, work),
            (None, Some(spans)) if is_on => tracing::dispatcher::with_default(spans, work),
            (Some(recorder), Some(spans)) if is_on => {
                metrics::with_local_recorder(recorder, || tracing::dispatcher::with_default(spans, work));
            }
            _ => work(),
        }
        begin.elapsed()
    }

    /// In slices: off, on, off, …; before each slice that is `prepare`d.
    fn compare(&self, what: &str, slices: usize, mut prepare: impl FnMut(), mut work: impl FnMut()) {
        let (mut off, mut on) = (Vec::new(), Vec::new());
        for slice in 0..slices {
            // Whichever is first may find a colder cache.
            for is_on in [slice % 2 == 0, slice % 2 == 1] {
                prepare();
                let took = self.time(is_on, &mut work);
                if is_on { on.push(took) } else { off.push(took) }
            }
        }
        let mut ratios: Vec<_> = on.iter().zip(&off).map(|(on, off)| on.as_secs_f64() / off.as_secs_f64()).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        let quarter = |at: usize| ratios[(ratios.len() - 1) * at / 4];
        let fast = |times: &[Duration]| {
            let mut times = times.to_vec();
            times.sort_unstable();
            times[times.len() / 10].as_secs_f64()
        };
        let fastest = fast(&on) / fast(&off);
        println!(
            "{what}, {}: off {:?}, on {:?}, ratio {:.3} (half of them {:.3}–{:.3}), of the fastest tenths {fastest:.3}",
            self.name,
            median(off),
            median(on),
            quarter(2),
            quarter(1),
            quarter(3),
        );
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Blocks that do nothing, on SQLite in memory.
fn empty_blocks(observer: &Observer, test: bool) {
    let mut conn = DeferredConnection::<SqliteConnection>::establish(":memory:").expect("in memory");
    let (slices, blocks) = if test { (1, 10) } else { (301, 2_000) };
    let work = || {
        for _ in 0..blocks {
            atomic!(conn, -> QueryResult<()>, { Ok(()) }).expect("commit");
        }
    };
    observer.compare(&format!("{blocks} empty blocks"), slices, || (), work);
}

/// Tables of their own.
struct Schema {
    server: String,
    url: String,
    name: String,
}

impl Schema {
    fn new(server: &str) -> Self {
        let name = format!("deferred_observed_{}", std::process::id());
        PgConnection::establish(server)
            .expect("connect")
            .batch_execute(&format!("CREATE SCHEMA {name}"))
            .expect("a schema");
        let separator = if server.contains('?') { '&' } else { '?' };
        let url = format!("{server}{separator}options=-csearch_path%3D{name}");
        let schema = Self { server: server.to_owned(), url, name };
        schema.connect().run_pending_migrations(diesel_deferred::migrations()).expect("the tables");
        schema
    }

    fn connect(&self) -> PgConnection {
        PgConnection::establish(&self.url).expect("connect")
    }

    fn empty(&self) {
        self.connect().batch_execute("TRUNCATE deferred_tasks").expect("empty");
    }

    fn fill(&self, tasks: i64) {
        self.empty();
        let mut conn = DeferredConnection::new(self.connect());
        enqueue(&mut conn, tasks);
        for tidy_up in ["VACUUM ANALYZE deferred_tasks", "CHECKPOINT"] {
            conn.inner_mut().batch_execute(tidy_up).expect("tidied up");
        }
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let mut conn = PgConnection::establish(&self.server).expect("connect");
        conn.batch_execute(&format!("DROP SCHEMA {} CASCADE", self.name)).expect("dropped");
    }
}

fn enqueue(conn: &mut DeferredConnection<PgConnection>, tasks: i64) {
    atomic!(conn, -> QueryResult<()>, {
        for number in 0..tasks {
            noop(number);
        }
        Ok(())
    })
    .expect("commit");
}

/// A transaction with a thousand calls.
fn enqueues(observer: &Observer, schema: &Schema, test: bool) {
    let mut conn = DeferredConnection::new(schema.connect());
    conn.batch_execute("SET synchronous_commit = off").expect("a setting");
    let (slices, transactions) = if test { (1, 1) } else { (301, 4) };
    let work = || (0..transactions).for_each(|_| enqueue(&mut conn, 1_000));
    observer.compare(&format!("{transactions} enqueues of 1,000"), slices, || schema.empty(), work);
}

/// A backlog of calls that do nothing, by one worker on this thread.
fn drains(observer: &Observer, schema: &Schema, runtime: &Runtime, test: bool) {
    let (slices, tasks) = if test { (1, 100) } else { (31, 20_000) };
    let work = || {
        let worker = Worker::<AsyncPgConnection>::builder(schema.url.clone()).queue("bench", 100).build();
        let report = runtime.block_on(worker.expect("a worker").run_until_empty()).expect("it can work");
        assert_eq!(report.ran, tasks as u64);
    };
    observer.compare(&format!("a drain of {tasks}"), slices, || schema.fill(tasks), work);
}

fn main() {
    let test = std::env::args().any(|argument| argument == "--test");
    let recorder = PrometheusBuilder::new().build_recorder();
    // Words choose some of them.
    let asked: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let observers = [
        Observer { name: "nothing", recorder: None, spans: None },
        Observer { name: "metrics", recorder: Some(recorder), spans: None },
        Observer { name: "spans", recorder: None, spans: Some(spans(1.0)) },
        Observer { name: "sampled", recorder: None, spans: Some(spans(0.01)) },
        Observer { name: "both", recorder: Some(PrometheusBuilder::new().build_recorder()), spans: Some(spans(1.0)) },
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let schema = std::env::var("PG_DATABASE_URL").ok().map(|server| Schema::new(&server));
    if schema.is_none() {
        println!("PG_DATABASE_URL is not set: only SQLite is measured");
    }
    for observer in
        observers.iter().filter(|observer| asked.is_empty() || asked.iter().any(|asked| asked == observer.name))
    {
        empty_blocks(observer, test);
        if let Some(schema) = &schema {
            enqueues(observer, schema, test);
            drains(observer, schema, &runtime, test);
        }
    }
}
