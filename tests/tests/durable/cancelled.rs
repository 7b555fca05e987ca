//! A2, D1: blocks with durable calls, dropped at every poll. Rows are there if and only if the
//! witness is.

use std::pin::Pin;

use diesel::result::QueryResult;
use diesel_async::SimpleAsyncConnection;
use diesel_async::pooled_connection::PoolableConnection;
use diesel_deferred::{AsyncDeferredConnection, HookKind, atomic};
use diesel_deferred_tests::{
    Database, Moment, Scratch, Session, cut, eventually, on_every_async_database, rolled_back,
};

use crate::tasks::{first, keep, second, stored};

on_every_async_database! {
    a02_a_block_with_durable_calls,
    a02_a_block_that_swallows_the_drop_of_a_nested_one,
    a02_a_block_that_is_retried,
}

type Conn<A> = AsyncDeferredConnection<A>;
type Block<'a> = Pin<Box<dyn Future<Output = QueryResult<()>> + 'a>>;

/// Drops `block`, which writes witness `id` and calls `first(id)`, at every poll of it.
async fn at_every_poll<A: Session>(
    db: &Scratch<A::Blocking>,
    block: impl for<'a> Fn(&'a mut Conn<A>, i32) -> Block<'a>,
) {
    A::Blocking::migrate(&mut db.observer());
    let mut seen = [0; 3];
    let mut id = 0;
    for moment in [Moment::Waiting, Moment::Woken] {
        for polls in 0.. {
            assert!(polls < 500, "the block does not get on");
            id += 1;
            let mut conn = db.connect_async::<A>().await;
            let session = A::session(conn.inner_mut()).await;
            let ended = cut(block(&mut conn, id), polls, moment).await;
            assert_eq!(conn.pending(), [], "calls of a block that is over wait for the next one");
            let lost = conn.last_report().not_run().iter().filter(|hook| hook.kind == HookKind::Durable).count();
            // The next block, where there is one, stores its own call only.
            let next = atomic!(conn = &mut conn, -> QueryResult<()>, async {
                first(-id);
                A::insert(conn, -id).await
            })
            .await;
            assert!(next.is_ok() || ended.is_none(), "{next:?}");
            assert!(next.is_ok() || conn.is_broken());
            drop(conn);
            let mut observer = db.observer();
            eventually("the server ends the connection", || !A::is_alive(&mut observer, session)).await;
            let witnesses = db.committed();
            let rows = stored(db);
            for id in [id, -id] {
                let row = format!("first {{\"id\":{id}}}");
                let found = rows.iter().filter(|stored| **stored == row).count();
                assert_eq!(found, usize::from(witnesses.contains(&id)), "{id}, polls: {polls}: {rows:?}");
            }
            let committed = witnesses.contains(&id);
            assert_eq!(witnesses.contains(&-id), next.is_ok(), "{next:?}");
            assert!(!rows.iter().any(|row| row.contains("rolled back")), "{rows:?}");
            assert!(!committed || lost == 0, "what was stored is not reported as lost");
            if let Some(Ok(())) = ended {
                assert!(committed);
            }
            seen[if ended.is_some() { 2 } else { usize::from(committed) }] += 1;
            db.run_sql("DELETE FROM deferred_tasks");
            if ended.is_some() {
                break;
            }
        }
    }
    assert!(seen[0] > 1 && seen[2] == 2, "{seen:?}");
}

async fn a02_a_block_with_durable_calls<A: Session>(db: &Scratch<A::Blocking>) {
    at_every_poll::<A>(db, |conn, id| {
        Box::pin(async move {
            atomic!(conn, -> QueryResult<()>, async {
                first(id);
                A::insert(conn, id).await?;
                let inner = atomic!(conn, -> QueryResult<()>, async {
                    second("rolled back");
                    rolled_back()
                })
                .await;
                assert_eq!(inner, rolled_back());
                atomic!(conn, -> QueryResult<()>, async {
                    keep(1, "kept");
                    Ok(())
                })
                .await?;
                conn.after_commit(async |_| tokio::task::yield_now().await)
            })
            .await
        })
    })
    .await;
}

async fn a02_a_block_that_swallows_the_drop_of_a_nested_one<A: Session>(db: &Scratch<A::Blocking>) {
    A::Blocking::migrate(&mut db.observer());
    for polls in 0..20 {
        let mut conn = db.connect_async::<A>().await;
        let session = A::session(conn.inner_mut()).await;
        let (mut completed, id) = (false, polls + 1);
        let result = atomic!(conn = &mut conn, -> QueryResult<()>, async {
            A::insert(conn, id).await?;
            first(id);
            let nested = atomic!(conn, -> QueryResult<()>, async {
                A::insert(conn, 100 + id).await?;
                first(100 + id);
                Ok(())
            });
            completed = cut(nested, polls as usize, Moment::Waiting).await.is_some();
            first(200 + id);
            Ok(())
        })
        .await;
        drop(conn);
        let mut observer = db.observer();
        eventually("the server ends the connection", || !A::is_alive(&mut observer, session)).await;
        let (witnesses, rows) = (db.committed(), stored(db));
        for id in [id, 100 + id] {
            let row = format!("first {{\"id\":{id}}}");
            assert_eq!(rows.contains(&row), witnesses.contains(&id), "polls: {polls}, {result:?}, {rows:?}");
        }
        assert_eq!(witnesses.contains(&id), result.is_ok(), "polls: {polls}, {result:?}");
        if completed {
            break;
        }
    }
}

async fn a02_a_block_that_is_retried<A: Session>(db: &Scratch<A::Blocking>) {
    let statement = match A::Blocking::NAME {
        "PostgreSQL" => "DO $$ BEGIN RAISE serialization_failure; END $$",
        "SQLite" => {
            db.run_sql(
                "CREATE TABLE conflict (id INTEGER); \
                 CREATE TRIGGER conflict BEFORE INSERT ON conflict BEGIN SELECT RAISE(ABORT, 'database is locked'); END",
            );
            "INSERT INTO conflict VALUES (1)"
        }
        _ => "SIGNAL SQLSTATE '40001' SET MESSAGE_TEXT = 'Deadlock found'",
    };
    at_every_poll::<A>(db, |conn, id| {
        Box::pin(async move {
            let mut attempts = 0;
            atomic!(conn, retries = 1, -> QueryResult<()>, async {
                attempts += 1;
                first(id);
                A::insert(conn, id).await?;
                if attempts == 1 {
                    second("rolled back");
                    conn.batch_execute(statement).await?;
                }
                Ok(())
            })
            .await
        })
    })
    .await;
}
