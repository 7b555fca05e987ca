//! Connections that are ended from outside, or hang: of the worker while it takes tasks, and of
//! those who enqueue while they commit.

use std::time::{Duration, Instant};

use diesel::connection::{Connection, SimpleConnection};
use diesel::result::QueryResult;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};
use diesel_deferred_tests::{
    AsyncDatabase, Database, Notes, Proxy, Scratch, at_work, cut_behind_commit, eventually, in_front_of,
    on_every_async_server, refusal, server_of,
};

#[deferred_task(durable, queue = "lost")]
async fn noted(#[state] notes: &Notes, id: i32, ms: u64) {
    notes.add(format!("{id} begins"));
    tokio::time::sleep(Duration::from_millis(ms)).await;
    notes.add(format!("{id} ends"));
}

/// How a server ends connections.
pub trait Server: AsyncDatabase {
    /// A lock that no claim gets past, in a transaction or session of its own.
    const LOCK: &'static str;
    /// The number of a connection that waits for that lock, or 0.
    const WAITING: &'static str;
    /// The number of a connection to this database that is not this one and has not seen the name
    /// `spared`, or 0.
    const ANY: &'static str;

    fn end(conn: &mut Self::Blocking, number: i64);

    /// A URL whose connections are those of [`ANY`](Self::ANY).
    fn to_be_ended(url: &str) -> String;
}

#[cfg(feature = "postgres")]
impl Server for diesel_async::AsyncPgConnection {
    const LOCK: &'static str = "BEGIN; LOCK TABLE deferred_paused_queues IN ACCESS EXCLUSIVE MODE";
    const WAITING: &'static str = "SELECT COALESCE(max(pid), 0)::bigint AS number FROM pg_locks \
         WHERE relation = 'deferred_paused_queues'::regclass AND NOT granted";
    const ANY: &'static str = "SELECT COALESCE(max(pid), 0)::bigint AS number FROM pg_stat_activity \
         WHERE application_name = current_schema()::text";

    fn end(conn: &mut Self::Blocking, number: i64) {
        conn.batch_execute(&format!("SELECT pg_terminate_backend({number})")).expect("ended");
    }

    fn to_be_ended(url: &str) -> String {
        let (_, schema) = url.split_once("search_path%3D").expect("a schema");
        let (schema, _) = schema.split_once('%').expect("its end");
        format!("{url}&application_name={schema}")
    }
}

#[cfg(feature = "mysql")]
impl Server for diesel_async::AsyncMysqlConnection {
    const LOCK: &'static str = "LOCK TABLES deferred_paused_queues WRITE";
    const WAITING: &'static str = "SELECT CAST(COALESCE(MAX(id), 0) AS SIGNED) AS number FROM information_schema.processlist \
         WHERE db = DATABASE() AND state LIKE 'Waiting for table%'";
    const ANY: &'static str = "SELECT CAST(COALESCE(MAX(id), 0) AS SIGNED) AS number FROM information_schema.processlist \
         WHERE db = DATABASE() AND id <> CONNECTION_ID()";

    fn end(conn: &mut Self::Blocking, number: i64) {
        // It may have gone by itself.
        let _ = conn.batch_execute(&format!("KILL CONNECTION {number}"));
    }

    fn to_be_ended(url: &str) -> String {
        url.to_owned()
    }
}

on_every_async_server! {
    d04_ended_while_it_claims,
    d04_ended_again_and_again,
    d01_ended_before_and_behind_commit,
    d04_a_connection_that_hangs,
}

fn enqueue<C: Database>(
    conn: &mut DeferredConnection<C>,
    ids: impl IntoIterator<Item = i32>,
    ms: u64,
) -> QueryResult<()> {
    atomic!(conn, {
        for id in ids {
            C::insert(conn, id)?;
            noted(id, ms).after_commit(conn)?;
        }
        Ok(())
    })
}

/// D4: a claim that is ended in its middle has taken nothing, and the next connection takes it.
async fn d04_ended_while_it_claims<A: Server>(db: &Scratch<A::Blocking>) {
    let notes = Notes::default();
    let mut lock = db.observer();
    lock.batch_execute(A::LOCK).expect("locked");
    enqueue(&mut db.patient(), [1], 0).expect("committed");
    let worker = at_work!(db.worker::<A>().queue("lost", 2).state(notes.clone()));
    let observer = &mut db.observer();
    for _ in 0..3 {
        let mut waits = 0;
        eventually("a claim waits", || {
            waits = A::Blocking::number(observer, A::WAITING);
            waits != 0
        })
        .await;
        A::end(observer, waits);
        eventually("it is ended", || A::Blocking::number(observer, A::WAITING) != waits).await;
    }
    assert_eq!(db.tasks()[0].attempts, 0, "it was no attempt");
    drop(lock);
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    assert_eq!(notes.all(), ["1 begins", "1 ends"]);
    assert_eq!(worker.stop().await.ran, 1);
}

