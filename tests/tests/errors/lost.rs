//! Connections that are lost: before a statement, before COMMIT, and in it.

#![cfg(any(feature = "postgres", feature = "mysql"))]

use std::time::{Duration, Instant};

use diesel::prelude::*;
use diesel::result::Error;
use diesel_deferred::{CommitError, DeferredConnection, HookKind, atomic};
use diesel_deferred_tests::{Database, Log, NOTHING, Scratch, assert_clean, cut_behind_commit, note, noting, refusal};

macro_rules! on_every_server {
    ($($name:ident),* $(,)?) => {
        #[cfg(feature = "postgres")]
        mod postgres {
            $(#[test] fn $name() { super::$name(&super::Scratch::<diesel::PgConnection>::new()) })*
        }
        #[cfg(feature = "mysql")]
        mod mysql {
            $(#[test] fn $name() { super::$name(&super::Scratch::<diesel::MysqlConnection>::new()) })*
        }
    };
}

on_every_server! {
    e11_lost_before_commit,
    e11_lost_when_commit_was_executed,
    e11_lost_in_the_block,
    e17_the_blocks_own_error_wins,
    e11_lost_in_the_block_and_swallowed,
    e11_lost_in_an_inner_block,
    e11_lost_in_a_hook,
}

/// The connection is broken and says so; with a new one below it works again.
fn assert_broken<C: Database>(db: &Scratch<C>, conn: &mut DeferredConnection<C>, log: &Log) {
    let ran = log.ran();
    assert!(!conn.in_transaction());
    assert_eq!(conn.pending(), []);
    assert!(note(log, 90).after_commit(conn).is_err());
    let result = atomic!(conn, retries = 3, {
        note(log, 91);
        QueryResult::Ok(())
    });
    assert!(result.is_err(), "{result:?}");
    assert_eq!(log.ran(), ran);
    *conn.inner_mut() = db.observer();
    assert_clean(db, conn, log);
}

fn lost_hooks<C>(conn: &DeferredConnection<C>) -> Vec<HookKind> {
    conn.last_report().not_run().iter().map(|hook| hook.kind).collect()
}

/// E11: COMMIT finds the connection gone: whether it committed is unknown, and no kind of hook
/// runs.
fn e11_lost_before_commit<C: Database>(db: &Scratch<C>) {
    for hooks in [true, false] {
        let conn = &mut db.connect();
        let log = Log::new();
        let result = atomic!(conn, retries = 3, {
            C::insert(conn, 1)?;
            if hooks {
                note(&log, 1);
                conn.after_rollback(noting(&log, 2))?;
            }
            C::kill(conn, &mut db.observer());
            QueryResult::Ok(())
        });
        assert_eq!(refusal(&result), "Unknown");
        let error = result.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("whether the transaction committed is unknown") && text.contains("look for the rows"));
        assert!(std::error::Error::source(CommitError::of(&error).unwrap()).is_some());
        assert_eq!(log.ran(), NOTHING);
        let expected = [HookKind::AfterCommit, HookKind::AfterRollback];
        assert_eq!(lost_hooks(conn), if hooks { &expected[..] } else { &[] });
        assert!(!db.committed().contains(&1));
        assert_broken(db, conn, &log);
    }
}

/// E11: the row is there, the client can't know: the same error, and not one that invites to try
/// again.
fn e11_lost_when_commit_was_executed<C: Database>(db: &Scratch<C>) {
    let (scheme, rest) = db.url().split_once("://").unwrap();
    let (user, rest) = rest.split_once('@').map_or(("", rest), |(user, rest)| (user, rest));
    let (server, path) = rest.split_once('/').unwrap();
    for (id, hooks) in [(1, true), (2, false)] {
        let address = cut_behind_commit(server);
        let plaintext = if C::NAME == "PostgreSQL" { "&sslmode=disable" } else { "" };
        let url = format!("{scheme}://{user}@{address}/{path}{plaintext}");
        let conn = &mut DeferredConnection::<C>::establish(&url).unwrap();
        let log = Log::new();
        let mut attempts = 0;
        let result = atomic!(conn, retries = 3, {
            attempts += 1;
            C::insert(conn, id)?;
            if hooks {
                note(&log, 1);
                conn.after_rollback(noting(&log, 2))?;
            }
            QueryResult::Ok(())
        });
        assert_eq!(refusal(&result), "Unknown");
        assert_eq!(attempts, 1);
        assert_eq!(log.ran(), NOTHING);
        assert_eq!(lost_hooks(conn).len(), if hooks { 2 } else { 0 });
        // The server's answer to nobody: wait for it.
        let deadline = Instant::now() + Duration::from_secs(20);
        while !db.committed().contains(&id) {
            assert!(Instant::now() < deadline, "the server did not get the COMMIT");
        }
        assert_broken(db, conn, &log);
    }
}

/// E11, E2: COMMIT was never sent, so nothing was committed.
fn e11_lost_in_the_block<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let result = atomic!(conn, -> QueryResult<()>, {
        C::insert(conn, 1)?;
        note(&log, 1);
        conn.after_rollback(noting(&log, 2))?;
        C::kill(conn, &mut db.observer());
        C::insert(conn, 2)
    });
    assert!(matches!(result, Err(Error::DatabaseError(..))), "{result:?}");
    assert_eq!(log.ran(), [2], "rolled back for certain");
    assert_eq!(db.committed(), NOTHING);
    assert_broken(db, conn, &log);
}

