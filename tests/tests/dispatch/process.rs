//! The dispatcher of the process. One test, because there is one process.

use std::sync::mpsc::{Sender, channel};

use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, Dispatcher, atomic, deferred_task};

use crate::support::{LONG, at_most, idle, refused, runtime};

#[deferred_task]
async fn whose(#[state] name: &&'static str, tell: Sender<&'static str>) {
    let _ = tell.send(*name);
}

#[deferred_task(blocking)]
fn stateless(tell: Sender<&'static str>) {
    let _ = tell.send("nobody's");
}

/// C12 too, for `after_commit_or_now`.
#[test]
fn c12_the_dispatcher_of_the_process() {
    let conn = &mut DeferredConnection::<SqliteConnection>::establish(":memory:").expect("in memory");
    let (tell, told) = channel();
    let next = || told.recv_timeout(LONG).expect("a task runs");

    // None was installed, and this thread is in no runtime.
    let message = refused::<()>(atomic!(conn, {
        stateless(tell.clone());
        Ok(())
    }));
    assert!(message.contains("`dispatch::process::stateless` (called at "), "{message}");
    assert!(message.contains("install()"), "{message}");
    let error = stateless(tell.clone()).after_commit_or_now(conn).expect_err("nowhere to run");
    assert!(error.to_string().contains("there is no tokio runtime"), "{error}");

    // In one, the default takes it.
    let runtime = runtime();
    let inside = runtime.enter();
    stateless(tell.clone()).after_commit_or_now(conn).expect("spawned");
    assert_eq!(next(), "nobody's");
    idle(&Dispatcher::global());
    atomic!(conn, -> QueryResult<()>, {
        stateless(tell.clone()).after_commit_or_now(conn).expect("registered");
        assert!(told.try_recv().is_err() && Dispatcher::global().in_flight() == 0);
        Ok(())
    })
    .expect("commits");
    assert_eq!(next(), "nobody's");
    drop(inside);

    // An installed one takes the place of that, and of one that was installed before.
    let [first, second, own] = ["first", "second", "own"].map(|name| at_most(1, &runtime).state(name).build());
    assert!(first.install().is_none());
    whose(tell.clone()).after_commit_or_now(conn).expect("spawned");
    assert_eq!(next(), "first");
    let former = second.install().expect("the first one");
    whose(tell.clone()).after_commit_or_now(conn).expect("spawned");
    assert_eq!(next(), "second");
    assert!(crate::support::without_runtime(former.shutdown(LONG)).is_clean());
    assert!(first.is_shut_down() && !second.is_shut_down(), "it is the one that was installed first");

    // The connection's own comes before both.
    conn.set_dispatcher(own);
    atomic!(conn, -> QueryResult<()>, {
        whose(tell.clone());
        Ok(())
    })
    .expect("commits");
    assert_eq!(next(), "own");
}
