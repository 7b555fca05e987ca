//! Panics in blocks, before-commit hooks and captured values.

use std::panic::{AssertUnwindSafe, catch_unwind};

use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};
use diesel_deferred_tests::{
    Database, Log, NOTHING, Scratch, assert_clean, note, noting, on_every_database, rolled_back,
};

on_every_database! {
    e05_a_panic_in_the_block_rolls_back_and_goes_on,
    e05_a_panic_in_an_inner_block_rolls_back_to_where_it_began,
    e05_a_panic_in_a_plain_transaction_too,
    e14_a_panic_before_the_commit_rolls_back,
    e04_a_captured_value_that_panics_when_it_is_dropped,
    e16_an_argument_that_panics_when_it_is_shown,
    e01_an_error_that_panics_when_it_is_shown,
    e04_a_panic_that_panics_when_it_is_dropped,
    c20_a_stray_task_that_panics_when_it_is_dropped,
}

fn panic_of<R>(f: impl FnOnce() -> R) -> String {
    let Err(panic) = catch_unwind(AssertUnwindSafe(f)) else { panic!("it did not panic") };
    (*panic.downcast_ref::<&str>().expect("a panic with a string")).to_owned()
}

/// E5: hooks dropped, depth back to entry, and the next block really commits.
fn e05_a_panic_in_the_block_rolls_back_and_goes_on<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let panic = panic_of(|| {
        atomic!(conn, -> QueryResult<()>, {
            C::insert(conn, 1)?;
            note(&log, 1);
            atomic!(conn, -> QueryResult<()>, {
                note(&log, 2);
                panic!("in the inner block")
            })
        })
    });
    assert_eq!(panic, "in the inner block");
    assert_eq!(log.ran(), NOTHING);
    assert_eq!(db.committed(), NOTHING);
    assert_clean(db, conn, &log);
}

/// E5: the outer block may catch it and commit.
fn e05_a_panic_in_an_inner_block_rolls_back_to_where_it_began<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        C::insert(conn, 1)?;
        note(&log, 1);
        let panic = panic_of(|| {
            atomic!(conn, -> QueryResult<()>, {
                C::insert(conn, 2)?;
                note(&log, 2);
                conn.before_commit(|_| panic!("was dropped"))?;
                panic!("in the inner block")
            })
        });
        assert_eq!(panic, "in the inner block");
        note(&log, 3);
        C::insert(conn, 3)
    })
    .unwrap();
    assert_eq!(log.ran(), [1, 3]);
    assert_eq!(db.committed(), [1, 3]);
    assert_clean(db, conn, &log);
}

/// E5: Diesel has no guard there; the wrapper's `transaction` has.
fn e05_a_panic_in_a_plain_transaction_too<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let panic = panic_of(|| {
        conn.transaction(|conn| -> QueryResult<()> {
            C::insert(conn, 1)?;
            note(&log, 1).after_commit(conn)?;
            panic!("in the closure")
        })
    });
    assert_eq!(panic, "in the closure");
    assert_clean(db, conn, &log);
    assert!(!db.committed().contains(&1));
}

/// E14, E5: the commit is not sent, the panic goes on.
fn e14_a_panic_before_the_commit_rolls_back<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let panic = panic_of(|| {
        atomic!(conn, -> QueryResult<()>, {
            note(&log, 1);
            note(&log, 2).after_rollback(conn)?;
            conn.before_commit(|conn| {
                C::insert(conn, 2)?;
                panic!("before the commit")
            })?;
            conn.before_commit(|_| panic!("not reached"))?;
            C::insert(conn, 1)
        })
    });
    assert_eq!(panic, "before the commit");
    assert_eq!(log.ran(), [2]);
    assert_eq!(db.committed(), NOTHING);
    assert_clean(db, conn, &log);
}

/// Panics when it is dropped, unless that happens in a panic.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("dropped");
        }
    }
}

