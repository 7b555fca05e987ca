//! What a commit tells the workers of other processes, and that nothing comes of it for the commit
//! itself.
//!
//! A process notifies once in a few milliseconds, and not for a while behind a notification that
//! failed: tests commit until it was their turn.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use diesel::connection::SimpleConnection;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, Pool};
use diesel::result::{DatabaseErrorKind, Error};
use diesel::sql_types::Integer;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, deadpool};
use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};
use diesel_deferred::{
    AsyncDeferrable, AsyncDeferredConnection, Deferrable, DeferredConnection, NewTask, StoredCalls, atomic,
    never_notify,
};
use diesel_deferred_tests::{
    Database, Log, Scratch, events_with, in_front_of, instead, notifies, noting, record, record_async, rolled_back,
    server_of,
};

use crate::tasks::{count, first, ready};

/// It notifies, and this is what the server gets instead: what fails at once, as a notification
/// does when the queue of them is full, ...
const FAILS: &str = "SELECT 1/0 AS too_bad";
/// ... or what waits for a lock, as a notification does while another session sends one and waits
/// for its COMMIT.
const WAITS: &str = "LOCK witness         ";

/// The database, behind something that changes what it is sent.
fn with_notifications_that(this: &'static str, db: &Scratch<PgConnection>) -> String {
    PgConnection::migrate(&mut db.observer());
    in_front_of(&instead(server_of(db.url()), "NOTIFY deferred_tasks", this), db.url())
}

/// How many notifications of this connection the listener has heard since the last time.
fn heard(listener: &mut PgConnection, pid: i32) -> usize {
    listener.batch_execute("SELECT 1").unwrap();
    let notifications: Vec<_> = listener.notifications_iter().map(Result::unwrap).collect();
    notifications.into_iter().filter(|notification| notification.process_id == pid).count()
}

fn listening(db: &Scratch<PgConnection>) -> PgConnection {
    let mut listener = db.observer();
    // Notifications are the database's, not the schema's, so that those of other tests are heard
    // too.
    listener.batch_execute("LISTEN deferred_tasks").unwrap();
    listener
}

fn pid(conn: &mut DeferredConnection<PgConnection>) -> i32 {
    diesel::select(sql::<Integer>("pg_backend_pid()")).get_result(conn).unwrap()
}

/// D7: at most one for a transaction that has stored what is due, however many statements that
/// took; none for another.
#[test]
fn d07_at_most_one_notification_for_a_transaction() {
    let db = &Scratch::<PgConnection>::new();
    let conn = &mut ready(db);
    let (mut listener, pid) = (listening(db), pid(conn));
    let statements = record(conn);
    let mut told = || {
        let told = statements.take().iter().filter(|sql| notifies(sql)).count();
        assert_eq!(heard(&mut listener, pid), told);
        told
    };
    for (due, block) in [
        (true, (|_| first(1)) as fn(i32) -> first),
        (false, |_| first(1).delay(Duration::from_secs(60))),
        (false, |_| first(1).run_at(SystemTime::now() + Duration::from_secs(60))),
        (true, |_| first(1).run_at(SystemTime::UNIX_EPOCH)),
        (true, |_| first(1).delay(Duration::ZERO)),
        (true, |id| first(1).delay(Duration::from_secs(if id == 7 { 0 } else { 60 }))),
    ] {
        let mut run = |commits: bool| {
            let result = atomic!(conn, -> QueryResult<()>, {
                for id in 0..10 {
                    block(id);
                }
                if commits { Ok(()) } else { rolled_back() }
            });
            assert_eq!(result.is_ok(), commits);
            told()
        };
        assert_eq!(run(false), 0);
        while run(true) < usize::from(due) {}
    }
    // Each of them is stored by a statement of its own.
    loop {
        atomic!(conn, -> QueryResult<()>, {
            for _ in 0..3 {
                atomic!(conn, -> QueryResult<()>, {
                    for id in 0..10_000 {
                        first(id);
                    }
                    Ok(())
                })?;
            }
            Ok(())
        })
        .unwrap();
        if told() == 1 {
            break;
        }
    }
}

