//! D18: what a worker gives up is given up on the server, too. Tables and rows that are locked,
//! servers that are slow, connections that are ended, answers that get lost: no task is taken for
//! nobody, and no second connection waits where the first one does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel_deferred::{Worker, WorkerBuilder, cancel_task, deferred_task};
use diesel_deferred_tests::{
    AsyncDatabase, AsyncSqliteConnection, AtWork, Database, Notes, Proxy, Scratch, at_work, eventually,
    on_every_async_server, server_of,
};

use crate::support::{committed, hold, with};

/// The longest lease whose workers wait for an answer for no longer than others.
const LEASE: Duration = Duration::from_secs(15);

/// How long they do.
const PATIENCE: Duration = Duration::from_secs(5);

/// What ran: the numbers of the calls.
#[derive(Debug, Clone, Default)]
struct Ran(Notes);

impl Ran {
    fn times(&self) -> BTreeMap<i32, usize> {
        let mut times = BTreeMap::new();
        for id in self.0.all() {
            *times.entry(id.parse().expect("a number")).or_default() += 1;
        }
        times
    }

    fn count(&self) -> usize {
        self.times().len()
    }

    /// Of the calls from 0 up to here, each ran once.
    fn assert_once(&self, calls: i32) {
        let ran = self.times();
        assert_eq!(ran.keys().copied().collect::<Vec<_>>(), (0..calls).collect::<Vec<_>>());
        let again: Vec<_> = ran.into_iter().filter(|(_, times)| *times != 1).collect();
        assert!(again.is_empty(), "{again:?} ran more often than once");
    }
}

/// It has one attempt: what takes it for nobody kills it.
#[deferred_task(durable, queue = "given up", max_attempts = 1)]
async fn single(#[state] notes: &Notes, id: i32) {
    tokio::time::sleep(Duration::from_millis(2)).await;
    notes.add(id.to_string());
}

/// How a server is made to be in the way.
trait Server: AsyncDatabase {
    /// Locks of a session of their own, which a worker's statements do not get past.
    const TABLE_LOCKS: &'static [&'static str];
    /// How many statements of others are under way for a while.
    const UNDER_WAY: &'static str;
    /// The number of a connection that is not this one, or 0.
    const ANY: &'static str;
    /// Has each UPDATE of a row of a queue whose name begins with `slow` take as long as the table
    /// `slowness` says, and of one that begins with `broken` fail.
    const HINDER: &'static str;
    /// Has each UPDATE in another isolation level than a worker's fail, where a trigger can know it.
    const ONLY_READ_COMMITTED: &'static str;
    /// What a database's default may be.
    const ISOLATION: &'static [&'static str];

    fn end(conn: &mut Self::Blocking, number: i64);

    /// A URL whose connections are those that are counted.
    fn counted(url: &str) -> String;
}

#[cfg(feature = "postgres")]
impl Server for diesel_async::AsyncPgConnection {
    const TABLE_LOCKS: &'static [&'static str] = &[
        "BEGIN; LOCK TABLE deferred_tasks IN SHARE MODE",
        "BEGIN; LOCK TABLE deferred_tasks IN ACCESS EXCLUSIVE MODE",
    ];
    const UNDER_WAY: &'static str = "SELECT count(*) AS number FROM pg_stat_activity WHERE application_name = current_schema()::text \
         AND state = 'active' AND clock_timestamp() - query_start > interval '300 ms'";
    const ANY: &'static str = "SELECT COALESCE(max(pid), 0)::bigint AS number FROM pg_stat_activity \
         WHERE application_name = current_schema()::text";
    const HINDER: &'static str = "CREATE TABLE slowness (seconds integer); INSERT INTO slowness VALUES (12); \
         CREATE FUNCTION hinder() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF NEW.queue LIKE 'broken%' AND (SELECT max(seconds) FROM slowness) > 0 THEN RAISE EXCEPTION 'broken'; END IF; \
         IF NEW.queue LIKE 'slow%' THEN PERFORM pg_sleep(seconds) FROM slowness; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER hinders BEFORE UPDATE ON deferred_tasks FOR EACH ROW EXECUTE FUNCTION hinder()";
    const ONLY_READ_COMMITTED: &'static str = "CREATE FUNCTION isolated() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF current_setting('transaction_isolation') <> 'read committed' THEN RAISE EXCEPTION 'isolated'; END IF; \
         RETURN NEW; END $$; \
         CREATE TRIGGER isolated BEFORE UPDATE ON deferred_tasks FOR EACH ROW EXECUTE FUNCTION isolated()";
    const ISOLATION: &'static [&'static str] = &[
        "SET default_transaction_isolation = 'repeatable read'",
        "SET default_transaction_isolation = 'serializable'",
    ];

    fn end(conn: &mut Self::Blocking, number: i64) {
        conn.batch_execute(&format!("SELECT pg_terminate_backend({number})")).expect("ended");
    }

    fn counted(url: &str) -> String {
        let (_, schema) = url.split_once("search_path%3D").expect("a schema");
        let (schema, _) = schema.split_once('%').expect("its end");
        format!("{url}&application_name={schema}")
    }
}

