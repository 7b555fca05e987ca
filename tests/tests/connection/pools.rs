//! r2d2: pools of deferring connections, and deferring connections around pooled ones.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use diesel::connection::TransactionManager;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, CustomizeConnection, Pool, PooledConnection, R2D2Connection, TestCustomizer};
use diesel_deferred::{AfterCommit, DeferredConnection, DeferredTransactionManager, atomic};
use diesel_deferred_tests::{Database, Log, NOTHING, Scratch, note, noting, on_every_database, rolled_back};

on_every_database! {
    a_pool_of_deferring_connections,
    a_panic_in_a_pooled_block_leaves_the_connection_good,
    a_connection_with_an_open_transaction_is_thrown_away,
    a_pool_of_test_transactions,
    a_deferring_connection_around_a_pooled_one,
    a_swallowed_error_on_a_pooled_connection,
}

/// Counts the connections that a pool opened.
#[derive(Debug, Clone, Default)]
struct Opened(Arc<AtomicUsize>);

impl<C> CustomizeConnection<C, diesel::r2d2::Error> for Opened {
    fn on_acquire(&self, _: &mut C) -> Result<(), diesel::r2d2::Error> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// A pool of one connection.
fn pool<C: R2D2Connection + 'static>(url: &str) -> (Pool<ConnectionManager<C>>, Opened) {
    let opened = Opened::default();
    let pool = Pool::builder().max_size(1).connection_customizer(Box::new(opened.clone()));
    (pool.build(ConnectionManager::new(url)).unwrap(), opened)
}

fn register(conn: &mut impl AfterCommit, log: &Log, id: i32) -> QueryResult<()> {
    note(log, id).after_commit(conn)
}

/// `atomic!` on a pooled one, its own `transaction`, and generic code.
fn a_pool_of_deferring_connections<C: Database + R2D2Connection>(db: &Scratch<C>) {
    let (pool, opened) = pool::<DeferredConnection<C>>(db.url());
    let log = Log::new();
    for id in [1, 11] {
        let mut conn = pool.get().unwrap();
        assert!(register(&mut conn, &log, 0).is_err(), "outside of a transaction");
        atomic!(conn, -> QueryResult<()>, {
            note(&log, id);
            register(conn, &log, id + 1)?;
            C::insert(conn, id)
        })
        .unwrap();
        conn.transaction(|conn| {
            register(conn, &log, id + 2)?;
            atomic!(conn, -> QueryResult<()>, {
                note(&log, id + 3);
                C::insert(conn, id + 1)
            })?;
            assert!(!log.ran().contains(&(id + 2)));
            QueryResult::Ok(())
        })
        .unwrap();
        let failed: QueryResult<()> = conn.transaction(|conn| {
            register(conn, &log, id + 4)?;
            note(&log, id + 5).after_rollback(conn)?;
            rolled_back()
        });
        assert_eq!(failed, rolled_back());
    }
    assert_eq!(log.ran(), [1, 2, 3, 4, 6, 11, 12, 13, 14, 16]);
    assert_eq!(db.committed(), [1, 2, 11, 12]);
    assert_eq!(opened.0.load(Ordering::SeqCst), 1, "one connection, used again");
}

/// E5: it was rolled back, and goes back into the pool clean.
fn a_panic_in_a_pooled_block_leaves_the_connection_good<C: Database + R2D2Connection>(db: &Scratch<C>) {
    let (pool, opened) = pool::<DeferredConnection<C>>(db.url());
    let log = Log::new();
    let mut conn = pool.get().unwrap();
    let panic = catch_unwind(AssertUnwindSafe(|| {
        atomic!(conn, -> QueryResult<()>, {
            C::insert(conn, 1)?;
            note(&log, 1);
            panic!("in the block")
        })
    }));
    assert!(panic.is_err());
    drop(conn);
    let mut conn = pool.get().unwrap();
    assert_eq!(opened.0.load(Ordering::SeqCst), 1);
    assert!(!conn.in_transaction());
    atomic!(conn, -> QueryResult<()>, {
        note(&log, 2);
        C::insert(conn, 2)
    })
    .unwrap();
    assert_eq!((log.ran(), db.committed()), (vec![2], vec![2]));
}

/// E12: by a panic in the pool's own `transaction`, which has no guard, or by hand: its hooks die
/// with it.
fn a_connection_with_an_open_transaction_is_thrown_away<C: Database + R2D2Connection>(db: &Scratch<C>) {
    let (pool, opened) = pool::<DeferredConnection<C>>(db.url());
    let log = Log::new();
    for by_hand in [true, false] {
        let before = opened.0.load(Ordering::SeqCst);
        let mut conn = pool.get().unwrap();
        if by_hand {
            DeferredTransactionManager::begin_transaction(&mut *conn).unwrap();
            C::insert(&mut conn, 1).unwrap();
            register(&mut conn, &log, 1).unwrap();
            conn.after_rollback(noting(&log, 2)).unwrap();
        } else {
            let panic = catch_unwind(AssertUnwindSafe(|| {
                conn.transaction(|conn| -> QueryResult<()> {
                    C::insert(conn, 1)?;
                    register(conn, &log, 1)?;
                    panic!("in the closure")
                })
            }));
            assert!(panic.is_err());
        }
        drop(conn);
        let mut conn = pool.get().unwrap();
        assert_eq!(opened.0.load(Ordering::SeqCst), before + 1, "a new connection, by hand: {by_hand}");
        assert!(!conn.in_transaction());
        assert_eq!(conn.pending(), []);
        atomic!(conn, -> QueryResult<()>, { Ok(()) }).unwrap();
        drop(conn);
    }
    assert_eq!((log.ran(), db.committed()), (NOTHING.to_vec(), NOTHING.to_vec()));
}

