//! When values, temporaries and locals of a block are dropped.

use diesel::prelude::*;
use diesel_deferred::{atomic, deferred_task};
use diesel_deferred_tests::{Log, note};

use crate::connect;

/// Notes its number when it is dropped.
struct Noisy(Log, i32);

impl Drop for Noisy {
    fn drop(&mut self) {
        self.0.push(self.1);
    }
}

impl Noisy {
    fn next(&self) -> Noisy {
        Noisy(self.0.clone(), self.1 + 1)
    }

    fn id(&self) -> i32 {
        self.1
    }
}

/// The same statements in a closure and in an `atomic!`: what they leave in the log must be the same.
macro_rules! as_in_a_closure {
    ($($name:ident: |$log:ident| { $($statements:tt)* })*) => {$(
        #[test]
        fn $name() -> QueryResult<()> {
            let $log = Log::new();
            let closure = || -> QueryResult<()> { $($statements)* };
            closure()?;
            let expected = $log.ran();

            let $log = Log::new();
            let conn = &mut connect();
            atomic!(conn, -> QueryResult<()>, { $($statements)* })?;
            assert_eq!($log.ran(), expected);
            Ok(())
        }
    )*};
}

as_in_a_closure! {
    temporaries_of_statements: |log| {
        Noisy(log.clone(), 1).next().id();
        std::convert::identity(Noisy(log.clone(), 10).next());
        drop(Noisy(log.clone(), 20).next());
        Some(Noisy(log.clone(), 30)).map(|noisy| noisy.next());
        Ok(())
    }
    temporaries_of_conditions: |log| {
        if Noisy(log.clone(), 1).id() == 1 {
            log.push(0)
        }
        if let Some(noisy) = Some(Noisy(log.clone(), 10)) {
            log.push(noisy.next().id())
        } else {
            log.push(0)
        }
        match Noisy(log.clone(), 20).next().id() {
            21 => log.push(0),
            _ => {}
        }
        Ok(())
    }
    temporaries_of_tails: |log| {
        {
            let _local = Noisy(log.clone(), 1);
            Noisy(log.clone(), 5).next().id();
        }
        {
            let _local = Noisy(log.clone(), 10);
            log.push(Noisy(log.clone(), 15).next().id())
        }
        let five = {
            let _local = Noisy(log.clone(), 20);
            log.push(0);
            5
        };
        log.push(five);
        Ok(())
    }
    temporaries_of_the_last_statement: |log| {
        let _local = Noisy(log.clone(), 1);
        if Noisy(log.clone(), 5).id() > 0 {
            return Ok(());
        }
        Ok(log.push(Noisy(log.clone(), 9).id()))
    }
}

#[test]
fn a_dropped_value_goes_at_its_statement() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        Noisy(log.clone(), 1);
        log.push(2);
        Noisy(log.clone(), 4).next().next();
        log.push(7);
        Ok(())
    })?;
    // The temporaries of a statement outlive its value.
    assert_eq!(log.ran(), [1, 2, 6, 5, 4, 7]);
    Ok(())
}

#[test]
fn locals_go_in_reverse() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        let _first = Noisy(log.clone(), 1);
        let _second = Noisy(log.clone(), 2);
        let _ = Noisy(log.clone(), 3);
        _ = Noisy(log.clone(), 4);
        note(&log, 5);
        Ok(())
    })?;
    assert_eq!(log.ran(), [3, 4, 2, 1, 5]);
    Ok(())
}

#[test]
fn a_path_statement_moves() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        let noisy = Noisy(log.clone(), 1);
        let _last = Noisy(log.clone(), 3);
        noisy;
        log.push(2);
        Ok(())
    })?;
    assert_eq!(log.ran(), [1, 2, 3]);
    Ok(())
}

#[test]
fn arguments_live_as_long_as_the_statement() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        note(&log, Noisy(log.clone(), 1).next().id());
        log.push(3);
        Ok(())
    })?;
    assert_eq!(log.ran(), [2, 1, 3, 2]);
    Ok(())
}

#[deferred_task]
fn consume(_noisy: Noisy) {}

#[test]
fn a_task_that_never_runs_drops_its_arguments_once() {
    let conn = &mut connect();
    let log = Log::new();
    let result: QueryResult<()> = atomic!(conn, {
        consume(Noisy(log.clone(), 1));
        log.push(0);
        Err(diesel::result::Error::RollbackTransaction)
    });
    assert!(result.is_err());
    assert_eq!(log.ran(), [0, 1]);
}