/// Commits until that has notified; says how often.
fn commit_until_told<C: Deferrable>(conn: &mut DeferredConnection<C>, hooks: bool) -> i64 {
    let statements = record(conn);
    let log = Log::new();
    for n in 1.. {
        let written = atomic!(conn, -> QueryResult<i64>, {
            first(1);
            if hooks {
                conn.after_commit(noting(&log, 1))?;
            }
            Ok(n)
        });
        assert_eq!(written, Ok(n), "it was committed");
        assert_eq!(log.ran().len() as i64, if hooks { n } else { 0 });
        assert!(conn.last_report().is_clean(), "{:?}", conn.last_report());
        if statements.take().iter().any(|sql| notifies(sql)) {
            // And is as before.
            assert!(!conn.in_transaction());
            atomic!(conn, -> QueryResult<()>, { Ok(()) }).unwrap();
            assert_eq!(statements.take(), ["BEGIN", "COMMIT"]);
            return n;
        }
    }
    unreachable!("it is everybody's turn some time")
}

async fn commit_until_told_async<C: AsyncDeferrable>(conn: &mut AsyncDeferredConnection<C>, hooks: bool) -> i64 {
    let statements = record_async(conn);
    let ran = std::sync::Arc::new(std::sync::atomic::AtomicI64::new(0));
    for n in 1.. {
        let written = atomic!(conn, -> QueryResult<i64>, async {
            first(1);
            if hooks {
                let ran = std::sync::Arc::clone(&ran);
                conn.after_commit(async move |_| assert!(ran.fetch_add(1, Ordering::SeqCst) < n))?;
            }
            Ok(n)
        })
        .await;
        assert_eq!(written, Ok(n), "it was committed");
        assert_eq!(ran.load(Ordering::SeqCst), if hooks { n } else { 0 });
        if statements.take().iter().any(|sql| notifies(sql)) {
            assert!(!conn.in_transaction());
            atomic!(conn, -> QueryResult<()>, async { Ok(()) }).await.unwrap();
            assert_eq!(statements.take(), ["BEGIN", "COMMIT"]);
            return n;
        }
    }
    unreachable!("it is everybody's turn some time")
}

#[derive(diesel::MultiConnection)]
enum Any {
    Pg(PgConnection),
}

impl Deferrable for Any {
    fn store_calls(&mut self, calls: &[NewTask]) -> QueryResult<StoredCalls> {
        let Self::Pg(conn) = self;
        conn.store_calls(calls)
    }
}

/// D17: of all kinds of connections, whatever they need to believe a COMMIT.
async fn every_connection_commits(db: &Scratch<PgConnection>, url: &str) {
    for hooks in [false, true] {
        let mut committed = 0;
        let plain = || PgConnection::establish(url).unwrap();
        committed += commit_until_told(&mut DeferredConnection::new(plain()), hooks);
        committed += commit_until_told(&mut DeferredConnection::new(Any::Pg(plain())), hooks);
        let around = Pool::builder().max_size(1).build(ConnectionManager::<PgConnection>::new(url)).unwrap();
        committed += commit_until_told(&mut DeferredConnection::new(around.get().unwrap()), hooks);
        let manager = ConnectionManager::<DeferredConnection<PgConnection>>::new(url);
        let of_ours = Pool::builder().max_size(1).build(manager).unwrap();
        committed += commit_until_told(&mut of_ours.get().unwrap(), hooks);
        let conn = AsyncPgConnection::establish(url).await.unwrap();
        committed += commit_until_told_async(&mut AsyncDeferredConnection::new(conn), hooks).await;
        let manager = AsyncDieselConnectionManager::<AsyncPgConnection>::new(url);
        let around = deadpool::Pool::builder(manager).max_size(1).build().unwrap();
        committed +=
            commit_until_told_async(&mut AsyncDeferredConnection::new(around.get().await.unwrap()), hooks).await;
        assert_eq!(count(db), committed);
        db.run_sql("DELETE FROM deferred_tasks");
    }
}

/// D17: "a full notification queue fails no COMMIT, and no committed one is called failed".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d17_a_notification_that_fails_fails_no_commit() {
    let db = &Scratch::<PgConnection>::new();
    let url = &with_notifications_that(FAILS, db);
    every_connection_commits(db, url).await;
    assert!(!events_with("workers of other processes could not be told").is_empty());
}

/// D17: "a user's COMMIT waits for nothing that it would not wait for without calls".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d17_a_notification_that_has_to_wait_fails_no_commit() {
    let db = &Scratch::<PgConnection>::new();
    let url = &with_notifications_that(WAITS, db);
    let mut other = db.observer();
    other.batch_execute("BEGIN; LOCK witness").unwrap();
    every_connection_commits(db, url).await;
}

