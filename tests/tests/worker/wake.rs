//! How a worker learns that there is something to do, and where it can work.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::ConnectionError;
use diesel::prelude::*;
use diesel_deferred::{Worker, atomic};
use diesel_deferred_tests::{
    AsyncDatabase, AsyncSqliteConnection, Database, Notes, Scratch, Session, at_work, on_every_async_database,
};

use crate::support::{committed, note, with, words, worker};

/// No look of its own in the time of a test.
const NEVER: Duration = Duration::from_secs(600);

on_every_async_database!(
    a_commit_in_the_same_process_wakes,
    a_worker_that_hears_nothing_looks,
    a_worker_waits_for_its_database,
    a_worker_reconnects,
);

/// "Woken in-process right after the commit", by all kinds of connections.
async fn a_commit_in_the_same_process_wakes<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let at_work = at_work!(worker::<A>(db, &notes).poll_interval(NEVER));
    // The first one may be found by the look that a worker begins with.
    for round in 1..=3 {
        words(db, &["sync"]);
        notes.wait_for(2 * round - 1).await;
        let conn = &mut db.patient_async::<A>().await;
        if A::Blocking::NAME == "SQLite" {
            A::execute_raw(conn, "PRAGMA busy_timeout = 10000").await.expect("set the time");
        }
        let written: QueryResult<()> = atomic!(conn, async {
            note("async");
            Ok(())
        })
        .await;
        written.expect("committed");
        notes.wait_for(2 * round).await;
    }
    at_work.stop().await;
}

/// Writes a row as another process would: nobody in this one is told.
fn write_by_hand<A: AsyncDatabase>(db: &Scratch<A::Blocking>, word: &str, and: &str) {
    let id = uuid(word);
    let id = match A::Blocking::NAME {
        "PostgreSQL" => format!("'{id}'"),
        _ => format!("X'{id}'"),
    };
    db.run_sql(&format!(
        "INSERT INTO deferred_tasks (id, task, queue, payload, max_attempts, run_at_ms, enqueued_at_ms) \
         VALUES ({id}, 'worker::support::note', 'default', '{{\"text\":\"{word}\"}}', 3, 0, 0){and}"
    ));
}

/// 32 digits.
fn uuid(word: &str) -> String {
    word.bytes().chain([0; 16]).take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Q14: "poll-only fallback when LISTEN is dead".
async fn a_worker_that_hears_nothing_looks<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let at_work = at_work!(worker::<A>(db, &notes));
    for word in ["a", "b", "c"] {
        write_by_hand::<A>(db, word, "");
        notes.wait_until(|all| all.last().is_some_and(|last| last == word)).await;
    }
    at_work.stop().await;
}

/// "Survives the database going away and coming back": also where it was not there to begin with.
async fn a_worker_waits_for_its_database<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    words(db, &["a"]);
    let tries = Arc::new(AtomicUsize::new(0));
    let url = db.url().to_owned();
    let counted = Arc::clone(&tries);
    let builder = Worker::<A>::builder_with(move || {
        let failing = counted.fetch_add(1, Ordering::SeqCst) < 3;
        let url = url.clone();
        async move { if failing { Err(ConnectionError::BadConnection("not yet".into())) } else { A::establish(&url).await } }
    });
    let at_work = at_work!(builder.queue("default", 1).state(notes.clone()).poll_interval(NEVER));
    notes.wait_for(1).await;
    assert_eq!(tries.load(Ordering::SeqCst), 4);
    at_work.stop().await;

    // One that cannot reach it at all can be stopped.
    let builder = Worker::<A>::builder_with(|| async { Err(ConnectionError::BadConnection("never".into())) });
    let at_work = at_work!(builder.queue("default", 1).state(notes.clone()));
    tokio::time::timeout(Duration::from_secs(10), at_work.stop()).await.expect("at once");
}

/// ECOSYSTEM: `pg_terminate_backend` on idle connections; a worker that ended. What was committed
/// meanwhile is found, although nobody listened.
async fn a_worker_reconnects<A: Session>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let sessions = Arc::new(Mutex::new(Vec::new()));
    let url = db.url().to_owned();
    let opened = Arc::clone(&sessions);
    let builder = Worker::<A>::builder_with(move || {
        let (url, opened) = (url.clone(), Arc::clone(&opened));
        async move {
            let mut conn = A::establish(&url).await?;
            let session = A::session(&mut conn).await;
            opened.lock().expect("not poisoned").push(session);
            Ok(conn)
        }
    });
    let builder = builder.queue("default", 1).state(notes.clone());
    let at_work = at_work!(builder.poll_interval(Duration::from_millis(200)));
    words(db, &["a"]);
    notes.wait_for(1).await;
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    let before = sessions.lock().expect("not poisoned").clone();
    match A::Blocking::NAME {
        "PostgreSQL" => before.iter().for_each(|id| db.run_sql(&format!("SELECT pg_terminate_backend({id}, 5000)"))),
        "MariaDB" => before.iter().for_each(|id| db.run_sql(&format!("KILL CONNECTION {id}"))),
        // No server: there is nothing that could end the connection.
        _ => {}
    }
    write_by_hand::<A>(db, "b", "");
    notes.wait_for(2).await;
    let reconnected = sessions.lock().expect("not poisoned").len() > before.len();
    assert_eq!(reconnected, A::Blocking::NAME != "SQLite");
    at_work.stop().await;
}

