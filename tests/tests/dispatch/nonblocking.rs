//! The same on asynchronous connections, as far as they have a part in it.

use std::sync::mpsc::{Sender, channel};

use diesel::prelude::*;
use diesel_deferred::{Dispatcher, atomic, deferred_task};
use diesel_deferred_tests::{AsyncDatabase, NOTHING, Scratch, on_every_async_database};

use crate::support::{LONG, refused};

#[deferred_task]
async fn look(watch: Box<dyn Fn() -> Vec<i32> + Send>, #[state] name: &&'static str, tell: Sender<(Vec<i32>, String)>) {
    let _ = tell.send((watch(), (*name).to_owned()));
}

#[deferred_task(blocking)]
fn look_blocking(watch: Box<dyn Fn() -> Vec<i32> + Send>, tell: Sender<(Vec<i32>, String)>) {
    let _ = tell.send((watch(), String::new()));
}

/// C5: tasks of both kinds see the row from another connection, and are given their states.
async fn c05_tasks_see_what_was_committed<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let dispatcher = Dispatcher::builder().max_in_flight(1).state("own").build();
    conn.set_dispatcher(dispatcher.clone());
    let (tell, told) = channel();
    atomic!(conn, -> QueryResult<()>, async {
        C::insert(conn, 1).await?;
        look(Box::new(db.watcher()), tell.clone());
        look_blocking(Box::new(db.watcher()), tell.clone());
        assert_eq!(dispatcher.in_flight(), 0);
        Ok(())
    })
    .await
    .expect("commits");
    drop(tell);
    let seen = tokio::task::block_in_place(|| [told.recv_timeout(LONG), told.recv_timeout(LONG)]);
    assert_eq!(seen, [Ok((vec![1], "own".to_owned())), Ok((vec![1], String::new()))]);
}

/// Point 5 of what must work: a state that is missing, or a dispatcher that was shut down, commits
/// nothing.
async fn a_task_that_cannot_run_commits_nothing<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let (tell, _told) = channel();
    for (missing, dispatcher) in [
        ("`#[state]` of type `&str`", Dispatcher::builder().build()),
        ("was shut down", {
            let dispatcher = Dispatcher::builder().state("own").build();
            assert!(dispatcher.shutdown(LONG).await.is_clean());
            dispatcher
        }),
    ] {
        conn.set_dispatcher(dispatcher);
        let result: QueryResult<()> = atomic!(conn, async {
            C::insert(conn, 1).await?;
            look(Box::new(db.watcher()), tell.clone());
            Ok(())
        })
        .await;
        let message = refused(result);
        assert!(message.contains("nonblocking::look` (called at ") && message.contains(missing), "{message}");
        assert_eq!(db.committed(), NOTHING);
        assert!(!conn.in_transaction());
    }
}

on_every_async_database!(c05_tasks_see_what_was_committed, a_task_that_cannot_run_commits_nothing);