#[cfg(feature = "mysql")]
impl Server for diesel_async::AsyncMysqlConnection {
    const TABLE_LOCKS: &'static [&'static str] =
        &["LOCK TABLES deferred_tasks READ", "LOCK TABLES deferred_tasks WRITE"];
    const UNDER_WAY: &'static str = "SELECT CAST(COUNT(*) AS SIGNED) AS number FROM information_schema.processlist \
         WHERE db = DATABASE() AND id <> CONNECTION_ID() AND command NOT IN ('Sleep', 'Killed') AND time >= 1";
    const ANY: &'static str = "SELECT CAST(COALESCE(MAX(id), 0) AS SIGNED) AS number FROM information_schema.processlist \
         WHERE db = DATABASE() AND id <> CONNECTION_ID()";
    const HINDER: &'static str = "CREATE TABLE slowness (seconds integer); INSERT INTO slowness VALUES (12); \
         CREATE TRIGGER hinders BEFORE UPDATE ON deferred_tasks FOR EACH ROW BEGIN \
         IF NEW.queue LIKE 'broken%' AND (SELECT max(seconds) FROM slowness) > 0 THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'broken'; END IF; \
         IF NEW.queue LIKE 'slow%' THEN DO SLEEP((SELECT MAX(seconds) FROM slowness)); END IF; END";
    // The variable has another name on MySQL than on MariaDB.
    const ONLY_READ_COMMITTED: &'static str = "DO 0";
    const ISOLATION: &'static [&'static str] = &[
        "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    ];

    fn end(conn: &mut Self::Blocking, number: i64) {
        // It may have gone by itself.
        let _ = conn.batch_execute(&format!("KILL CONNECTION {number}"));
    }

    fn counted(url: &str) -> String {
        url.to_owned()
    }
}

on_every_async_server!(
    d18_a_locked_table,
    d18_a_locked_row,
    d18_a_server_that_is_slow,
    d18_a_queue_that_is_slow_or_broken,
    d18_whatever_isolation_is_the_default,
    d18_none_of_8000_calls_is_taken_for_nobody,
);

fn enqueue<C: Database>(db: &Scratch<C>, ids: std::ops::Range<i32>) {
    committed(db, |conn| {
        for id in ids {
            single(id).after_commit(conn)?;
        }
        Ok(())
    });
}

fn builder<A: AsyncDatabase>(url: String, ran: &Ran) -> WorkerBuilder<A> {
    Worker::builder(url).queue("given up", 4).poll_interval(Duration::from_millis(50)).state(ran.0.clone())
}

/// Two workers, with a patience of five seconds.
fn two<A: Server>(db: &Scratch<A::Blocking>, ran: &Ran) -> [AtWork; 2] {
    [0, 1].map(|_| at_work!(builder::<A>(A::counted(db.url()), ran).lease(LEASE)))
}

