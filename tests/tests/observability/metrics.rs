//! C19: "observers run once, at commit, not twice"; and point 3 of the issue about what operators see:
//! "Metrics through `metrics`: registered, ran, failed, dropped by rollback, enqueued, claimed,
//! retried, dead, queue depth, age of the oldest, time from commit to start, time of an attempt".

use std::sync::LazyLock;
use std::time::Duration;

use diesel::prelude::*;
use diesel_deferred::{BoxError, DeferredConnection, Discard, Dispatcher, atomic, deferred_task};
use diesel_deferred_tests::{AsyncDatabase, AsyncSqliteConnection, Database, Notes, Scratch, on_every_database};
use metrics_util::debugging::{DebuggingRecorder, Snapshotter};

use crate::recorded::{Recorded, recorded, recorded_async};

on_every_database! {
    c19_hooks_count_once_when_their_transaction_has_ended,
    c19_what_is_rolled_back_is_counted_as_such,
    durable_calls_count_when_they_are_committed,
    a_recorder_that_panics_changes_nothing,
}

type Conn<C> = DeferredConnection<C>;

#[deferred_task]
fn greet() {}

#[deferred_task]
fn complain() -> Result<(), BoxError> {
    Err("no".into())
}

#[deferred_task(durable)]
fn store(text: String) {
    drop(text);
}

#[deferred_task(durable, queue = "slow")]
fn store_elsewhere() {}

fn fail<T>() -> QueryResult<T> {
    Err(diesel::result::Error::RollbackTransaction)
}

/// C19: hooks of nested blocks too, once each; and how long they waited and took.
fn c19_hooks_count_once_when_their_transaction_has_ended<C: Database>(db: &Scratch<C>) {
    let conn: &mut Conn<C> = &mut db.connect();
    let recorded = recorded(|| {
        atomic!(conn, -> QueryResult<()>, {
            greet();
            complain();
            atomic!(conn, -> QueryResult<()>, {
                greet();
                Ok(())
            })?;
            Ok(())
        })
        .expect("committed");
        // A transaction without hooks.
        atomic!(conn, -> QueryResult<()>, { Ok(()) }).expect("committed");
    });
    let expected = [
        ("failed_total complain", 1.0),
        ("ran_total complain", 1.0),
        ("ran_total greet", 2.0),
        ("registered_total complain", 1.0),
        ("registered_total greet", 2.0),
        ("run_seconds complain", 1.0),
        ("run_seconds greet", 2.0),
        ("start_delay_seconds complain", 1.0),
        ("start_delay_seconds greet", 2.0),
    ];
    assert_eq!(recorded.counts(), expected);
}

/// C19: of a transaction, and of a savepoint in one that commits.
fn c19_what_is_rolled_back_is_counted_as_such<C: Database>(db: &Scratch<C>) {
    C::migrate(&mut db.observer());
    let conn: &mut Conn<C> = &mut db.connect();
    let recorded = recorded(|| {
        atomic!(conn, -> QueryResult<()>, {
            greet();
            let _ = atomic!(conn, -> QueryResult<()>, {
                greet();
                store("x".to_owned());
                fail()
            });
            Ok(())
        })
        .expect("committed");
        let rolled_back = atomic!(conn, -> QueryResult<()>, {
            greet();
            store("x".to_owned());
            store_elsewhere();
            fail()
        });
        rolled_back.expect_err("rolled back");
    });
    let totals = recorded.counts().into_iter().filter(|(name, _)| name.contains("_total")).collect::<Vec<_>>();
    let expected = [
        ("ran_total greet", 1.0),
        ("registered_total greet", 3.0),
        ("registered_total store default", 2.0),
        ("registered_total store_elsewhere slow", 1.0),
        ("rolled_back_total greet", 2.0),
        ("rolled_back_total store default", 2.0),
        ("rolled_back_total store_elsewhere slow", 1.0),
    ];
    assert_eq!(totals, expected);
}

