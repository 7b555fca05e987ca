//! Transactions and savepoints that other code opens: Diesel's own calls count, raw SQL does not.

use diesel::connection::{Connection, SimpleConnection, TransactionManager};
use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, DeferredTransactionManager, atomic};
use diesel_deferred_tests::{
    Database, Log, NOTHING, Scratch, assert_clean, note, noting, on_every_database, refusal, rolled_back,
};

on_every_database! {
    n07_a_failed_release_drops_that_level,
    n08_raw_savepoints_are_invisible,
    n09_plain_transactions_in_a_block_nest,
    n09_a_block_in_a_plain_transaction_waits_for_it,
    n09_transactions_of_the_connection_below_nest,
    n09_a_wrapped_open_transaction_counts,
    n09_transactions_by_hand_count,
    n09_a_transaction_left_open_by_a_block_is_refused,
    n09_a_level_ended_by_hand_is_refused_alone,
}

type Inner<C> = <C as Connection>::TransactionManager;

/// N7: a savepoint that raw SQL released makes RELEASE fail: nothing of that level runs, and
/// nothing is committed as if it had worked.
fn n07_a_failed_release_drops_that_level<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let result = atomic!(conn, -> QueryResult<()>, {
        C::insert(conn, 1)?;
        note(&log, 1);
        let inner = atomic!(conn, -> QueryResult<()>, {
            C::insert(conn, 2)?;
            note(&log, 2);
            conn.batch_execute("RELEASE SAVEPOINT diesel_savepoint_1")
        });
        assert_eq!(refusal(&inner), "EndedEarly", "the level's RELEASE fails");
        assert!(conn.pending().iter().all(|hook| hook.depth == 1), "the level's hooks are gone: {:?}", conn.pending());
        note(&log, 3);
        Ok(())
    });
    assert_eq!(refusal(&result), "EndedEarly", "the level's rows can't be rolled back alone, so all of them are");
    assert_eq!(log.ran(), NOTHING);
    assert_eq!(db.committed(), NOTHING);
    assert_clean(db, conn, &log);
}

/// N8: hooks do not follow raw `SAVEPOINT` and `ROLLBACK TO`: they belong to the block.
fn n08_raw_savepoints_are_invisible<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        C::insert(conn, 1)?;
        conn.batch_execute("SAVEPOINT by_hand")?;
        C::insert(conn, 2)?;
        note(&log, 2);
        conn.batch_execute("ROLLBACK TO SAVEPOINT by_hand")?;
        Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [2], "documented so: what to write instead is a nested `atomic!`");
    assert_eq!(db.committed(), [1]);
    assert_clean(db, conn, &log);
}

/// N9: third-party code that calls `conn.transaction` in a block behaves like a nested block.
fn n09_plain_transactions_in_a_block_nest<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        conn.transaction(|conn| {
            conn.after_commit(noting(&log, 1))?;
            C::insert(conn, 1)
        })?;
        let inner: QueryResult<()> = conn.transaction(|conn| {
            note(&log, 2).after_commit(conn)?;
            C::insert(conn, 2)?;
            rolled_back()
        });
        assert_eq!(inner, rolled_back());
        assert_eq!(log.ran(), NOTHING);
        Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [1]);
    assert_eq!(db.committed(), [1]);
}

/// N9: a block in a plain transaction waits for that one.
fn n09_a_block_in_a_plain_transaction_waits_for_it<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    for commit in [false, true] {
        let _ = conn.transaction(|conn| -> QueryResult<()> {
            atomic!(conn, -> QueryResult<()>, {
                note(&log, 1);
                C::insert(conn, 1)
            })?;
            assert_eq!(log.ran(), NOTHING, "the plain one is the outermost");
            if commit { Ok(()) } else { rolled_back() }
        });
        assert_eq!(db.committed(), log.ran(), "committed: {commit}");
    }
    assert_eq!(log.ran(), [1]);
}

/// N9: so does a transaction that a function opens on the connection below, through `&mut C`.
fn n09_transactions_of_the_connection_below_nest<C: Database>(db: &Scratch<C>) {
    fn third_party<C: Connection + 'static>(conn: &mut C, commit: bool) -> QueryResult<()> {
        conn.transaction(|conn| {
            conn.batch_execute("INSERT INTO witness VALUES (2)")?;
            if commit { Ok(()) } else { rolled_back() }
        })
    }
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        note(&log, 1);
        assert_eq!(third_party::<C>(conn, false), rolled_back());
        third_party::<C>(conn, true)?;
        note(&log, 2);
        assert_eq!(log.ran(), NOTHING);
        Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [1, 2]);
    assert_eq!(db.committed(), [2]);
    assert_clean(db, conn, &log);
}