/// Works on a runtime of one thread, with one of each kind of task.
fn works_on_one_thread<A: AsyncDatabase>() {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let at_work = at_work!(worker::<A>(db, &notes).poll_interval(NEVER));
        words(db, &["a"]);
        notes.wait_for(1).await;
        committed(db, |conn| {
            crate::support::hold("b").after_commit(conn)?;
            crate::support::hold_blocking("c").after_commit(conn)
        });
        notes.wait_until(|all| with(all, "begin ").len() == 2).await;
        notes.add("go");
        notes.wait_until(|all| with(all, "end ").len() == 2).await;
        let report = at_work.stop().await;
        assert_eq!((report.ran, report.released, report.abandoned.len()), (3, 0, 0));
    });
    assert_eq!(db.tasks(), []);
}

#[test]
fn works_on_one_thread_sqlite() {
    works_on_one_thread::<AsyncSqliteConnection>();
}

#[cfg(feature = "mysql")]
#[test]
fn works_on_one_thread_mysql() {
    works_on_one_thread::<diesel_async::AsyncMysqlConnection>();
}

#[cfg(feature = "postgres")]
mod postgres_only {
    use std::time::Duration;

    use diesel::connection::SimpleConnection;
    use diesel::prelude::*;
    use diesel::result::Error;
    use diesel_async::AsyncPgConnection;
    use diesel_deferred::{DeferredConnection, atomic};
    use diesel_deferred_tests::{Database, Notes, Scratch, at_work, eventually};

    use super::{NEVER, write_by_hand};
    use crate::support::{note, words, worker};

    #[test]
    fn works_on_one_thread() {
        super::works_on_one_thread::<AsyncPgConnection>();
    }

    /// "Across processes by LISTEN/NOTIFY on PostgreSQL".
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_notification_wakes() {
        // Any commit in this process would wake it, too: those of the other tests.
        if std::env::var_os("ALONE").is_none() {
            let alone = std::process::Command::new(std::env::current_exe().expect("this program"))
                .args(["--exact", "wake::postgres_only::a_notification_wakes"])
                .env("ALONE", "1")
                .output()
                .expect("it begins");
            let said = String::from_utf8_lossy(&alone.stdout);
            assert!(alone.status.success() && said.contains("1 passed"), "{said}");
            return;
        }
        let db = &Scratch::<PgConnection>::with_tasks();
        let notes = Notes::default();
        let at_work = at_work!(worker::<AsyncPgConnection>(db, &notes).poll_interval(NEVER));
        for word in ["a", "b", "c"] {
            write_by_hand::<AsyncPgConnection>(db, word, "; NOTIFY deferred_tasks");
            notes.wait_until(|all| all.last().is_some_and(|last| last == word)).await;
        }
        at_work.stop().await;
    }

    /// D7: "at most one wake-up per transaction; none on rollback".
    #[test]
    fn a_transaction_notifies_once() {
        let db = &Scratch::<PgConnection>::with_tasks();
        let mut listener = db.observer();
        listener.batch_execute("LISTEN deferred_tasks; LISTEN marker").expect("listens");
        let conn = &mut db.patient();
        let ours: i32 = diesel::select(diesel::dsl::sql::<diesel::sql_types::Integer>("pg_backend_pid()"))
            .get_result(conn)
            .expect("the backend's number");
        let mut notified = |conn: &mut DeferredConnection<PgConnection>| {
            // Others of this database notify, too.
            conn.batch_execute("NOTIFY marker").expect("notified");
            let mut count = 0;
            loop {
                diesel::sql_query("SELECT 1").execute(&mut listener).expect("something to read");
                for notification in listener.notifications_iter() {
                    let notification = notification.expect("a notification");
                    match (&*notification.channel, notification.process_id == ours) {
                        ("marker", true) => return count,
                        ("deferred_tasks", true) => count += 1,
                        _ => {}
                    }
                }
            }
        };
        let written: QueryResult<()> = atomic!(conn, {
            for _ in 0..12_000 {
                note("a");
            }
            let inner: QueryResult<()> = atomic!(conn, {
                note("b").queue("other");
                Ok(())
            });
            inner?;
            note("c");
            Ok(())
        });
        written.expect("committed");
        assert_eq!(notified(conn), 1);
        let rolled_back: QueryResult<()> = atomic!(conn, {
            note("a");
            Err(Error::RollbackTransaction)
        });
        assert!(rolled_back.is_err());
        assert_eq!(notified(conn), 0);
        let delayed: QueryResult<()> = atomic!(conn, {
            note("a").delay(Duration::from_secs(9));
            Ok(())
        });
        delayed.expect("committed");
        assert_eq!(notified(conn), 0);
        let one: QueryResult<()> = atomic!(conn, {
            note("a");
            Ok(())
        });
        one.expect("committed");
        assert_eq!(notified(conn), 1);
        let none: QueryResult<()> = atomic!(conn, { Ok(()) });
        none.expect("committed");
        assert_eq!(notified(conn), 0);
    }

    /// Q9: "bounded", also while the database does not answer. The default lease is longer than the
    /// test may take.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_worker_stops_while_its_database_hangs() {
        let db = &Scratch::<PgConnection>::with_tasks();
        let notes = Notes::default();
        let at_work = at_work!(worker::<AsyncPgConnection>(db, &notes));
        words(db, &["a"]);
        notes.wait_for(1).await;
        let mut lock = db.observer();
        lock.batch_execute("BEGIN; LOCK TABLE deferred_tasks IN ACCESS EXCLUSIVE MODE").expect("locked");
        let waits = "SELECT COUNT(*) AS number FROM pg_locks \
                     WHERE NOT granted AND relation = 'deferred_tasks'::regclass";
        eventually("it waits for the lock", || PgConnection::number(&mut lock, waits) > 0).await;
        let stopped = tokio::time::timeout(Duration::from_secs(12), at_work.stop()).await;
        stopped.expect("it does not wait for ever");
    }
}