/// E17: the block's own error is why it is rolled back, and is what the caller gets, also where the
/// ROLLBACK behind it finds the connection gone.
fn e17_the_blocks_own_error_wins<C: Database>(db: &Scratch<C>) {
    #[derive(Debug, PartialEq)]
    enum SaleError {
        OutOfStock,
        Database(Error),
    }
    impl From<Error> for SaleError {
        fn from(error: Error) -> Self {
            Self::Database(error)
        }
    }
    for nested in [false, true] {
        let conn = &mut db.connect();
        let log = Log::new();
        let result: Result<(), SaleError> = atomic!(conn, {
            C::insert(conn, 1)?;
            note(&log, 1);
            if nested {
                atomic!(conn, -> Result<(), SaleError>, {
                    C::kill(conn, &mut db.observer());
                    Err(SaleError::OutOfStock)
                })
            } else {
                C::kill(conn, &mut db.observer());
                Err(SaleError::OutOfStock)
            }
        });
        assert_eq!(result, Err(SaleError::OutOfStock), "nested: {nested}");
        assert_eq!(log.ran(), NOTHING);
        assert_eq!(db.committed(), NOTHING);
        assert_broken(db, conn, &log);
        db.observer().batch_execute("DELETE FROM witness").unwrap();
    }
}

/// E11: the block did not notice.
fn e11_lost_in_the_block_and_swallowed<C: Database>(db: &Scratch<C>) {
    for hooks in [true, false] {
        let conn = &mut db.connect();
        let log = Log::new();
        let result = atomic!(conn, -> QueryResult<()>, {
            C::insert(conn, 1)?;
            if hooks {
                note(&log, 1);
            }
            C::kill(conn, &mut db.observer());
            assert!(C::insert(conn, 2).is_err());
            Ok(())
        });
        // libpq tells that the connection is gone; MySQL's client only that a statement failed.
        assert_eq!(refusal(&result), if C::NAME == "PostgreSQL" { "RolledBack" } else { "Unknown" });
        assert_eq!(log.ran(), NOTHING);
        assert_eq!(db.committed(), NOTHING);
        assert_broken(db, conn, &log);
        db.observer().batch_execute("DELETE FROM witness").unwrap();
    }
}

/// E11: an inner block's RELEASE finds the connection gone, and the outer block goes on all the
/// same.
fn e11_lost_in_an_inner_block<C: Database>(db: &Scratch<C>) {
    for panic in [true, false] {
        let conn = &mut db.connect();
        let log = Log::new();
        let result = atomic!(conn, -> QueryResult<()>, {
            note(&log, 1);
            let inner = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                atomic!(conn, -> QueryResult<()>, {
                    note(&log, 2);
                    C::kill(conn, &mut db.observer());
                    assert!(!panic, "in the inner block");
                    Ok(())
                })
            }));
            assert!(inner.is_err() || inner.is_ok_and(|result| result.is_err()));
            note(&log, 3);
            Ok(())
        });
        assert!(result.is_err());
        assert_eq!(log.ran(), NOTHING);
        assert_broken(db, conn, &log);
    }
}

/// E11, E2: raw SQL may have committed before the connection was lost, and has here: the error does
/// not say that nothing was committed.
#[cfg(feature = "mysql")]
#[test]
fn e11_lost_behind_a_raw_commit() {
    use diesel::MysqlConnection;

    let db = &Scratch::<MysqlConnection>::new();
    let conn = &mut db.connect();
    let log = Log::new();
    let result = atomic!(conn, -> QueryResult<()>, {
        MysqlConnection::insert(conn, 1)?;
        note(&log, 1);
        conn.after_rollback(noting(&log, 2))?;
        diesel::sql_query("COMMIT").execute(conn)?;
        let inner = atomic!(conn, -> QueryResult<()>, {
            MysqlConnection::kill(conn, &mut db.observer());
            Ok(())
        });
        assert!(inner.is_err());
        Ok(())
    });
    assert_eq!(refusal(&result), "EndedEarly");
    assert_eq!(db.committed(), [1]);
    assert_eq!(log.ran(), NOTHING);
    assert_eq!(lost_hooks(conn), [HookKind::AfterCommit, HookKind::AfterRollback]);
    assert_broken(db, conn, &log);
}

/// E11, E1: the commit stands, the hook's error is reported, and the next one runs.
fn e11_lost_in_a_hook<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let mut killer = db.observer();
    atomic!(conn, -> QueryResult<()>, {
        conn.after_commit(move |conn| {
            C::kill(conn, &mut killer);
            C::insert(conn, 2)
        })?;
        note(&log, 1);
        C::insert(conn, 1)
    })
    .unwrap();
    assert_eq!(log.ran(), [1]);
    assert_eq!(conn.last_report().failures().len(), 1);
    assert_eq!(db.committed(), [1]);
    let result = atomic!(conn, -> QueryResult<()>, { C::insert(conn, 3) });
    assert!(result.is_err());
    *conn.inner_mut() = db.observer();
    assert_clean(db, conn, &log);
}
