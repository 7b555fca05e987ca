//! `atomic!` in `atomic!`.

use diesel::prelude::*;
use diesel::result::Error;
use diesel_deferred::atomic;
use diesel_deferred_tests::{Log, note};

use crate::{Conn, connect};

#[test]
fn on_the_same_connection() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        note(&log, 1);
        atomic!(conn, -> QueryResult<()>, {
            note(&log, 2);
            atomic!(conn, -> QueryResult<()>, {
                note(&log, 3);
                Ok(())
            })?;
            Ok(())
        })?;
        let rolled_back: QueryResult<()> = atomic!(conn, {
            note(&log, 4);
            Err(Error::RollbackTransaction)
        });
        assert!(rolled_back.is_err());
        note(&log, 5);
        assert!(log.ran().is_empty());
        Ok(())
    })?;
    assert_eq!(log.ran(), [1, 2, 3, 5]);
    Ok(())
}

#[test]
fn options_in_any_order() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, retries = 1, -> QueryResult<()>, immediate, outermost, {
        note(&log, 1);
        Ok(())
    })?;
    assert_eq!(log.ran(), [1]);
    Ok(())
}

#[test]
fn on_another_connection() -> QueryResult<()> {
    let (conn, other) = (&mut connect(), &mut connect());
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        note(&log, 1);
        atomic!(other, -> QueryResult<()>, {
            note(&log, 2);
            // Registered on the inner block's connection, whichever the statement mentions.
            conn.pending();
            note(&log, 3);
            Ok(())
        })?;
        assert_eq!(log.ran(), [2, 3], "the other connection has committed");
        note(&log, 4);
        Ok(())
    })?;
    assert_eq!(log.ran(), [2, 3, 1, 4]);
    Ok(())
}

#[test]
fn as_the_value_of_the_block() -> QueryResult<()> {
    fn inner(conn: &mut Conn, log: &Log) -> QueryResult<i32> {
        atomic!(conn, {
            note(log, 1);
            atomic!(conn, {
                note(log, 2);
                Ok(2)
            })
        })
    }
    let log = Log::new();
    assert_eq!(inner(&mut connect(), &log)?, 2);
    assert_eq!(log.ran(), [1, 2]);
    Ok(())
}

#[test]
fn in_every_place_of_an_expression() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    let sum = atomic!(conn, -> QueryResult<i32>, {
        note(&log, 1);
        let one = if atomic!(conn, -> QueryResult<bool>, { Ok(true) })? { 1 } else { 0 };
        let two = match atomic!(conn, -> QueryResult<i32>, { note(&log, 2); Ok(2) }) {
            Ok(two) => two,
            Err(error) => return Err(error),
        };
        Ok(one + two + atomic!(conn, -> QueryResult<i32>, { Ok(3) })?)
    })?;
    assert_eq!((sum, log.ran()), (6, vec![1, 2]));
    Ok(())
}