/// T1: Diesel's `TestCustomizer`.
fn a_pool_of_test_transactions<C: Database + R2D2Connection>(db: &Scratch<C>) {
    let pool: Pool<ConnectionManager<DeferredConnection<C>>> = Pool::builder()
        .max_size(1)
        .test_on_check_out(true)
        .connection_customizer(Box::new(TestCustomizer))
        .build(ConnectionManager::new(db.url()))
        .unwrap();
    let log = Log::new();
    for id in [1, 2] {
        let mut conn = pool.get().unwrap();
        atomic!(conn, outermost, {
            note(&log, id);
            C::insert(conn, id)
        })
        .unwrap();
        conn.transaction(|conn| register(conn, &log, id + 10)).unwrap();
        assert_eq!(conn.pending(), []);
    }
    assert_eq!(log.ran(), [1, 11, 2, 12]);
    assert_eq!(C::witnesses(pool.get().unwrap().inner_mut()), [1, 2], "in the same test transaction");
    assert_eq!(db.committed(), NOTHING);
}

/// The other way round: a bare connection from the pool, wrapped for a while.
fn a_deferring_connection_around_a_pooled_one<C: Database + R2D2Connection>(db: &Scratch<C>) {
    type Pooled<C> = DeferredConnection<PooledConnection<ConnectionManager<C>>>;
    fn insert<C: Database + R2D2Connection>(conn: &mut Pooled<C>, id: i32) -> QueryResult<()> {
        diesel::connection::SimpleConnection::batch_execute(conn, &format!("INSERT INTO witness VALUES ({id})"))
    }
    let (pool, opened) = pool::<C>(db.url());
    let log = Log::new();
    for id in [1, 11] {
        let conn = &mut DeferredConnection::new(pool.get().unwrap());
        atomic!(conn, -> QueryResult<()>, {
            note(&log, id);
            let inner: QueryResult<()> = atomic!(conn, {
                note(&log, id + 1);
                insert(conn, id + 1)?;
                rolled_back()
            });
            assert_eq!(inner, rolled_back());
            insert(conn, id)
        })
        .unwrap();
        let failed: QueryResult<()> = atomic!(conn, {
            note(&log, id + 2);
            insert(conn, id + 2)?;
            rolled_back()
        });
        assert_eq!(failed, rolled_back());
        // Also what goes past the wrapper nests.
        conn.transaction(|conn| {
            register(conn, &log, id + 3)?;
            conn.inner_mut().transaction(|_| QueryResult::Ok(()))?;
            assert!(!log.ran().contains(&(id + 3)));
            QueryResult::Ok(())
        })
        .unwrap();
        let panic = catch_unwind(AssertUnwindSafe(|| {
            atomic!(conn, -> QueryResult<()>, {
                insert(conn, id + 4)?;
                note(&log, id + 4);
                panic!("in the block")
            })
        }));
        assert!(panic.is_err());
        assert!(!conn.in_transaction());
    }
    assert_eq!(log.ran(), [1, 4, 11, 14]);
    assert_eq!(db.committed(), [1, 11]);
    assert_eq!(opened.0.load(Ordering::SeqCst), 1, "given back clean");

    // Given back with a transaction open: gone, and the hook with it.
    let mut conn = DeferredConnection::new(pool.get().unwrap());
    DeferredTransactionManager::begin_transaction(&mut conn).unwrap();
    conn.after_commit(noting(&log, 99)).unwrap();
    insert(&mut conn, 99).unwrap();
    drop(conn);
    drop(pool.get().unwrap());
    assert_eq!(opened.0.load(Ordering::SeqCst), 2);
    assert_eq!((log.ran(), db.committed()), (vec![1, 4, 11, 14], vec![1, 11]));
}

/// E7: the proof is that of the connection below, through the pool.
fn a_swallowed_error_on_a_pooled_connection<C: Database + R2D2Connection>(db: &Scratch<C>) {
    let log = Log::new();
    let (deferring, _) = pool::<DeferredConnection<C>>(db.url());
    let mut conn = deferring.get().unwrap();
    let _ = conn.transaction(|conn| {
        register(conn, &log, 1)?;
        C::insert(conn, 1)?;
        assert!(C::insert(conn, 1).is_err());
        QueryResult::Ok(())
    });
    assert_eq!(log.ran(), db.committed());
    drop(conn);

    let (bare, _) = pool::<C>(db.url());
    let conn = &mut DeferredConnection::new(bare.get().unwrap());
    let _ = atomic!(conn, -> QueryResult<()>, {
        note(&log, 2);
        diesel::connection::SimpleConnection::batch_execute(conn, "INSERT INTO witness VALUES (2)")?;
        assert!(diesel::connection::SimpleConnection::batch_execute(&mut **conn, "no SQL").is_err());
        Ok(())
    });
    assert_eq!(log.ran(), db.committed());
    let statement = "INSERT INTO witness VALUES (3)";
    atomic!(conn, { diesel::connection::SimpleConnection::batch_execute(conn, statement) }).unwrap();
    assert!(db.committed().contains(&3));
}