/// D17, E6, D7: it is the COMMIT that fails, for a reason that Diesel knows or one that it does
/// not. Then nothing is told, unless another commit has left it to this one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d17_a_commit_that_fails_has_failed() {
    let db = &Scratch::<PgConnection>::new();
    let conn = &mut ready(db);
    db.run_sql(
        "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN IF new.id = 1 THEN RAISE foreign_key_violation; \
         ELSE RAISE 'out of luck'; END IF; END $$ LANGUAGE plpgsql; \
         CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON witness DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    let is_right = |id: i32, failed: &QueryResult<()>| match failed {
        Err(Error::DatabaseError(DatabaseErrorKind::ForeignKeyViolation, _)) => id == 1,
        Err(Error::DatabaseError(DatabaseErrorKind::Unknown, about)) => id == 2 && about.message() == "out of luck",
        _ => false,
    };
    let (mut listener, pid) = (listening(db), pid(conn));
    let log = Log::new();
    for (id, hooks) in [(1, false), (2, false), (1, true), (2, true)] {
        let statements = record(conn);
        loop {
            let failed = atomic!(conn, -> QueryResult<()>, {
                first(id);
                if hooks {
                    conn.after_commit(noting(&log, 1))?;
                }
                PgConnection::insert(conn, id)
            });
            assert!(is_right(id, &failed), "{failed:?}");
            assert!(!conn.in_transaction());
            let sent = statements.take();
            let left = sent.iter().filter(|sql| *sql == "NOTIFY deferred_tasks").count();
            assert_eq!(heard(&mut listener, pid), left);
            if sent.iter().any(|sql| notifies(sql)) {
                break;
            }
        }
        let conn = &mut db.connect_async::<AsyncPgConnection>().await;
        let statements = record_async(conn);
        loop {
            let failed = atomic!(conn, -> QueryResult<()>, async {
                first(id);
                SimpleAsyncConnection::batch_execute(conn, &format!("INSERT INTO witness VALUES ({id})")).await
            })
            .await;
            assert!(is_right(id, &failed), "{failed:?}");
            assert!(!conn.in_transaction());
            if statements.take().iter().any(|sql| notifies(sql)) {
                break;
            }
        }
    }
    assert_eq!((count(db), log.ran().len()), (0, 0));
}

/// D17: a commit that has told nobody, because another one was about to, is told of even where that
/// other one fails.
#[test]
fn d17_a_commit_that_fails_tells_of_those_that_relied_on_it() {
    let db = &Scratch::<PgConnection>::new();
    let conn = &mut ready(db);
    db.run_sql(
        "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN PERFORM pg_sleep(0.02); RAISE 'out of luck'; END $$ \
         LANGUAGE plpgsql; CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON witness DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    let (mut listener, pid) = (listening(db), pid(conn));
    let statements = record(conn);
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let conn = &mut db.connect();
            while !over.load(Ordering::SeqCst) {
                atomic!(conn, -> QueryResult<()>, {
                    first(1);
                    Ok(())
                })
                .unwrap();
            }
        });
        let told = (0..500).any(|_| {
            let failed = atomic!(conn, -> QueryResult<()>, {
                first(2);
                PgConnection::insert(conn, 1)
            });
            assert!(failed.is_err());
            let sent = statements.take();
            let told = sent.iter().filter(|sql| *sql == "NOTIFY deferred_tasks").count();
            assert_eq!(heard(&mut listener, pid), told);
            told == 1
        });
        over.store(true, Ordering::SeqCst);
        assert!(told, "nobody was told");
    });
}

/// D17: "no notification for the enqueuer can be had".
#[test]
fn d17_a_process_that_never_notifies() {
    // For good, so that it is a process of its own.
    if std::env::var_os("ALONE").is_none() {
        let alone = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "notified::d17_a_process_that_never_notifies"])
            .env("ALONE", "1")
            .output()
            .expect("it begins");
        let said = String::from_utf8_lossy(&alone.stdout);
        assert!(alone.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let db = &Scratch::<PgConnection>::new();
    let conn = &mut ready(db);
    // As ever.
    assert_eq!(commit_until_told(conn, false), 1);
    commit_until_told(conn, false);
    never_notify();
    let statements = record(conn);
    let (mut listener, pid) = (listening(db), pid(conn));
    let begin = std::time::Instant::now();
    while begin.elapsed() < Duration::from_millis(50) {
        statements.take();
        atomic!(conn, -> QueryResult<()>, {
            first(1);
            Ok(())
        })
        .unwrap();
        let sent = statements.take();
        assert_eq!((&*sent[0], &*sent[2]), ("BEGIN", "COMMIT"), "{sent:?}");
        assert_eq!((sent.len(), heard(&mut listener, pid)), (3, 0));
    }
}