/// N9: a connection that was wrapped in a transaction is in one; a commit through the wrapper runs
/// its hooks.
fn n09_a_wrapped_open_transaction_counts<C: Database>(db: &Scratch<C>) {
    for (id, commit) in [(1, true), (2, false)] {
        let mut inner = db.observer();
        Inner::<C>::begin_transaction(&mut inner).unwrap();
        Inner::<C>::begin_transaction(&mut inner).unwrap();
        let conn = &mut DeferredConnection::new(inner);
        let log = Log::new();
        assert!(conn.in_transaction());
        conn.after_commit(noting(&log, 1)).unwrap();
        atomic!(conn, -> QueryResult<()>, {
            note(&log, 2);
            C::insert(conn, id)
        })
        .unwrap();
        conn.after_rollback(noting(&log, 3)).unwrap();
        DeferredTransactionManager::commit_transaction(conn).unwrap();
        assert_eq!(log.ran(), NOTHING);
        if commit {
            DeferredTransactionManager::commit_transaction(conn).unwrap();
            assert_eq!(log.ran(), [1, 2]);
        } else {
            DeferredTransactionManager::rollback_transaction(conn).unwrap();
            assert_eq!(log.ran(), [3]);
        }
        assert_eq!(db.committed(), [1], "from the first round");
        assert_clean(db, conn, &log);
        conn.batch_execute("DELETE FROM witness WHERE id > 1").unwrap();
    }
}

/// N9: the transaction manager's functions called by hand, through the wrapper and below it.
fn n09_transactions_by_hand_count<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        DeferredTransactionManager::begin_transaction(conn)?;
        note(&log, 1);
        DeferredTransactionManager::rollback_transaction(conn)?;
        DeferredTransactionManager::begin_transaction(conn)?;
        note(&log, 2);
        DeferredTransactionManager::commit_transaction(conn)?;
        // Below the wrapper, without hooks.
        Inner::<C>::begin_transaction(conn.inner_mut())?;
        Inner::<C>::rollback_transaction(conn.inner_mut())?;
        note(&log, 4);
        Ok(())
    })
    .unwrap();
    assert_eq!(log.ran(), [2, 4]);
    assert_clean(db, conn, &log);

    // Below the wrapper, with a hook: nobody knows whether it should run, so nothing is committed.
    let result = atomic!(conn, -> QueryResult<()>, {
        Inner::<C>::begin_transaction(conn.inner_mut())?;
        note(&log, 3).after_commit(conn)?;
        Inner::<C>::rollback_transaction(conn.inner_mut())?;
        C::insert(conn, 3)?;
        note(&log, 4);
        Ok(())
    });
    assert_eq!(refusal(&result), "EndedEarly");
    assert_eq!(conn.last_report().not_run().len(), 2);
    assert!(!db.committed().contains(&3));
    assert_eq!(log.ran(), [2, 4]);
    assert_clean(db, conn, &log);

    // The outermost one, committed below the wrapper: nobody proved that commit.
    let result = atomic!(conn, -> QueryResult<()>, {
        note(&log, 5);
        Inner::<C>::commit_transaction(conn.inner_mut())
    });
    assert_eq!(refusal(&result), "EndedEarly");
    assert_eq!(conn.last_report().not_run().len(), 1);
    assert_eq!(log.ran(), [2, 4]);
    assert_clean(db, conn, &log);
}

/// N9: a block that begins a transaction by hand and forgets it has not committed what it seems to.
fn n09_a_transaction_left_open_by_a_block_is_refused<C: Database>(db: &Scratch<C>) {
    fn forget<C: Database>(conn: &mut DeferredConnection<C>, log: &Log, end: QueryResult<()>) -> QueryResult<()> {
        atomic!(conn, {
            C::insert(conn, 1)?;
            note(log, 1);
            DeferredTransactionManager::begin_transaction(conn)?;
            DeferredTransactionManager::begin_transaction(conn)?;
            C::insert(conn, 2)?;
            note(log, 2);
            end
        })
    }
    let conn = &mut db.connect();
    let log = Log::new();
    assert_eq!(refusal(&forget(conn, &log, Ok(()))), "LeftOpen");
    assert_clean(db, conn, &log);
    assert_eq!(forget(conn, &log, rolled_back()), rolled_back());
    assert_clean(db, conn, &log);
    atomic!(conn, -> QueryResult<()>, {
        assert_eq!(refusal(&forget(conn, &log, Ok(()))), "LeftOpen");
        assert_eq!(forget(conn, &log, rolled_back()), rolled_back());
        note(&log, 3);
        C::insert(conn, 3)
    })
    .unwrap();
    assert_eq!(log.ran(), [3], "the block around it goes on");
    assert!(!db.committed().contains(&1) && db.committed().contains(&3));
    assert_clean(db, conn, &log);
}

/// N9: a nested block that ends its own level by hand does not end the one around it with it.
fn n09_a_level_ended_by_hand_is_refused_alone<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    for end in [QueryResult::Ok(()), rolled_back()] {
        atomic!(conn, -> QueryResult<()>, {
            note(&log, 1);
            let inner: QueryResult<()> = atomic!(conn, {
                note(&log, 2);
                DeferredTransactionManager::rollback_transaction(conn)?;
                end
            });
            match inner {
                Err(diesel::result::Error::RollbackTransaction) => {}
                inner => assert_eq!(refusal(&inner), "EndedEarly"),
            }
            assert!(conn.in_transaction(), "the block around it goes on");
            Ok(())
        })
        .unwrap();
    }
    assert_eq!(log.ran(), [1, 1]);
    assert_clean(db, conn, &log);
}
