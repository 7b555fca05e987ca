//! Blocks in blocks: which hooks a commit runs and which a rollback drops.

use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, HookKind, atomic};
use diesel_deferred_tests::{
    Database, Log, NOTHING, Scratch, assert_clean, note, noting, on_every_database, record, rolled_back,
};

on_every_database! {
    n01_an_inner_commit_runs_nothing,
    n02_a_rolled_back_inner_block_drops_its_own_hooks_only,
    n03_a_grandchild_in_a_failed_child_is_dropped_too,
    n04_nothing_runs_when_the_outer_block_fails,
    n05_siblings_are_not_confused,
    n06_an_empty_first_sibling_changes_nothing,
    n10_outermost_refuses_to_be_nested,
    a_hundred_levels_deep,
}

/// N1: only the outermost commit runs hooks.
fn n01_an_inner_commit_runs_nothing<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        atomic!(conn, -> QueryResult<()>, {
            C::insert(conn, 1)?;
            note(&log, 1);
            Ok(())
        })?;
        assert_eq!(log.ran(), NOTHING, "after the inner block's Ok");
        let [hook] = &conn.pending()[..] else { panic!("{:?}", conn.pending()) };
        assert_eq!((hook.depth, hook.kind), (1, HookKind::AfterCommit), "it belongs to the outer block now");
        Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [1]);
    assert_eq!(db.committed(), [1]);
}

/// N2: earlier and later hooks of the outer block run in order.
fn n02_a_rolled_back_inner_block_drops_its_own_hooks_only<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        C::insert(conn, 1)?;
        note(&log, 1);
        let inner: QueryResult<()> = atomic!(conn, {
            C::insert(conn, 2)?;
            note(&log, 2);
            conn.after_commit(noting(&log, 3))?;
            conn.before_commit(|conn| C::insert(conn, 3))?;
            rolled_back()
        });
        assert_eq!(inner, rolled_back());
        C::insert(conn, 4)?;
        note(&log, 4);
        Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [1, 4]);
    assert_eq!(db.committed(), [1, 4]);
    assert_clean(db, conn, &log);
}

/// N3: any depth; here five below the one that fails.
fn n03_a_grandchild_in_a_failed_child_is_dropped_too<C: Database>(db: &Scratch<C>) {
    fn successful<C: Database>(conn: &mut DeferredConnection<C>, log: &Log, depth: i32) -> QueryResult<()> {
        atomic!(conn, {
            C::insert(conn, depth)?;
            note(log, depth);
            if depth < 7 {
                successful(conn, log, depth + 1)?;
            }
            note(log, depth + 10);
            Ok(())
        })
    }
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        note(&log, 1);
        let child: QueryResult<()> = atomic!(conn, {
            successful(conn, &log, 2)?;
            rolled_back()
        });
        assert_eq!(child, rolled_back());
        note(&log, 20);
        Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [1, 20]);
    assert_eq!(db.committed(), NOTHING);
    successful(conn, &log, 5).unwrap();
    assert_eq!(log.ran(), [1, 20, 5, 6, 7, 17, 16, 15]);
    assert_eq!(db.committed(), [5, 6, 7]);
}

/// N4: an inner Ok does not help.
fn n04_nothing_runs_when_the_outer_block_fails<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let result: QueryResult<()> = atomic!(conn, {
        note(&log, 1);
        atomic!(conn, -> QueryResult<()>, {
            C::insert(conn, 2)?;
            note(&log, 2);
            Ok(())
        })?;
        rolled_back()
    });
    assert_eq!(result, rolled_back());
    assert_eq!(log.ran(), NOTHING);
    assert_eq!(db.committed(), NOTHING);
    assert_clean(db, conn, &log);
}

/// N5: a sibling's failure drops nothing of another one at the same depth, in either order.
fn n05_siblings_are_not_confused<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        for (id, commit) in [(1, true), (2, false), (3, true), (4, false), (5, true)] {
            let _ = atomic!(conn, -> QueryResult<()>, {
                C::insert(conn, id)?;
                note(&log, id);
                if commit { Ok(()) } else { rolled_back() }
            });
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [1, 3, 5]);
    assert_eq!(db.committed(), [1, 3, 5]);
}

/// N6: hooks of the outer block still wait.
fn n06_an_empty_first_sibling_changes_nothing<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        atomic!(conn, -> QueryResult<()>, { Ok(()) })?;
        note(&log, 1);
        conn.after_commit(noting(&log, 2))?;
        assert_eq!(log.ran(), NOTHING);
        Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [1, 2]);

    let result: QueryResult<()> = atomic!(conn, {
        atomic!(conn, -> QueryResult<()>, { Ok(()) })?;
        note(&log, 3);
        rolled_back()
    });
    assert_eq!(result, rolled_back());
    assert_eq!(log.ran(), [1, 2]);
}

/// N10: before any SQL; one after the other is fine, and so is a plain block in one.
fn n10_outermost_refuses_to_be_nested<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    for id in 0..2 {
        atomic!(conn, outermost, {
            note(&log, id);
            atomic!(conn, -> QueryResult<()>, {
                note(&log, id + 10);
                Ok(())
            })
        })
        .unwrap();
    }
    assert_eq!(log.ran(), [0, 10, 1, 11]);

    let statements = record(conn);
    let nest = |conn: &mut DeferredConnection<C>| {
        statements.take();
        let refused: QueryResult<()> = atomic!(conn, outermost, { panic!("the block must not run") });
        assert!(matches!(refused, Err(diesel::result::Error::AlreadyInTransaction)), "{refused:?}");
        let refused = conn.build_transaction().outermost().retries(3).run(|_| QueryResult::Ok(()));
        assert!(matches!(refused, Err(diesel::result::Error::AlreadyInTransaction)), "{refused:?}");
        assert_eq!(statements.take(), [""; 0], "no SQL");
    };
    atomic!(conn, -> QueryResult<()>, {
        C::insert(conn, 1)?;
        nest(conn);
        Ok(())
    })
    .unwrap();
    conn.transaction(|conn| {
        nest(conn);
        C::insert(conn, 2)
    })
    .unwrap();
    assert_eq!(db.committed(), [1, 2], "the refusal does not hurt the outer one");
}

/// N1, N3: nothing is special about depth.
fn a_hundred_levels_deep<C: Database>(db: &Scratch<C>) {
    fn nest<C: Database>(conn: &mut DeferredConnection<C>, log: &Log, depth: i32, fail_at: i32) -> QueryResult<()> {
        atomic!(conn, {
            C::insert(conn, depth)?;
            note(log, depth);
            if depth < 100 {
                // The failure stops here: what is above it goes on.
                let inner = nest(conn, log, depth + 1, fail_at);
                assert_eq!(inner.is_err(), depth + 1 == fail_at);
            }
            if depth == fail_at { rolled_back() } else { Ok(()) }
        })
    }
    let conn = &mut db.connect();
    let log = Log::new();
    nest(conn, &log, 1, 61).unwrap();
    assert_eq!(log.ran(), (1..61).collect::<Vec<_>>());
    assert_eq!(db.committed(), (1..61).collect::<Vec<_>>());
    assert_clean(db, conn, &log);
}
