//! Workers behind PgBouncer in transaction mode, and connections that enqueue there.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use diesel::connection::CacheSize;
use diesel::prelude::*;
use diesel_async::{AsyncConnection, AsyncPgConnection};
use diesel_deferred::{AsyncDeferredConnection, DeferredConnection, Worker, WorkerBuilder, atomic, deferred_task};
use diesel_deferred_tests::{Notes, Pooler, Scratch, at_work, events_with, eventually};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::support::{committed, hold, note, with, words};

/// Fails all of its attempts.
#[deferred_task(durable, max_attempts = 3, backoff = "10ms")]
async fn give_up(#[state] notes: &Notes) -> Result<(), &'static str> {
    notes.add("failed");
    Err("no")
}

/// How many sessions the pool has.
const SESSIONS: u32 = 2;

fn worker(db: &Scratch<PgConnection>, pooler: &Pooler, notes: &Notes) -> WorkerBuilder<AsyncPgConnection> {
    let builder = Worker::builder(pooler.in_front_of(db.url())).queue("default", 10).state(notes.clone());
    builder.poll_interval(Duration::from_millis(20))
}

/// A client that prepares nothing.
async fn client(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("a connection");
    tokio::spawn(connection);
    client
}

/// The first column of all rows.
async fn ask(client: &Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
        _ => None,
    });
    rows.collect()
}

/// All that somebody has left in a session: settings that are not the server's (but for those that
/// PgBouncer sets for each of its clients), channels, and prepared statements, but for those that a
/// newer PgBouncer shares between its clients, under names of its own.
const LEFT: &str = "SELECT name || ' = ' || setting FROM pg_settings WHERE source = 'session' AND lower(name) NOT IN \
     ('application_name', 'client_encoding', 'datestyle', 'intervalstyle', 'standard_conforming_strings', 'timezone') \
     UNION ALL SELECT 'listens to ' || channel FROM pg_listening_channels() AS channel \
     UNION ALL SELECT 'has prepared ' || statement FROM pg_prepared_statements \
     WHERE name NOT LIKE 'PGBOUNCER%'";

/// What there is of the settings that a worker changes.
const SETTINGS: &str = "SELECT name || ' = ' || setting FROM pg_settings WHERE name IN ('synchronous_commit', 'enable_seqscan', \
     'enable_bitmapscan', 'enable_sort', 'plan_cache_mode', 'jit', 'default_transaction_isolation', \
     'default_transaction_read_only', 'statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout') ORDER BY name";

/// Asks in all sessions of the pool: in each of them a client has a transaction meanwhile.
async fn in_all_sessions(url: &str, sql: &str) -> Vec<Vec<String>> {
    let mut clients = Vec::new();
    for _ in 0..SESSIONS {
        let client = client(url).await;
        ask(&client, "BEGIN").await;
        clients.push(client);
    }
    let mut answers = Vec::new();
    for client in clients {
        answers.push(ask(&client, sql).await);
        ask(&client, "COMMIT").await;
    }
    answers
}

/// D25: other clients of the pool look into its sessions while a worker works, and after it, and
/// find nothing of the worker's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d25_other_clients_see_nothing_of_a_worker() {
    let (db, pooler) = (&Scratch::database_with_tasks(), Pooler::new(SESSIONS));
    let url = pooler.in_front_of(db.url());
    let defaults = ask(&client(db.url()).await, SETTINGS).await;
    assert_eq!(defaults.len(), 11);
    let notes = Notes::default();
    committed(db, |conn| {
        for n in 0..20 {
            note(&n.to_string()).after_commit(conn)?;
            note(&n.to_string()).key((n % 3).to_string()).after_commit(conn)?;
        }
        give_up().after_commit(conn)
    });
    let at_work = at_work!(worker(db, &pooler, &notes));
    let done = Arc::new(AtomicBool::new(false));
    // One asks between the worker's transactions ...
    let (until, address, expected) = (Arc::clone(&done), url.clone(), defaults.clone());
    let beside = tokio::spawn(async move {
        let client = client(&address).await;
        let mut asked = 0;
        while !until.load(Ordering::SeqCst) {
            assert_eq!(ask(&client, LEFT).await, [""; 0]);
            assert_eq!(ask(&client, SETTINGS).await, expected);
            asked += 1;
        }
        asked
    });
    // ... and some in all sessions.
    for round in 0..10 {
        words(db, &["more"]);
        notes.wait_until(|all| all.iter().filter(|note| *note == "more").count() > round).await;
        assert_eq!(in_all_sessions(&url, LEFT).await, vec![Vec::<String>::new(); SESSIONS as usize]);
    }
    db.wait_for_tasks(|rows| rows.len() == 1 && rows[0].state == "dead").await;
    done.store(true, Ordering::SeqCst);
    assert!(beside.await.expect("it saw nothing") > 10);
    let report = at_work.stop().await;
    assert_eq!((report.ran, report.released), (40 + 10 + 3, 0));
    assert_eq!(in_all_sessions(&url, LEFT).await, vec![Vec::<String>::new(); SESSIONS as usize]);
    assert_eq!(in_all_sessions(&url, SETTINGS).await, vec![defaults; SESSIONS as usize]);
}

