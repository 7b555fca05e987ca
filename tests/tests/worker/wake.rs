//! How a worker learns that there is something to do, and where it can work.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::ConnectionError;
use diesel::prelude::*;
use diesel_deferred::{Worker, WorkerBuilder, atomic};
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

/// A worker, and which connections it has opened.
fn with_known_sessions<A: Session>(
    db: &Scratch<A::Blocking>,
    notes: &Notes,
) -> (WorkerBuilder<A>, Arc<Mutex<Vec<i64>>>) {
    let sessions = Arc::new(Mutex::new(Vec::new()));
    let (url, opened) = (db.url().to_owned(), Arc::clone(&sessions));
    let builder = Worker::<A>::builder_with(move || {
        let (url, opened) = (url.clone(), Arc::clone(&opened));
        async move {
            let mut conn = A::establish(&url).await?;
            let session = A::session(&mut conn).await;
            opened.lock().expect("not poisoned").push(session);
            Ok(conn)
        }
    });
    (builder.queue("default", 1).state(notes.clone()), sessions)
}

/// ECOSYSTEM: `pg_terminate_backend` on idle connections; a worker that ended. What was committed
/// meanwhile is found, although nobody listened.
async fn a_worker_reconnects<A: Session>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let (builder, sessions) = with_known_sessions::<A>(db, &notes);
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
    use std::process::Command;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use diesel::connection::SimpleConnection;
    use diesel::prelude::*;
    use diesel_async::{AsyncConnection, AsyncPgConnection};
    use diesel_deferred::{DeferredConnection, Worker, atomic};
    use diesel_deferred_tests::{
        Database, Notes, Scratch, Statements, at_work, eventually, notifies, record, record_async,
    };

    use super::{NEVER, with_known_sessions, write_by_hand};
    use crate::support::{note, words, worker};

    #[test]
    fn works_on_one_thread() {
        super::works_on_one_thread::<AsyncPgConnection>();
    }

    /// Whether this process has nothing else to do than this test: any commit in it wakes all of its
    /// workers. Where it has, the test is run in another one.
    fn is_alone(name: &str) -> bool {
        if std::env::var_os("ALONE").is_some() {
            return true;
        }
        let alone = this_program(name).env("ALONE", "1").output().expect("it begins");
        let said = String::from_utf8_lossy(&alone.stdout);
        assert!(alone.status.success() && said.contains("1 passed"), "{said}");
        false
    }

    /// To run one test of it.
    fn this_program(name: &str) -> Command {
        let mut program = Command::new(std::env::current_exe().expect("this program"));
        program.args(["--exact", &format!("wake::postgres_only::{name}")]);
        program
    }

    /// "Across processes by LISTEN/NOTIFY on PostgreSQL".
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_notification_wakes() {
        if !is_alone("a_notification_wakes") {
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

    /// D17: "a worker that was woken looks again until a whole such window was empty, so that a call
    /// in the window is not late": also where that call's COMMIT takes longer than the one before.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn d17_a_commit_behind_one_that_told_is_not_late() {
        if !is_alone("d17_a_commit_behind_one_that_told_is_not_late") {
            return;
        }
        let db = &Scratch::<PgConnection>::with_tasks();
        db.run_sql(
            "CREATE FUNCTION take_long() RETURNS trigger AS $$ BEGIN PERFORM pg_sleep(0.03); RETURN new; END $$ \
             LANGUAGE plpgsql; CREATE CONSTRAINT TRIGGER take_long AFTER INSERT ON witness \
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION take_long()",
        );
        let notes = Notes::default();
        let at_work = at_work!(worker::<AsyncPgConnection>(db, &notes).poll_interval(NEVER));
        // It listens.
        write_by_hand::<AsyncPgConnection>(db, "a", "; NOTIFY deferred_tasks");
        notes.wait_for(1).await;
        let mut other = this_program("enqueues_for_another_process");
        let other = tokio::task::spawn_blocking({
            let url = db.url().to_owned();
            move || other.env("ENQUEUE_AT", url).output().expect("it begins")
        });
        let other = other.await.expect("no panic");
        assert!(other.status.success(), "{}", String::from_utf8_lossy(&other.stdout));
        // Also the last one, of which nobody was told.
        db.wait_for_tasks(<[_]>::is_empty).await;
        at_work.stop().await;
    }

    /// The other process of [`d17_a_commit_behind_one_that_told_is_not_late`].
    #[test]
    fn enqueues_for_another_process() {
        let Ok(url) = std::env::var("ENQUEUE_AT") else { return };
        let connect = || DeferredConnection::<PgConnection>::establish(&url).expect("the database");
        let (mut first, mut second) = (connect(), connect());
        let (told, silent) = (record(&mut first), record(&mut second));
        for id in 1.. {
            let conn = &mut second;
            let written: QueryResult<()> = atomic!(conn, {
                PgConnection::insert(conn, id)?;
                note("silent");
                words_by(&mut first, "told")
            });
            written.expect("committed");
            let told = told.take().iter().any(|sql| notifies(sql));
            let silent = !silent.take().iter().any(|sql| notifies(sql));
            if told && silent {
                return;
            }
        }
    }

    fn words_by(conn: &mut DeferredConnection<PgConnection>, word: &str) -> QueryResult<()> {
        atomic!(conn, {
            note(word);
            Ok(())
        })
    }

    /// C12: "a lost LISTEN connection is noticed at once".
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn c12_a_lost_connection_is_noticed_at_once() {
        if !is_alone("c12_a_lost_connection_is_noticed_at_once") {
            return;
        }
        let db = &Scratch::<PgConnection>::with_tasks();
        let notes = Notes::default();
        let (builder, sessions) = with_known_sessions::<AsyncPgConnection>(db, &notes);
        let at_work = at_work!(builder.poll_interval(NEVER));
        write_by_hand::<AsyncPgConnection>(db, "a", "; NOTIFY deferred_tasks");
        notes.wait_for(1).await;
        db.wait_for_tasks(<[_]>::is_empty).await;
        for word in ["b", "c", "d"] {
            let session = *sessions.lock().expect("not poisoned").last().expect("it has a connection");
            db.run_sql(&format!("SELECT pg_terminate_backend({session}, 5000)"));
            write_by_hand::<AsyncPgConnection>(db, word, "; NOTIFY deferred_tasks");
            notes.wait_until(|all| all.last().is_some_and(|last| last == word)).await;
            db.wait_for_tasks(<[_]>::is_empty).await;
        }
        at_work.stop().await;
    }

    /// "`poll_only` for the worker can be had".
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_worker_that_only_polls() {
        let db = &Scratch::<PgConnection>::with_tasks();
        let notes = Notes::default();
        let all = Arc::new(Mutex::new(Vec::new()));
        let (url, sent) = (db.url().to_owned(), Arc::clone(&all));
        let builder = Worker::<AsyncPgConnection>::builder_with(move || {
            let (url, sent) = (url.clone(), Arc::clone(&sent));
            async move {
                let mut conn = AsyncPgConnection::establish(&url).await?;
                sent.lock().expect("not poisoned").push(record_async(&mut conn));
                Ok(conn)
            }
        });
        let builder = builder.queue("default", 1).state(notes.clone()).poll_interval(Duration::from_millis(50));
        let at_work = at_work!(builder.poll_only());
        for word in ["a", "b", "c"] {
            write_by_hand::<AsyncPgConnection>(db, word, "");
            notes.wait_until(|all| all.last().is_some_and(|last| last == word)).await;
        }
        at_work.stop().await;
        let sent: Vec<_> = all.lock().expect("not poisoned").iter().flat_map(Statements::take).collect();
        assert!(sent.len() > 3 && !sent.iter().any(|sql| sql.contains("LISTEN")), "{sent:#?}");
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
