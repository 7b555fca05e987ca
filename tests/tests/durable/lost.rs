//! Connections that are lost while durable calls wait, or in COMMIT.

#![cfg(any(feature = "postgres", feature = "mysql"))]

use std::time::{Duration, Instant};

use diesel::prelude::*;
use diesel_deferred::{CommitError, DeferredConnection, atomic};
use diesel_deferred_tests::{Database, NOTHING, Scratch, cut_behind_commit, refusal};

use crate::ended::lost;
use crate::tasks::{assert_usable, count, first, firsts, ready, stored};

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

on_every_server!(
    e11_lost_before_the_rows_were_written,
    e11_lost_when_commit_was_executed,
    e11_lost_in_the_block_and_swallowed
);

/// E11: COMMIT was never sent, and nothing is unknown.
fn e11_lost_before_the_rows_were_written<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let mut attempts = 0;
    let result = atomic!(conn, retries = 3, -> QueryResult<()>, {
        attempts += 1;
        first(1);
        C::insert(conn, 1)?;
        C::kill(conn, &mut db.observer());
        Ok(())
    });
    let error = result.unwrap_err();
    assert!(CommitError::of(&error).is_none(), "what the database says: {error}");
    assert_eq!((attempts, count(db), db.committed()), (1, 0, NOTHING.to_vec()));
    assert_eq!(conn.pending(), []);
    *conn.inner_mut() = db.observer();
    assert_usable(db, conn);
}

/// E11: the rows decide for themselves: here they are committed, although nobody can know; and
/// nothing is reported as lost.
fn e11_lost_when_commit_was_executed<C: Database>(db: &Scratch<C>) {
    C::migrate(&mut db.observer());
    let (scheme, rest) = db.url().split_once("://").unwrap();
    let (user, rest) = rest.split_once('@').map_or(("", rest), |(user, rest)| (user, rest));
    let (server, path) = rest.split_once('/').unwrap();
    let address = cut_behind_commit(server);
    let plaintext = if C::NAME == "PostgreSQL" { "&sslmode=disable" } else { "" };
    let url = format!("{scheme}://{user}@{address}/{path}{plaintext}");
    let conn = &mut DeferredConnection::<C>::establish(&url).unwrap();
    let mut attempts = 0;
    let result = atomic!(conn, retries = 3, -> QueryResult<()>, {
        attempts += 1;
        first(1);
        C::insert(conn, 1)
    });
    assert_eq!((refusal(&result), attempts), ("Unknown", 1));
    assert_eq!(lost(conn), [""; 0]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while db.committed().is_empty() {
        assert!(Instant::now() < deadline, "the server did not get the COMMIT");
    }
    assert_eq!(stored(db), firsts([1]));
}

/// E11: what follows on the dead connection is no call of anything.
fn e11_lost_in_the_block_and_swallowed<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let result = atomic!(conn, -> QueryResult<()>, {
        first(1);
        C::kill(conn, &mut db.observer());
        assert!(C::insert(conn, 1).is_err());
        first(2);
        Ok(())
    });
    assert!(result.is_err());
    assert_eq!((count(db), conn.pending()), (0, vec![]));
    *conn.inner_mut() = db.observer();
    assert_usable(db, conn);
}
