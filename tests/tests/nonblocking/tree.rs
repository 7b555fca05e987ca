//! Blocks in blocks: which hooks a commit runs and which a rollback drops.

use std::pin::Pin;

use diesel::result::{Error, QueryResult};
use diesel_async::AsyncConnection;
use diesel_deferred::{AfterCommit, AsyncDeferredConnection, HookKind, atomic};
use diesel_deferred_tests::{
    AsyncDatabase, Log, NOTHING, Scratch, note, on_every_async_database, record_async, rolled_back,
};

use crate::fixture::{assert_clean, noting};

on_every_async_database! {
    n01_an_inner_commit_runs_nothing,
    n02_a_rolled_back_inner_block_drops_its_own_hooks_only,
    n03_a_grandchild_in_a_failed_child_is_dropped_too,
    n04_nothing_runs_when_the_outer_block_fails,
    n05_siblings_are_not_confused,
    n06_an_empty_first_sibling_changes_nothing,
    n09_plain_transactions_in_a_block_nest,
    n09_a_block_in_a_plain_transaction_waits_for_it,
    n10_outermost_refuses_to_be_nested,
}

/// N1: only the outermost commit runs hooks.
async fn n01_an_inner_commit_runs_nothing<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        atomic!(conn, -> QueryResult<()>, async {
            C::insert(conn, 1).await?;
            note(&log, 1);
            Ok(())
        })
        .await?;
        assert_eq!(log.ran(), NOTHING, "after the inner block's Ok");
        let [hook] = &conn.pending()[..] else { panic!("{:?}", conn.pending()) };
        assert_eq!((hook.depth, hook.kind), (1, HookKind::AfterCommit), "it belongs to the outer block now");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!((log.ran(), db.committed()), (vec![1], vec![1]));
}

/// N2: earlier and later hooks of the outer block run in order.
async fn n02_a_rolled_back_inner_block_drops_its_own_hooks_only<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        C::insert(conn, 1).await?;
        note(&log, 1);
        let inner: QueryResult<()> = atomic!(conn, async {
            C::insert(conn, 2).await?;
            note(&log, 2);
            noting(conn, &log, 3)?;
            conn.before_commit(async |conn| C::insert(conn, 3).await)?;
            rolled_back()
        })
        .await;
        assert_eq!(inner, rolled_back());
        C::insert(conn, 4).await?;
        note(&log, 4);
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!((log.ran(), db.committed()), (vec![1, 4], vec![1, 4]));
    assert_clean(db, conn, &log).await;
}

type Boxed<'a> = Pin<Box<dyn Future<Output = QueryResult<()>> + Send + 'a>>;

/// N3: any depth; here five below the one that fails.
async fn n03_a_grandchild_in_a_failed_child_is_dropped_too<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    fn successful<'a, C: AsyncDatabase>(
        conn: &'a mut AsyncDeferredConnection<C>,
        log: &'a Log,
        depth: i32,
    ) -> Boxed<'a> {
        Box::pin(async move {
            atomic!(conn, async {
                C::insert(conn, depth).await?;
                note(log, depth);
                if depth < 7 {
                    successful(conn, log, depth + 1).await?;
                }
                note(log, depth + 10);
                Ok(())
            })
            .await
        })
    }
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        note(&log, 1);
        let child: QueryResult<()> = atomic!(conn, async {
            successful(conn, &log, 2).await?;
            rolled_back()
        })
        .await;
        assert_eq!(child, rolled_back());
        note(&log, 20);
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!((log.ran(), db.committed()), (vec![1, 20], NOTHING.to_vec()));
    successful(conn, &log, 5).await.unwrap();
    assert_eq!((log.ran(), db.committed()), (vec![1, 20, 5, 6, 7, 17, 16, 15], vec![5, 6, 7]));
}

/// N4: an inner Ok does not help.
async fn n04_nothing_runs_when_the_outer_block_fails<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    let result: QueryResult<()> = atomic!(conn, async {
        note(&log, 1);
        atomic!(conn, -> QueryResult<()>, async {
            C::insert(conn, 2).await?;
            note(&log, 2);
            Ok(())
        })
        .await?;
        rolled_back()
    })
    .await;
    assert_eq!(result, rolled_back());
    assert_eq!((log.ran(), db.committed()), (NOTHING.to_vec(), NOTHING.to_vec()));
    assert_clean(db, conn, &log).await;
}

/// N5: a sibling's failure drops nothing of another one at the same depth, in either order.
async fn n05_siblings_are_not_confused<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        for (id, commit) in [(1, true), (2, false), (3, true), (4, false), (5, true)] {
            let _ = atomic!(conn, -> QueryResult<()>, async {
                C::insert(conn, id).await?;
                note(&log, id);
                if commit { Ok(()) } else { rolled_back() }
            })
            .await;
        }
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!((log.ran(), db.committed()), (vec![1, 3, 5], vec![1, 3, 5]));
}