/// D4: the worker's connection is ended again and again while it works: each task runs, and the
/// worker goes on.
async fn d04_ended_again_and_again<A: Server>(db: &Scratch<A::Blocking>) {
    let notes = Notes::default();
    enqueue(&mut db.patient(), 0..200, 20).expect("committed");
    let url = A::to_be_ended(db.url());
    let worker = diesel_deferred::Worker::<A>::builder(url).queue("lost", 4).lease(Duration::from_secs(1));
    let worker = at_work!(worker.poll_interval(Duration::from_millis(20)).state(notes.clone()));
    let observer = &mut db.observer();
    let mut ended = 0;
    // A worker that is ended before it has done anything pauses for up to six seconds.
    let deadline = Instant::now() + Duration::from_secs(120);
    while A::Blocking::number(observer, "SELECT count(*) AS number FROM deferred_tasks") > 0 {
        assert!(Instant::now() < deadline, "after {ended} ends: {:#?}", db.tasks());
        // At any moment of its work.
        tokio::time::sleep(Duration::from_micros(fastrand::u64(0..60_000))).await;
        let number = A::Blocking::number(observer, A::ANY);
        // On a busy machine it would get nowhere if that went on for ever: it waits longer each
        // time.
        if number != 0 && ended < 12 {
            A::end(observer, number);
            ended += 1;
        }
    }
    let runs = notes.all().iter().filter(|note| note.ends_with("ends")).count();
    crate::say!("{}: the worker's connection was ended {ended} times; 200 tasks ran {runs} times", A::Blocking::NAME);
    for id in 0..200 {
        assert!(notes.all().contains(&format!("{id} ends")), "{id} did not run");
    }
    assert!(ended >= 5, "it was ended {ended} times only");
    worker.stop().await;
}

/// D1, E11: whoever enqueues is told that the outcome is unknown, and the rows decide: a task runs
/// if and only if the witness is there.
async fn d01_ended_before_and_behind_commit<A: Server>(db: &Scratch<A::Blocking>) {
    let notes = Notes::default();
    let worker = at_work!(db.worker::<A>().queue("lost", 2).state(notes.clone()));
    // The server executes COMMIT, and can tell nobody.
    let address = cut_behind_commit(server_of(db.url()));
    let conn = &mut DeferredConnection::<A::Blocking>::establish(&in_front_of(&address, db.url())).expect("connected");
    assert_eq!(refusal(&enqueue(conn, [1], 0)), "Unknown");
    // COMMIT does not get there.
    let conn = &mut db.patient();
    let ended = atomic!(conn, -> QueryResult<()>, {
        A::Blocking::insert(conn, 2)?;
        noted(2, 0).after_commit(conn)?;
        A::Blocking::kill(conn, &mut db.observer());
        Ok(())
    });
    assert!(ended.is_err(), "{ended:?}");
    enqueue(&mut db.patient(), [3], 0).expect("committed");
    let ends = ["1 ends", "3 ends"].map(str::to_owned);
    notes.wait_until(|all| ends.iter().all(|end| all.contains(end))).await;
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    worker.stop().await;
    assert_eq!(db.committed(), [1, 3]);
    assert_eq!(notes.all().len(), 4, "{:?}", notes.all());
}

/// D4: a connection that carries nothing any more, although nobody has closed it: the worker gives
/// it up, before its leases end.
async fn d04_a_connection_that_hangs<A: Server>(db: &Scratch<A::Blocking>) {
    let lease = Duration::from_secs(15);
    let notes = Notes::default();
    let proxy = Proxy::new(server_of(db.url()));
    let worker = diesel_deferred::Worker::<A>::builder(proxy.in_front_of(db.url())).queue("lost", 2).lease(lease);
    let worker = at_work!(worker.poll_interval(Duration::from_millis(50)).state(notes.clone()));
    enqueue(&mut db.patient(), [1], 1_000).expect("committed");
    notes.wait_for(1).await;
    proxy.hang();
    let begin = Instant::now();
    enqueue(&mut db.patient(), [2], 0).expect("committed");
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    assert!(begin.elapsed() < lease, "{:?}: a lease had ended", begin.elapsed());
    assert_eq!(notes.all(), ["1 begins", "1 ends", "2 begins", "2 ends"]);
    // Q9: it stops in time, whatever the database does, and tells what ended meanwhile.
    enqueue(&mut db.patient(), [3], 300).expect("committed");
    notes.wait_for(5).await;
    proxy.hang();
    let begin = Instant::now();
    let report = worker.stop().await;
    assert!(begin.elapsed() < lease, "{:?}: it did not stop", begin.elapsed());
    assert_eq!((report.ran, report.abandoned, db.tasks()), (3, vec![], vec![]));
}

/// D1, D4: whoever enqueues is ended while its COMMIT waits: the witness and the task share one
/// fate.
#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d01_ended_within_commit() {
    use diesel::PgConnection;
    let db = &Scratch::<PgConnection>::with_tasks();
    let observer = &mut db.observer();
    let key = std::process::id();
    observer
        .batch_execute(&format!(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM pg_advisory_xact_lock_shared({key}); RETURN NULL; END $$; \
             CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON witness DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION wait(); SELECT pg_advisory_lock({key})"
        ))
        .expect("a COMMIT that waits");
    let notes = Notes::default();
    let worker = at_work!(db.worker::<diesel_async::AsyncPgConnection>().queue("lost", 2).state(notes.clone()));
    let mut conn = db.patient();
    let committing = tokio::task::spawn_blocking(move || enqueue(&mut conn, [1], 0));
    let mut waits = 0;
    eventually("COMMIT waits", || {
        let waiting = "SELECT COALESCE(max(pid), 0)::bigint AS number FROM pg_locks WHERE locktype = 'advisory' \
             AND NOT granted AND objid = ";
        waits = PgConnection::number(observer, &format!("{waiting}{key}"));
        waits != 0
    })
    .await;
    assert_eq!((db.tasks().len(), notes.all().len()), (0, 0), "it is not committed yet");
    observer.batch_execute(&format!("SELECT pg_terminate_backend({waits})")).expect("ended");
    assert_eq!(refusal(&committing.await.expect("no panic")), "Unknown");
    observer.batch_execute(&format!("SELECT pg_advisory_unlock({key})")).expect("unlocked");
    enqueue(&mut db.patient(), [2], 0).expect("committed");
    notes.wait_for(2).await;
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    worker.stop().await;
    assert_eq!(db.committed(), [2]);
    assert_eq!(notes.all(), ["2 begins", "2 ends"]);
}