/// The test before this one can fail: what a worker sets that was told of no pooler, others see.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d25_other_clients_would_see_what_is_set() {
    let (db, pooler) = (&Scratch::database_with_tasks(), Pooler::new(SESSIONS));
    let url = pooler.in_front_of(db.url());
    let notes = Notes::default();
    words(db, &["a"]);
    let at_work = at_work!(worker(db, &pooler, &notes).transaction_pooler(false));
    notes.wait_for(1).await;
    let left = in_all_sessions(&url, LEFT).await.concat();
    at_work.stop().await;
    let mut expected = vec!["synchronous_commit = off", "enable_seqscan = off", "listens to deferred_tasks"];
    expected.extend((!pooler.keeps_statements()).then_some("has prepared "));
    for what in expected {
        assert!(left.iter().any(|left| left.starts_with(what)), "{what}: {left:?}");
    }
}

/// The events about a pooler of workers that look in this interval.
fn said(interval: &str) -> usize {
    let field = format!("poll_interval={interval}\n");
    events_with("no session of its own").into_iter().filter(|event| event.contains(&field)).count()
}

/// D25: "says so once": also where it has to connect again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d25_a_worker_says_so_once() {
    let (db, mut pooler) = (&Scratch::database_with_tasks(), Pooler::new(SESSIONS));
    let notes = Notes::default();
    let at_work = at_work!(worker(db, &pooler, &notes).poll_interval(Duration::from_millis(21)));
    words(db, &["a"]);
    notes.wait_for(1).await;
    assert_eq!(said("21ms"), 1);
    pooler.restart();
    words(db, &["b"]);
    notes.wait_for(2).await;
    at_work.stop().await;
    assert_eq!(said("21ms"), 1);

    // Nobody has to be told what he has said himself.
    let interval = Duration::from_millis(22);
    let at_work = at_work!(worker(db, &pooler, &notes).poll_interval(interval).transaction_pooler(true));
    words(db, &["c"]);
    notes.wait_for(3).await;
    let left = in_all_sessions(&pooler.in_front_of(db.url()), LEFT).await.concat();
    assert_eq!(left, [""; 0]);
    at_work.stop().await;
    assert_eq!(said("22ms"), 0);
}

/// D25: not where there is none, and not where something forwards each connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d25_a_worker_without_a_pooler_has_a_session() {
    let db = &Scratch::<PgConnection>::with_tasks();
    let proxy = diesel_deferred_tests::Proxy::new(diesel_deferred_tests::server_of(db.url()));
    for (at, url) in [db.url().to_owned(), proxy.in_front_of(db.url())].iter().enumerate() {
        let notes = Notes::default();
        let builder = Worker::<AsyncPgConnection>::builder(url).queue("default", 1).state(notes.clone());
        let interval = Duration::from_millis(23 + at as u64);
        let at_work = at_work!(builder.poll_interval(interval));
        words(db, &["a"]);
        notes.wait_for(1).await;
        at_work.stop().await;
        assert_eq!(said(&format!("{interval:?}")), 0, "{url}");
    }
}

/// D25: one session for two workers and everybody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d25_one_session_is_enough() {
    let (db, pooler) = (&Scratch::database_with_tasks(), Pooler::new(1));
    let (notes, count) = (Notes::default(), 60);
    let first = at_work!(worker(db, &pooler, &notes).lease(Duration::from_secs(1)));
    let second = at_work!(worker(db, &pooler, &notes).lease(Duration::from_secs(1)));
    for n in 0..count / 2 {
        committed(db, |conn| {
            note(&n.to_string()).after_commit(conn)?;
            note(&n.to_string()).key((n % 2).to_string()).after_commit(conn)
        });
    }
    committed(db, |conn| hold("x").after_commit(conn));
    notes.wait_for(count + 1).await;
    // Its lease is extended.
    let end = crate::support::lease_end(db);
    crate::support::lease_extended(db, end, 1_000).await;
    notes.add("go");
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    let ran = first.stop().await.ran + second.stop().await.ran;
    assert_eq!(ran, count as u64 + 1);
    assert_eq!(with(&notes.all(), "begin "), ["x"]);
}

/// The tests of a worker that need no session of its own pass behind a pooler: they are run once
/// more, with their workers there.
#[test]
fn d25_a_workers_tests_pass_behind_a_pooler() {
    let pooler = Pooler::new(4);
    let mut program = Command::new(std::env::current_exe().expect("this program"));
    pooler.in_front_of_workers(&mut program);
    program.args(["::postgres::", "--test-threads", "8"]);
    // These have addresses of their own for their workers.
    program.args(["--skip", "given_up::", "--skip", "told::rights::"]);
    // Its delay is over before a worker has begun that finds no session to be had yet.
    program.args(["--skip", "a_busy_worker_starts_what_is_due"]);
    let output = program.output().expect("it begins");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let passed = said.matches(" ... ok").count();
    assert!(passed > 80, "{passed}: {said}");
}

