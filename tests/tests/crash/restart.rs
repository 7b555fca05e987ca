//! A server that is away when the worker starts, is restarted while it works, and crashes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use diesel::connection::Connection;
use diesel::result::QueryResult;
use diesel_deferred::{DeferredConnection, Worker, atomic, deferred_task};
use diesel_deferred_tests::{AsyncDatabase, Database, Notes, Scratch, at_work, eventually};

use crate::server::{End, Server};

#[deferred_task(durable, queue = "restart", backoff = "50ms")]
async fn survive(#[state] notes: &Notes, id: i32) {
    notes.add(id.to_string());
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d04_postgres_is_restarted() {
    restarts::<diesel_async::AsyncPgConnection>(Server::postgres()).await;
}

#[cfg(feature = "mysql")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d04_mysql_is_restarted() {
    restarts::<diesel_async::AsyncMysqlConnection>(Server::mysql()).await;
}

/// D1, E11: the connection that enqueues is ended while its COMMIT waits: the witness and the task
/// share one fate. In a server of the test's own, because the lock is on all that it has; and not
/// on MySQL, which has no lock that keeps only COMMIT waiting.
#[cfg(feature = "mysql")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d01_mariadb_ends_a_commit() {
    use diesel::MysqlConnection;
    use diesel::connection::SimpleConnection;
    let mut server = Server::mysql();
    server.start::<MysqlConnection>();
    let db = &Scratch::<MysqlConnection>::at(server.url());
    let observer = &mut db.observer();
    MysqlConnection::migrate(observer);
    if MysqlConnection::number(observer, "SELECT VERSION() LIKE '%MariaDB%' AS number") == 0 {
        crate::say!("not on MySQL: it has no lock that keeps only COMMIT waiting");
        return;
    }
    let notes = Notes::default();
    let worker = Worker::<diesel_async::AsyncMysqlConnection>::builder(server.url()).queue("restart", 4);
    let worker = at_work!(worker.poll_interval(Duration::from_millis(50)).state(notes.clone()));
    enqueue(&mut db.connect(), 1).expect("committed");
    notes.wait_for(1).await;
    db.wait_for_tasks(|rows| rows.is_empty()).await;

    let mut lock = db.observer();
    lock.batch_execute("BACKUP STAGE START; BACKUP STAGE BLOCK_COMMIT").expect("locked");
    let mut conn = db.connect();
    let committing = tokio::task::spawn_blocking(move || enqueue(&mut conn, 2));
    let mut waits = 0;
    eventually("COMMIT waits", || {
        let waiting = "SELECT CAST(COALESCE(MAX(id), 0) AS SIGNED) AS number FROM information_schema.processlist \
             WHERE info LIKE 'COMMIT%' AND state LIKE 'Waiting for backup lock%'";
        waits = MysqlConnection::number(observer, waiting);
        waits != 0
    })
    .await;
    observer.batch_execute(&format!("KILL CONNECTION {waits}")).expect("ended");
    let ended = committing.await.expect("no panic");
    assert!(ended.is_err(), "{ended:?}");
    lock.batch_execute("BACKUP STAGE END").expect("unlocked");
    enqueue(&mut db.connect(), 3).expect("committed");
    notes.wait_until(|all| all.iter().any(|id| id == "3")).await;
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    worker.stop().await;
    let committed: Vec<_> = db.committed().iter().map(i32::to_string).collect();
    crate::say!("COMMIT was ended while it waited: {ended:?}, and {committed:?} are there");
    assert_eq!(notes.all(), committed);
}

/// How often a server is restarted, and how.
const ENDS: [End; 4] = [End::Fast, End::Crash, End::Fast, End::Crash];

/// D1, D4
async fn restarts<A: AsyncDatabase>(mut server: Server) {
    server.start::<A::Blocking>();
    let db = &Scratch::<A::Blocking>::at(server.url());
    A::Blocking::migrate(&mut db.observer());
    enqueue(&mut db.connect(), 0).expect("committed");
    server.end::<A::Blocking>(End::Fast);

    // The server is away when the worker starts.
    let (notes, tries) = (Notes::default(), Arc::new(AtomicUsize::new(0)));
    let (url, tried) = (server.url().to_owned(), Arc::clone(&tries));
    let worker = Worker::<A>::builder_with(move || {
        let url = url.clone();
        tried.fetch_add(1, Ordering::Relaxed);
        async move { A::establish(&url).await }
    });
    let worker = worker.queue("restart", 4).lease(Duration::from_secs(2)).poll_interval(Duration::from_millis(50));
    let worker = at_work!(worker.state(notes.clone()));
    eventually("it tries again", || tries.load(Ordering::Relaxed) >= 3).await;
    assert!(!worker.has_ended());
    server.start::<A::Blocking>();
    assert_eq!(notes.wait_for(1).await, ["0"]);

    // It is restarted while others enqueue, and the worker works.
    let (over, last) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI32::new(0)));
    let load = tokio::task::spawn_blocking({
        let (over, last, url) = (Arc::clone(&over), Arc::clone(&last), server.url().to_owned());
        move || enqueue_until::<A::Blocking>(&over, &last, &url)
    });
    for end in ENDS {
        let (ran, called) = (notes.all().len(), last.load(Ordering::Relaxed));
        eventually("it is at work", || notes.all().len() > ran + 20 && last.load(Ordering::Relaxed) > called).await;
        server.end::<A::Blocking>(end);
        server.start::<A::Blocking>();
    }
    let ran = notes.all().len();
    eventually("it is at work again", || notes.all().len() > ran).await;
    over.store(true, Ordering::Relaxed);
    let failed = load.await.expect("no panic");
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    worker.stop().await;

    let committed = db.committed();
    let mut ran: Vec<i32> = notes.all().iter().map(|id| id.parse().expect("a number")).collect();
    let runs = ran.len();
    ran.sort_unstable();
    ran.dedup();
    crate::say!(
        "{}: {} blocks committed and {failed} failed over {} restarts; {runs} runs, {} of them again",
        A::Blocking::NAME,
        committed.len(),
        ENDS.len(),
        runs - ran.len()
    );
    assert_eq!(ran, committed, "what ran, and what was committed");
}

/// A witness, and a task.
fn enqueue<C: Database>(conn: &mut DeferredConnection<C>, id: i32) -> QueryResult<()> {
    atomic!(conn, {
        C::insert(conn, id)?;
        survive(id).after_commit(conn)?;
        Ok(())
    })
}

/// Says how many blocks failed, which may have been committed all the same.
fn enqueue_until<C: Database>(over: &AtomicBool, last: &AtomicI32, url: &str) -> usize {
    let mut failed = 0;
    while !over.load(Ordering::Relaxed) {
        let Ok(mut conn) = DeferredConnection::<C>::establish(url) else { continue };
        while !over.load(Ordering::Relaxed) {
            if enqueue(&mut conn, last.fetch_add(1, Ordering::Relaxed) + 1).is_err() {
                failed += 1;
                break;
            }
        }
    }
    failed
}