/// N6: hooks of the outer block still wait.
async fn n06_an_empty_first_sibling_changes_nothing<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    for commit in [true, false] {
        let result = atomic!(conn, -> QueryResult<()>, async {
            atomic!(conn, -> QueryResult<()>, async { Ok(()) }).await?;
            note(&log, 1);
            noting(conn, &log, 2)?;
            assert_eq!(log.ran().len(), if commit { 0 } else { 2 });
            if commit { Ok(()) } else { rolled_back() }
        })
        .await;
        assert_eq!(result.is_ok(), commit);
    }
    assert_eq!(log.ran(), [1, 2]);
}

/// A library's function that knows diesel-async's connections only, so that it calls the trait's
/// `transaction`.
async fn library<C: AsyncConnection + AfterCommit>(conn: &mut C, log: &Log, id: i32, commit: bool) -> QueryResult<()> {
    conn.transaction(async |conn| {
        note(log, id).after_commit(conn)?;
        if commit { Ok(()) } else { rolled_back() }
    })
    .await
}

/// N9: third-party code that calls `conn.transaction` in a block behaves like a nested block.
async fn n09_plain_transactions_in_a_block_nest<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, async {
        conn.transaction(async |conn| {
            noting(conn, &log, 1)?;
            C::insert(conn, 1).await
        })
        .await?;
        let inner: QueryResult<()> = conn
            .transaction(async |conn| {
                note(&log, 2).after_commit(conn)?;
                C::insert(conn, 2).await?;
                rolled_back()
            })
            .await;
        assert_eq!(inner, rolled_back());
        library(conn, &log, 3, true).await?;
        assert_eq!(library(conn, &log, 4, false).await, rolled_back());
        assert_eq!(log.ran(), NOTHING);
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!((log.ran(), db.committed()), (vec![1, 3], vec![1]));
    library(conn, &log, 5, true).await.unwrap();
    assert_eq!(library(conn, &log, 6, false).await, rolled_back());
    assert_eq!(log.ran(), [1, 3, 5]);
    assert_clean(db, conn, &log).await;
}

/// N9: a block in a plain transaction waits for that one, be it ours or the trait's.
async fn n09_a_block_in_a_plain_transaction_waits_for_it<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    for (id, commit) in [(1, false), (2, true)] {
        let block = async |conn: &mut AsyncDeferredConnection<C>| {
            atomic!(conn, -> QueryResult<()>, async {
                note(&log, id);
                C::insert(conn, id).await
            })
            .await?;
            assert!(!log.ran().contains(&id), "the plain one is the outermost");
            if commit { Ok(()) } else { rolled_back() }
        };
        assert_eq!(conn.transaction(block).await.is_ok(), commit);
        let block = async |conn: &mut AsyncDeferredConnection<C>| {
            atomic!(conn, -> QueryResult<()>, async {
                note(&log, id + 10);
                C::insert(conn, id + 10).await
            })
            .await?;
            assert!(!log.ran().contains(&(id + 10)), "the plain one is the outermost");
            if commit { Ok(()) } else { rolled_back() }
        };
        assert_eq!(AsyncConnection::transaction(conn, block).await.is_ok(), commit);
    }
    assert_eq!((log.ran(), db.committed()), (vec![2, 12], vec![2, 12]));
    assert_clean(db, conn, &log).await;
}

/// N10: before any SQL; one after the other is fine, and so is a plain block in one.
async fn n10_outermost_refuses_to_be_nested<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    for id in 0..2 {
        atomic!(conn, outermost, async {
            note(&log, id);
            atomic!(conn, -> QueryResult<()>, async {
                note(&log, id + 10);
                Ok(())
            })
            .await
        })
        .await
        .unwrap();
    }
    assert_eq!(log.ran(), [0, 10, 1, 11]);

    let statements = record_async(conn);
    atomic!(conn, -> QueryResult<()>, async {
        C::insert(conn, 1).await?;
        statements.take();
        let refused: QueryResult<()> = atomic!(conn, outermost, async { panic!("the block must not run") }).await;
        assert!(matches!(refused, Err(Error::AlreadyInTransaction)), "{refused:?}");
        let refused: QueryResult<()> =
            atomic!(conn, outermost, retries = 3, async { panic!("the block must not run") }).await;
        assert!(matches!(refused, Err(Error::AlreadyInTransaction)), "{refused:?}");
        let refused = conn.build_transaction().outermost().run(async |_| QueryResult::Ok(())).await;
        assert!(matches!(refused, Err(Error::AlreadyInTransaction)), "{refused:?}");
        assert_eq!(statements.take(), [""; 0], "no SQL");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(db.committed(), [1], "the refusal does not hurt the outer one");
    assert_clean(db, conn, &log).await;
}
