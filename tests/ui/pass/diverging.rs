//! Calls that never return, in both editions' rules for their type.

use diesel::prelude::*;
use diesel::result::Error;
use diesel_deferred::atomic;
use diesel_deferred_tests::{Log, note};

use crate::connect;

fn fail() -> ! {
    std::panic::panic_any("failed")
}

struct Failing;

impl Failing {
    fn fail(&self) -> ! {
        fail()
    }
}

#[test]
fn statements_of_type_never() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    let doomed = std::hint::black_box(false);
    atomic!(conn, -> QueryResult<()>, {
        if doomed {
            fail();
        }
        if doomed {
            fail()
        } else {
            note(&log, 1)
        }
        match doomed {
            true => fail(),
            false => note(&log, 2),
        }
        match doomed {
            true => Failing.fail(),
            false => {}
        }
        let Some(number) = Some(3) else { fail() };
        note(&log, number);
        let Some(number) = Some(4) else {
            fail();
        };
        note(&log, number);
        Ok(())
    })?;
    assert_eq!(log.ran(), [1, 2, 3, 4]);
    Ok(())
}

#[test]
fn a_block_that_ends_in_a_return() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        note(&log, 1);
        return Ok(());
    })?;
    let value = atomic!(conn, -> QueryResult<i32>, {
        loop {
            note(&log, 2);
            return Ok(2);
        }
    })?;
    assert_eq!((log.ran(), value), (vec![1, 2], 2));
    Ok(())
}

#[test]
fn a_block_that_ends_in_a_diverging_call() {
    let conn = &mut connect();
    let log = Log::new();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        atomic!(conn, -> QueryResult<()>, {
            note(&log, 1);
            fail();
        })
    }));
    assert!(outcome.is_err());
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        atomic!(conn, -> QueryResult<()>, {
            note(&log, 1);
            fail()
        })
    }));
    assert!(outcome.is_err());
    assert!(log.ran().is_empty());
}

#[test]
fn an_error_as_a_tail() {
    let conn = &mut connect();
    let log = Log::new();
    let failed = std::hint::black_box(true);
    let result: QueryResult<()> = atomic!(conn, {
        note(&log, 1);
        match failed {
            false => note(&log, 2),
            true => Err(Error::RollbackTransaction)?,
        }
        if failed {
            Err("not found").map_err(|_| Error::NotFound)?
        }
        Ok(())
    });
    assert_eq!(result, Err(Error::RollbackTransaction));
    assert!(log.ran().is_empty());
}

#[test]
fn a_hook_that_never_returns() -> QueryResult<()> {
    let conn = &mut connect();
    atomic!(conn, -> QueryResult<()>, {
        conn.after_commit(|_| fail())?;
        Ok(())
    })?;
    assert_eq!(conn.last_report().failures().len(), 1);
    Ok(())
}

#[test]
fn an_error_as_a_statement() {
    let conn = &mut connect();
    let log = Log::new();
    let result: QueryResult<()> = atomic!(conn, {
        note(&log, 1);
        if std::hint::black_box(true) {
            Err(Error::RollbackTransaction)?;
        }
        note(&log, 2);
        Ok(())
    });
    assert_eq!(result, Err(Error::RollbackTransaction));
    assert!(log.ran().is_empty());
}

#[test]
fn an_error_as_the_last_statement() {
    let conn = &mut connect();
    let result: QueryResult<()> = atomic!(conn, {
        return Err(Error::RollbackTransaction);
    });
    assert_eq!(result, Err(Error::RollbackTransaction));
}