/// Also those that were stored before the COMMIT, in a savepoint: they count as it ends.
fn durable_calls_count_when_they_are_committed<C: Database>(db: &Scratch<C>) {
    C::migrate(&mut db.observer());
    let conn: &mut Conn<C> = &mut db.connect();
    // Three are more than is kept in memory.
    let large = || "x".repeat(900 << 10);
    let recorded = recorded(|| {
        atomic!(conn, -> QueryResult<()>, {
            store(String::new());
            store_elsewhere().queue("other");
            atomic!(conn, -> QueryResult<()>, {
                for _ in 0..3 {
                    store(large());
                }
                C::insert(conn, 1)?;
                Ok(())
            })?;
            let _ = atomic!(conn, -> QueryResult<()>, {
                for _ in 0..3 {
                    store(large());
                }
                C::insert(conn, 2)?;
                fail()
            });
            Ok(())
        })
        .expect("committed");
    });
    let expected = [
        ("enqueued_total store default", 4.0),
        ("enqueued_total store_elsewhere other", 1.0),
        ("registered_total store default", 7.0),
        ("registered_total store_elsewhere other", 1.0),
        ("rolled_back_total store default", 3.0),
    ];
    assert_eq!(recorded.counts(), expected);
    assert_eq!(db.tasks().len(), 5, "which are as many as there are rows");
}

