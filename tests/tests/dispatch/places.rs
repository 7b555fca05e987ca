//! Which thread commits: `async` and `blocking` tasks run from all of them, after COMMIT, if it was
//! one.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, Dispatcher, atomic, deferred_task};
use diesel_deferred_tests::{Database, Scratch, on_every_database, rolled_back};
use tokio::runtime::Builder;

use crate::support::{LONG, runtime};

type Look = Arc<dyn Fn() -> Vec<i32> + Send + Sync>;

fn watcher<C: Database>(db: &Scratch<C>) -> Look {
    Arc::new(db.watcher())
}

#[deferred_task]
async fn look(watch: Look, tell: Sender<Vec<i32>>) -> Result<(), String> {
    tokio::task::yield_now().await;
    tell.send(watch()).map_err(|error| error.to_string())
}

#[deferred_task(blocking)]
fn look_blocking(watch: Look, tell: Sender<Vec<i32>>) {
    tell.send(watch()).expect("somebody listens");
}

/// What the tasks tell, and the connection: SQLite locks the file when the last one is closed.
type Told<C> = (Receiver<Vec<i32>>, DeferredConnection<C>);

/// Rolls one block back and commits another on this thread, with a task of each kind in both.
fn commit<C: Database>(url: &str, watch: &Look, dispatcher: &Dispatcher) -> Told<C> {
    let mut owned = DeferredConnection::<C>::establish(url).expect("connect");
    let conn = &mut owned;
    conn.set_dispatcher(dispatcher.clone());
    let (tell, told) = channel();
    let result: QueryResult<()> = atomic!(conn, {
        C::insert(conn, 1)?;
        look(watch.clone(), tell.clone());
        look_blocking(watch.clone(), tell.clone());
        rolled_back()
    });
    assert!(result.is_err());
    atomic!(conn, -> QueryResult<()>, {
        C::insert(conn, 2)?;
        look(watch.clone(), tell.clone());
        look_blocking(watch.clone(), tell.clone());
        assert_eq!((dispatcher.in_flight(), dispatcher.waiting()), (0, 0), "a task was handed over before COMMIT");
        Ok(())
    })
    .expect("commits");
    assert_eq!(conn.last_report().ran(), 2);
    assert!(conn.last_report().is_clean(), "{}", conn.last_report());
    (told, owned)
}

/// Both tasks found the row from a connection of their own; those of the block that was rolled back
/// never came.
fn check<C>((told, _conn): Told<C>) {
    for _ in 0..2 {
        assert_eq!(told.recv_timeout(LONG).expect("a task runs"), [2]);
    }
    assert!(told.recv_timeout(LONG).is_err(), "a task of the block that was rolled back");
}

/// C2, C5, A5: a worker thread of tokio's.
fn from_a_worker_thread<C: Database>(db: &Scratch<C>) {
    let (runtime, dispatcher) = (runtime(), Dispatcher::builder().build());
    let (url, watch) = (db.url().to_owned(), watcher(db));
    let committed = runtime.spawn(async move { commit::<C>(&url, &watch, &dispatcher) });
    check(runtime.block_on(committed).expect("no panic"));
}

/// C2, C5, A5: tokio's blocking threads, where synchronous connections are used in a service.
fn from_spawn_blocking<C: Database>(db: &Scratch<C>) {
    let (runtime, dispatcher) = (runtime(), Dispatcher::builder().build());
    let (url, watch) = (db.url().to_owned(), watcher(db));
    let committed = runtime.spawn_blocking(move || commit::<C>(&url, &watch, &dispatcher));
    check(runtime.block_on(committed).expect("no panic"));
}

/// C2, C5, A5: a thread that tokio knows nothing of, by a dispatcher that was built in a runtime.
fn from_a_plain_thread<C: Database>(db: &Scratch<C>) {
    let runtime = runtime();
    let dispatcher = runtime.block_on(async { Dispatcher::builder().build() });
    check(commit::<C>(db.url(), &watcher(db), &dispatcher));
}

/// C2, C5, A5: a runtime of one thread, which is the one that commits: the tasks run when it has
/// time for them.
fn from_a_current_thread_runtime<C: Database>(db: &Scratch<C>) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let dispatcher = Dispatcher::builder().build();
    let told = runtime.block_on(async {
        let told = commit::<C>(db.url(), &watcher(db), &dispatcher);
        while dispatcher.in_flight() > 0 {
            tokio::task::yield_now().await;
        }
        told
    });
    check(told);
}

on_every_database!(from_a_worker_thread, from_spawn_blocking, from_a_plain_thread, from_a_current_thread_runtime);

#[deferred_task]
async fn scale(#[state] factor: &i32, tell: Sender<i32>, value: i32) -> Result<(), String> {
    tokio::task::yield_now().await;
    tell.send(value * factor).map_err(|error| error.to_string())
}

#[deferred_task(blocking)]
fn scale_blocking(#[state] factor: i32, tell: &Sender<i32>, value: i32) -> Result<(), String> {
    tell.send(value * factor).map_err(|error| error.to_string())
}

/// C12: `run` is the body itself, and takes the states as arguments; nobody else is asked.
#[tokio::test]
async fn c12_run_runs_the_body_here_and_now() {
    let (tell, told) = channel();
    let future = scale(tell.clone(), 2).run(&10);
    assert!(told.try_recv().is_err(), "not before it is awaited");
    assert_eq!(future.await, Ok(()));
    assert_eq!(told.try_recv(), Ok(20));
    assert_eq!(scale_blocking(&tell, 3).run(10), Ok(()));
    assert_eq!(told.try_recv(), Ok(30));
    drop(told);
    assert_eq!(scale(tell, 2).run(&10).await, Err("sending on a closed channel".to_owned()));
}