/// E4: it takes no hook along, and comes out of nobody's block; the report has it.
fn e04_a_captured_value_that_panics_when_it_is_dropped<C: Database>(db: &Scratch<C>) {
    fn block<C: Database>(
        conn: &mut DeferredConnection<C>,
        log: &Log,
        id: i32,
        end: QueryResult<()>,
    ) -> QueryResult<()> {
        atomic!(conn, {
            C::insert(conn, id)?;
            for _ in 0..2 {
                let bombs = [Bomb, Bomb, Bomb];
                let [commit, rollback, before] = bombs;
                let (on_commit, on_rollback) = (noting(log, 1), noting(log, 2));
                conn.after_commit(move |conn| {
                    let _bomb = commit;
                    on_commit(conn);
                })?;
                conn.after_rollback(move |conn| {
                    let _bomb = rollback;
                    on_rollback(conn);
                })?;
                conn.before_commit(move |_| {
                    std::mem::forget(before);
                    Ok(())
                })?;
            }
            end
        })
    }
    let conn = &mut db.connect();
    let log = Log::new();
    assert_eq!(block(conn, &log, 1, Ok(())), Ok(()));
    assert_eq!(log.ran(), [1, 1]);
    assert_eq!(conn.last_report().failures().len(), 4, "two ran, two were dropped: {}", conn.last_report());
    assert_eq!(db.committed(), [1]);

    let log = Log::new();
    assert_eq!(block(conn, &log, 2, rolled_back()), rolled_back());
    assert_eq!(log.ran(), [2, 2]);
    assert_eq!(conn.last_report().failures().len(), 6, "{}", conn.last_report());
    assert_clean(db, conn, &log);

    // In a savepoint, and behind a hook that stops the rest.
    let log = Log::new();
    conn.stop_hooks_at_first_failure(true);
    let result = atomic!(conn, -> QueryResult<()>, {
        assert_eq!(block(conn, &log, 3, rolled_back()), rolled_back());
        block(conn, &log, 4, Ok(()))
    });
    assert_eq!(result, Ok(()));
    assert_eq!(log.ran(), [2, 1]);
    assert_eq!(conn.last_report().not_run().len(), 2, "one rollback hook, one commit hook: {}", conn.last_report());
    assert!(db.committed().contains(&4) && !db.committed().contains(&3));
    assert_clean(db, conn, &log);
}

#[derive(Clone)]
struct Unprintable;

impl std::fmt::Debug for Unprintable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("shown")
    }
}

#[deferred_task]
fn show(id: i32, _argument: Unprintable, _other: i32) {
    assert_eq!(id, 1);
}

/// E16: a list of hooks can be had all the same.
fn e16_an_argument_that_panics_when_it_is_shown<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    atomic!(conn, -> QueryResult<()>, {
        show(1, Unprintable, 2);
        let [hook] = &conn.pending()[..] else { panic!("one waits") };
        assert!(hook.arguments.starts_with("id: 1") && hook.arguments.ends_with('…'), "{}", hook.arguments);
        Ok(())
    })
    .unwrap();
}

#[derive(Debug)]
struct Unspeakable;

impl std::fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("spoken")
    }
}

impl std::error::Error for Unspeakable {}

/// E1, E4: the event that reports it is no reason to lose the hooks behind it, nor to fail what has
/// committed.
fn e01_an_error_that_panics_when_it_is_shown<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        conn.after_commit(|_| Err(Unspeakable))?;
        note(&log, 2);
        C::insert(conn, 1)
    })
    .unwrap();
    assert_eq!((log.ran(), db.committed()), (vec![2], vec![1]));
    assert_eq!((conn.last_report().ran(), conn.last_report().failures().len()), (2, 1));
    assert_clean(db, conn, &log);
}

struct Explosive;

impl Drop for Explosive {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

/// E4: what is thrown is code of a user's too.
fn e04_a_panic_that_panics_when_it_is_dropped<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        conn.after_commit(|_| std::panic::panic_any(Explosive))?;
        note(&log, 2);
        C::insert(conn, 1)
    })
    .unwrap();
    assert_eq!((log.ran(), db.committed()), (vec![2], vec![1]));
    assert_clean(db, conn, &log);
}

#[deferred_task]
fn hold(_explosive: Explosive) {}

/// C20: it is reported, and so is its `Drop`.
fn c20_a_stray_task_that_panics_when_it_is_dropped<C: Database>(db: &Scratch<C>) {
    use diesel::connection::TransactionManager;
    let conn = &mut db.connect();
    let log = Log::new();
    let result = atomic!(conn, -> QueryResult<()>, {
        diesel_deferred::DeferredTransactionManager::rollback_transaction(conn)?;
        hold(Explosive);
        Ok(())
    });
    assert!(result.is_err());
    let report = conn.last_report();
    assert_eq!((report.not_run().len(), report.failures().len()), (1, 1), "{report}");
    assert_clean(db, conn, &log);
}