/// Looks for so long how many statements of workers are under way, and whether the application can
/// connect; says how many there were at most.
async fn under_way<A: Server>(db: &Scratch<A::Blocking>, at_least: Duration) -> i64 {
    let begin = Instant::now();
    let mut most = 0;
    while begin.elapsed() < at_least {
        most = most.max(A::Blocking::number(&mut db.observer(), A::UNDER_WAY));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    most
}

async fn until_all_ran<C: Database>(db: &Scratch<C>, ran: &Ran, calls: i32) {
    let begin = Instant::now();
    let number = "SELECT count(*) AS number FROM deferred_tasks WHERE state <> 'dead'";
    let mut observer = db.observer();
    while C::number(&mut observer, number) > 0 {
        assert!(begin.elapsed() < Duration::from_secs(90), "{} of {calls} ran: {:#?}", ran.count(), db.tasks().first());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(db.tasks(), [], "dead letters, of which nobody has begun one");
    ran.assert_once(calls);
}

/// Nobody gets at the table, for longer than a worker's patience: VACUUM FULL, a backup, CREATE
/// INDEX.
async fn d18_a_locked_table<A: Server>(db: &Scratch<A::Blocking>) {
    let ran = Ran::default();
    let workers = two::<A>(db, &ran);
    let mut calls = 0;
    for lock in A::TABLE_LOCKS {
        // Some are under way when it is locked.
        enqueue(db, calls..calls + 300);
        calls += 300;
        let mut other = db.observer();
        other.batch_execute(lock).expect("locked");
        let most = under_way::<A>(db, PATIENCE + Duration::from_secs(3)).await;
        assert!(most <= 2, "{lock}: {most} statements of two workers wait");
        drop(other);
        until_all_ran(db, &ran, calls).await;
    }
    for worker in workers {
        worker.stop().await;
    }
}

/// A transaction that has cancelled a task stays open for longer than a worker's patience, and the
/// task ends meanwhile: others end and begin as if nothing was.
async fn d18_a_locked_row<A: Server>(db: &Scratch<A::Blocking>) {
    let notes = Notes::default();
    let builder = Worker::<A>::builder(A::counted(db.url())).queue("default", 10).state(notes.clone());
    let at_work = at_work!(builder.poll_interval(Duration::from_millis(50)).lease(Duration::from_secs(3)));
    let locked = committed(db, |conn| hold("locked").max_attempts(1).after_commit(conn));
    notes.wait_for(1).await;
    let mut open = db.patient();
    open.batch_execute("BEGIN").expect("begun");
    assert_eq!(A::Blocking::tell(&mut open, cancel_task(locked)).expect("locked"), 1);
    notes.add("go");
    let (begin, mut most, mut round) = (Instant::now(), 0, 0);
    while begin.elapsed() < PATIENCE + Duration::from_secs(3) {
        committed(db, |conn| hold(&format!("{round}")).max_attempts(1).after_commit(conn));
        let end = format!("end {round}");
        notes.wait_until(|all| all.contains(&end)).await;
        round += 1;
        db.wait_for_tasks(|rows| rows.len() == 1).await;
        most = most.max(A::Blocking::number(&mut db.observer(), A::UNDER_WAY));
    }
    assert!(most <= 1, "{most} statements of one worker wait");
    assert!(round > 10, "only {round} ran meanwhile");
    open.batch_execute("COMMIT").expect("committed");
    // What ended well before anybody was told of the wish has ended well, or is cancelled.
    db.wait_for_tasks(|rows| rows.iter().all(|row| row.state == "cancelled")).await;
    at_work.stop().await;
    assert_eq!(with(&notes.all(), "begin ").len(), round + 1);
}

/// Each UPDATE takes 12 seconds: none of them is waited for twice, and none takes a task for nobody.
async fn d18_a_server_that_is_slow<A: Server>(db: &Scratch<A::Blocking>) {
    let ran = Ran::default();
    enqueue(db, 0..50);
    db.run_sql("UPDATE deferred_tasks SET queue = 'slow'");
    db.run_sql(A::HINDER);
    let workers = [0, 1].map(|_| {
        let builder = builder::<A>(A::counted(db.url()), &ran).queue("slow", 4);
        at_work!(builder.lease(LEASE))
    });
    let most = under_way::<A>(db, Duration::from_secs(13)).await;
    assert!(most <= 2, "{most} statements of two workers are under way");
    assert_eq!(ran.count(), 0);
    db.run_sql("UPDATE slowness SET seconds = 0");
    until_all_ran(db, &ran, 50).await;
    for worker in workers {
        worker.stop().await;
    }
}

/// One queue cannot be claimed of, and another one at a crawl: what a worker claims of its others it
/// keeps, and they go on.
async fn d18_a_queue_that_is_slow_or_broken<A: Server>(db: &Scratch<A::Blocking>) {
    let ran = Ran::default();
    enqueue(db, 0..3);
    for (id, queue) in [(0, "broken"), (1, "slow"), (2, "slower")] {
        db.run_sql(&format!(r#"UPDATE deferred_tasks SET queue = '{queue}' WHERE payload = '{{"id":{id}}}'"#));
    }
    db.run_sql(A::HINDER);
    let builder = Worker::<A>::builder(A::counted(db.url())).queue("broken", 4).queue("slow", 4).queue("given up", 4);
    let builder = builder.queue("slower", 4).queue("broken, too", 4).state(ran.0.clone());
    let at_work = at_work!(builder.poll_interval(Duration::from_millis(50)).lease(LEASE));
    let begin = Instant::now();
    // At the beginning nobody knows which of them are slow.
    let (mut calls, mut longest) = (3, Duration::ZERO);
    while begin.elapsed() < Duration::from_secs(20) {
        enqueue(db, calls..calls + 4);
        calls += 4;
        let left = "SELECT count(*) AS number FROM deferred_tasks WHERE queue = 'given up'";
        let waits = Instant::now();
        while A::Blocking::number(&mut db.observer(), left) > 0 {
            assert!(waits.elapsed() < Duration::from_secs(20), "{calls} calls, {} ran", ran.count());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if begin.elapsed() > PATIENCE * 2 {
            longest = longest.max(waits.elapsed());
        }
    }
    // What fails is left alone for longer than the test lasts, or fails at once.
    assert!(longest < PATIENCE / 2, "a call waited for {longest:?}");
    db.run_sql("UPDATE slowness SET seconds = 0");
    until_all_ran(db, &ran, calls).await;
    at_work.stop().await;
}

/// A claim on PostgreSQL may be several statements. The answer of its last one gets lost: what that one
/// took is given back, and what the ones before it took is run.
#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_d18_a_part_of_a_claim_is_lost() {
    type A = diesel_async::AsyncPgConnection;
    let db = &Scratch::<diesel::PgConnection>::with_tasks();
    let ran = Ran::default();
    let proxy = Proxy::new(server_of(db.url()));
    let at_work = at_work!(builder::<A>(proxy.in_front_of(&A::counted(db.url())), &ran));
    enqueue(db, 0..1);
    until_all_ran(db, &ran, 1).await;
    db.run_sql(
        "CREATE FUNCTION hinder() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1); RETURN NEW; END $$; \
         CREATE TRIGGER hinders BEFORE UPDATE ON deferred_tasks FOR EACH ROW WHEN (NEW.state = 'running' AND NEW.priority = 1) \
         EXECUTE FUNCTION hinder()",
    );
    // What is more urgent than the last call that was claimed is claimed first.
    committed(db, |conn| {
        single(1).priority(-1).after_commit(conn)?;
        single(2).priority(1).after_commit(conn)
    });
    let halfway = "SELECT count(*) AS number FROM pg_stat_activity, deferred_tasks \
                   WHERE application_name = current_schema()::text AND wait_event = 'PgSleep' AND deferred_tasks.state = 'running'";
    let observer = &mut db.observer();
    eventually("the last part is under way", || diesel::PgConnection::number(observer, halfway) > 0).await;
    assert_eq!(proxy.lose_answers(), 1);
    until_all_ran(db, &ran, 3).await;
    at_work.stop().await;
}

/// SQLite has one lock: a transaction that writes keeps it for longer than a worker's patience.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_d18_a_locked_database() {
    let db = &Scratch::<diesel::SqliteConnection>::with_tasks();
    let ran = Ran::default();
    let workers = [0, 1].map(|_| at_work!(builder::<AsyncSqliteConnection>(db.url().to_owned(), &ran).lease(LEASE)));
    enqueue(db, 0..300);
    let mut other = db.patient();
    other.batch_execute("BEGIN IMMEDIATE").expect("locked");
    tokio::time::sleep(PATIENCE + Duration::from_secs(3)).await;
    other.batch_execute("COMMIT").expect("unlocked");
    until_all_ran(db, &ran, 300).await;
    for worker in workers {
        worker.stop().await;
    }
}

/// What a worker on SQLite claims of a queue it keeps where another queue cannot be claimed of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_d18_a_queue_that_is_broken() {
    let db = &Scratch::<diesel::SqliteConnection>::with_tasks();
    let ran = Ran::default();
    enqueue(db, 0..1);
    db.run_sql("UPDATE deferred_tasks SET queue = 'broken'");
    db.run_sql(
        "CREATE TRIGGER hinders BEFORE UPDATE ON deferred_tasks WHEN NEW.queue = 'broken' \
         BEGIN SELECT RAISE(ABORT, 'broken'); END",
    );
    let builder = Worker::<AsyncSqliteConnection>::builder(db.url()).queue("broken", 4).queue("given up", 4);
    // The worker opens its connection anew each time. Where it was the last one SQLite would lock all
    // readers out for a moment.
    let mut open = db.observer();
    assert_eq!(diesel::SqliteConnection::tasks(&mut open).len(), 1);
    let at_work = at_work!(builder.poll_interval(Duration::from_millis(50)).state(ran.0.clone()));
    enqueue(db, 1..100);
    db.wait_for_tasks(|rows| rows.len() == 1).await;
    db.run_sql("DROP TRIGGER hinders");
    until_all_ran(db, &ran, 100).await;
    at_work.stop().await;
}

/// The isolation level is the worker's own: with another one, workers that meet would lose what they
/// have claimed.
async fn d18_whatever_isolation_is_the_default<A: Server>(db: &Scratch<A::Blocking>) {
    let ran = Ran::default();
    let mut calls = 0;
    db.run_sql(A::ONLY_READ_COMMITTED);
    for isolation in A::ISOLATION {
        let workers = [0, 1, 2].map(|_| {
            let url = A::counted(db.url());
            let builder = Worker::<A>::builder_with(move || {
                let url = url.clone();
                async move {
                    let mut conn = A::establish(&url).await?;
                    conn.batch_execute(isolation).await.map_err(diesel::ConnectionError::CouldntSetupConfiguration)?;
                    Ok(conn)
                }
            });
            at_work!(builder.queue("given up", 4).poll_interval(Duration::from_millis(50)).state(ran.0.clone()))
        });
        for _ in 0..10 {
            enqueue(db, calls..calls + 200);
            calls += 200;
        }
        until_all_ran(db, &ran, calls).await;
        for worker in workers {
            worker.stop().await;
        }
    }
}

/// C5: of 200 calls with one attempt 60 became dead letters that never ran. Now each of 8,000 runs,
/// and once, while the table is locked now and then, connections are ended in the middle of
/// anything, and answers get lost.
async fn d18_none_of_8000_calls_is_taken_for_nobody<A: Server>(db: &Scratch<A::Blocking>) {
    const CALLS: i32 = 8_000;
    let ran = Ran::default();
    let proxy = Proxy::new(server_of(db.url()));
    let workers = [0, 1].map(|_| at_work!(builder::<A>(proxy.in_front_of(&A::counted(db.url())), &ran)));
    let (mut locks, mut ends, mut lost) = (0, 0, 0);
    let begin = Instant::now();
    enqueue(db, 0..CALLS);
    while ran.count() < CALLS as usize {
        assert!(
            begin.elapsed() < Duration::from_secs(90),
            "{} ran after {locks} locks, {ends} connections ended, {lost} answers lost: {:#?}",
            ran.count(),
            db.tasks().iter().take(20).collect::<Vec<_>>()
        );
        // At any moment of their work. On a busy machine they would get nowhere if that went on for
        // ever.
        tokio::time::sleep(Duration::from_micros(fastrand::u64(0..200_000))).await;
        if locks + ends + lost >= 60 {
            continue;
        }
        match fastrand::u8(0..10) {
            0 => {
                let lock = A::TABLE_LOCKS[fastrand::usize(0..A::TABLE_LOCKS.len())];
                let mut other = db.observer();
                other.batch_execute(lock).expect("locked");
                tokio::time::sleep(Duration::from_micros(fastrand::u64(0..1_000_000))).await;
                locks += 1;
            }
            1..=4 => {
                let observer = &mut db.observer();
                let number = A::Blocking::number(observer, A::ANY);
                if number != 0 {
                    A::end(observer, number);
                    ends += 1;
                }
            }
            _ => lost += proxy.lose_answers(),
        }
    }
    until_all_ran(db, &ran, CALLS).await;
    eprintln!("{}: {locks} locks, {ends} connections ended, {lost} answers lost", A::Blocking::NAME);
    for worker in workers {
        worker.stop().await;
    }
}