/// "An exporter that blocks" may also panic. What was committed stays so, and hooks run.
fn a_recorder_that_panics_changes_nothing<C: Database>(db: &Scratch<C>) {
    struct Panicking(#[expect(dead_code, reason = "it has a size")] u8);
    type Name = metrics::KeyName;
    type Unit = Option<metrics::Unit>;
    impl metrics::Recorder for Panicking {
        fn describe_counter(&self, _: Name, _: Unit, _: metrics::SharedString) {}
        fn describe_gauge(&self, _: Name, _: Unit, _: metrics::SharedString) {}
        fn describe_histogram(&self, _: Name, _: Unit, _: metrics::SharedString) {}
        fn register_counter(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
            panic!("{key}")
        }
        fn register_gauge(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
            panic!("{key}")
        }
        fn register_histogram(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Histogram {
            panic!("{key}")
        }
    }
    let conn: &mut Conn<C> = &mut db.connect();
    metrics::with_local_recorder(&Panicking(0), || {
        atomic!(conn, -> QueryResult<()>, {
            C::insert(conn, 1)?;
            greet();
            complain();
            Ok(())
        })
        .expect("committed");
    });
    assert_eq!((conn.last_report().ran(), conn.last_report().failures().len()), (2, 1));
    assert_eq!(db.committed(), [1]);
}

#[deferred_task]
async fn greet_later() {}

#[deferred_task(blocking)]
fn greet_on_a_thread() {}

/// The recorder of all threads that have none of their own.
static EVERYWHERE: LazyLock<Snapshotter> = LazyLock::new(|| {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    recorder.install().expect("no other recorder");
    snapshotter
});

/// C19: tasks of a dispatcher, when they have ended.
#[tokio::test]
async fn c19_tasks_of_a_dispatcher_count_when_they_have_ended() {
    let everywhere = &*EVERYWHERE;
    let db = &Scratch::<SqliteConnection>::new();
    let conn = &mut db.connect();
    let dispatcher = Dispatcher::builder().max_in_flight(1).build();
    conn.set_dispatcher(dispatcher.clone());
    let recorded = recorded_async(async {
        atomic!(conn, -> QueryResult<()>, {
            greet_later();
            greet_later();
            greet_on_a_thread();
            Ok(())
        })
        .expect("committed");
        dispatcher.idle().await;
    })
    .await;
    let expected = [
        ("ran_total greet_later", 2.0),
        ("registered_total greet_later", 2.0),
        ("registered_total greet_on_a_thread", 1.0),
        ("run_seconds greet_later", 2.0),
        ("start_delay_seconds greet_later", 2.0),
    ];
    assert_eq!(recorded.counts(), expected);
    let on_threads = Recorded::take(everywhere);
    assert_eq!(on_threads.get("ran_total greet_on_a_thread"), 1.0);
    assert_eq!(on_threads.get("run_seconds greet_on_a_thread"), 1.0);
}

#[deferred_task(durable)]
async fn work() {}

#[deferred_task(durable, backoff = "1ms", max_attempts = 2)]
async fn work_in_vain() -> Result<(), BoxError> {
    Err("no".into())
}

#[deferred_task(durable)]
async fn work_on_something_gone() -> Result<(), BoxError> {
    Err(Discard::new("gone").into())
}

#[deferred_task(durable, queue = "metrics 2")]
async fn work_slowly(#[state] notes: &Notes) {
    notes.wait_until(|all| !all.is_empty()).await;
}

on_every_worker! {
    attempts_count_by_how_they_ended,
    the_depth_and_the_age_of_a_queue_are_measured,
}

async fn attempts_count_by_how_they_ended<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let calls = |conn: &mut Conn<A::Blocking>| -> QueryResult<()> {
        (0..3).try_for_each(|_| work().after_commit(conn).map(drop))?;
        work_in_vain().after_commit(conn)?;
        work_on_something_gone().after_commit(conn)?;
        Ok(())
    };
    db.patient().transaction(calls).expect("committed");
    let recorded = recorded_async(async {
        // The second attempt is due a moment later.
        while db.tasks().iter().any(|row| row.state != "dead") {
            let worker = db.worker::<A>().queue("default", 10).build().expect("a worker");
            worker.run_until_empty().await.expect("done");
        }
    })
    .await;
    let expected = [
        ("claimed_total work default", 3.0),
        ("claimed_total work_in_vain default", 2.0),
        ("claimed_total work_on_something_gone default", 1.0),
        ("dead_total work_in_vain default", 1.0),
        ("dead_total work_on_something_gone default", 1.0),
        ("failed_total work_in_vain default", 2.0),
        ("failed_total work_on_something_gone default", 1.0),
        ("ran_total work default", 3.0),
        ("ran_total work_in_vain default", 2.0),
        ("ran_total work_on_something_gone default", 1.0),
        ("retried_total work_in_vain default", 1.0),
        ("run_seconds work default", 3.0),
        ("run_seconds work_in_vain default", 2.0),
        ("run_seconds work_on_something_gone default", 1.0),
        ("start_delay_seconds work default", 3.0),
        ("start_delay_seconds work_in_vain default", 2.0),
        ("start_delay_seconds work_on_something_gone default", 1.0),
    ];
    assert_eq!(recorded.counts(), expected);
}

async fn the_depth_and_the_age_of_a_queue_are_measured<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let notes = Notes::default();
    let calls = |conn: &mut Conn<A::Blocking>| (0..4).try_for_each(|_| work_slowly().after_commit(conn).map(drop));
    db.patient().transaction(calls).expect("committed");
    // Those of the queue that does not run wait for an hour.
    db.run_sql("UPDATE deferred_tasks SET run_at_ms = run_at_ms - 3600000");
    let recorded = recorded_async(async {
        let worker = db.worker::<A>().queue("metrics 1", 1).queue("metrics 2", 1).state(notes.clone());
        let worker = worker.metrics_interval(Duration::from_millis(1)).build().expect("a worker");
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let stop_when_measured = async {
            db.wait_for_tasks(|rows| rows.iter().any(|row| row.state == "running")).await;
            // The round that claims measures behind that, and is waited for.
            notes.add("go");
            drop(stop);
        };
        let (report, ()) = tokio::join!(worker.run(async { drop(stopped.await) }), stop_when_measured);
        report.expect("it worked");
    })
    .await;
    assert_eq!(recorded.get("queue_depth  metrics 1"), 0.0);
    assert_eq!(recorded.get("queue_oldest_seconds  metrics 1"), 0.0);
    assert_eq!(recorded.get("queue_depth  metrics 2"), 3.0);
    let age = recorded.get("queue_oldest_seconds  metrics 2");
    assert!((3_600.0..3_700.0).contains(&age), "{age}");
}