/// Calls a task in a block, and says whether that was committed.
fn enqueue(conn: &mut DeferredConnection<PgConnection>, word: &str) -> QueryResult<()> {
    atomic!(conn, -> QueryResult<()>, {
        note(word);
        Ok(())
    })
}

async fn enqueue_async(conn: &mut AsyncDeferredConnection<AsyncPgConnection>, word: &str) -> QueryResult<()> {
    atomic!(conn, -> QueryResult<()>, async {
        note(word);
        Ok(())
    })
    .await
}

/// What the documentation says of connections that enqueue: blocks work behind any pooler where
/// Diesel prepares nothing for later; with what it does by default the pooler must keep prepared
/// statements.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d25_an_enqueuing_connection_keeps_no_prepared_statements() {
    let (db, pooler) = (&Scratch::database_with_tasks(), Pooler::new(SESSIONS));
    let url = pooler.in_front_of(db.url());
    let mut expected = Vec::new();
    for size in [CacheSize::Disabled, CacheSize::Unbounded] {
        // What is prepared for later, from the second time on. One connection after the other: while
        // the pooler is still busy with one of them, it gives the other one another session.
        let sync = &mut DeferredConnection::<PgConnection>::establish(&url).expect("a connection");
        sync.set_prepared_statement_cache_size(size);
        for round in 0..3 {
            assert_eq!(enqueue(sync, "sync"), Ok(()), "{size:?}, {round}");
        }
        let conn = &mut AsyncDeferredConnection::<AsyncPgConnection>::establish(&url).await.expect("a connection");
        conn.set_prepared_statement_cache_size(size);
        for round in 0..3 {
            assert_eq!(enqueue_async(conn, "async").await, Ok(()), "{size:?}, {round}");
        }
        expected.extend(["note"; 6]);
        // Somebody else has the session that they had.
        let other = client(&url).await;
        ask(&other, "BEGIN").await;
        let works = matches!(size, CacheSize::Disabled) || pooler.keeps_statements();
        assert_eq!(enqueue(sync, "sync").is_ok(), works, "{size:?}");
        assert_eq!(enqueue_async(conn, "async").await.is_ok(), works, "{size:?}");
        expected.extend(works.then_some(["note"; 2]).into_iter().flatten());
        ask(&other, "COMMIT").await;
    }
    let notes = Notes::default();
    let builder = Worker::<AsyncPgConnection>::builder(db.url()).queue("default", 1).state(notes.clone());
    let report = builder.build().expect("a worker").run_until_empty().await.expect("it works");
    assert_eq!(report.ran, expected.len() as u64);
}

/// A notification goes through a pooler: a worker that is connected directly hears it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d25_notifications_go_through_a_pooler() {
    let (db, pooler) = (&Scratch::database_with_tasks(), Pooler::new(SESSIONS));
    let url = pooler.in_front_of(db.url());
    let mut listener = db.observer();
    diesel::sql_query("LISTEN deferred_tasks").execute(&mut listener).expect("it listens");
    let mut hears = move || {
        diesel::sql_query("SELECT 1").execute(&mut listener).expect("asked");
        listener.notifications_iter().count() > 0
    };
    let sync = &mut DeferredConnection::<PgConnection>::establish(&url).expect("a connection");
    sync.set_prepared_statement_cache_size(CacheSize::Disabled);
    eventually("a notification", || {
        enqueue(sync, "sync").expect("committed");
        hears()
    })
    .await;
    let conn = &mut AsyncDeferredConnection::<AsyncPgConnection>::establish(&url).await.expect("a connection");
    conn.set_prepared_statement_cache_size(CacheSize::Disabled);
    let heard = async {
        while !hears() {
            enqueue_async(conn, "async").await.expect("committed");
        }
    };
    tokio::time::timeout(Duration::from_secs(20), heard).await.expect("a notification");
}

/// D25: nothing that the database has as a default is in the way, although no session is set up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d25_whatever_the_defaults_are() {
    let (db, pooler) = (&Scratch::database_with_tasks(), Pooler::new(SESSIONS));
    let notes = Notes::default();
    words(db, &["a"]);
    committed(db, |conn| note("b").key("b").after_commit(conn));
    // In this order: the second one is a default of all sessions from then on.
    for default in ["default_transaction_isolation = serializable", "default_transaction_read_only = on"] {
        let alter = format!("EXECUTE format('ALTER DATABASE %I SET {default}', current_database())");
        db.run_sql(&format!("DO $$ BEGIN {alter}; END $$"));
    }
    let report = worker(db, &pooler, &notes).build().expect("a worker").run_until_empty().await.expect("it works");
    assert_eq!(report.ran, 2);
    assert_eq!(db.tasks(), []);
}
