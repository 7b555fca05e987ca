//! Attributes, `#[cfg]`, items and macros among the statements.

use diesel::prelude::*;
use diesel_deferred::{atomic, deferred_task};
use diesel_deferred_tests::{Log, note};

use crate::connect;

#[test]
fn attributes_on_statements() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        #[allow(dropping_copy_types)]
        drop(0);
        #[allow(deprecated)]
        old(&log, 1);
        #[cfg(any())]
        no_such_function(&log, 2);
        #[cfg(all())]
        note(&log, 3);
        #[cfg(any())]
        let log = 5;
        #[cfg(any())]
        {
            no_such_function(&log, 4)
        }
        #[rustfmt::skip]
        note(&log,5);
        if log.ran().is_empty() {
            #[cfg(any())]
            no_such_function(&log, 6);
            #[allow(deprecated)]
            old(&log, 6)
        }
        match log.ran().len() {
            #[cfg(any())]
            0 => no_such_function(),
            0 => note(&log, 7),
            _ => {}
        }
        #[allow(deprecated)]
        Some(8).map(|id| old(&log, id)).unwrap();
        Ok(())
    })?;
    assert_eq!(log.ran(), [1, 3, 5, 6, 7, 8]);
    Ok(())
}

#[deprecated]
#[deferred_task]
fn old(log: &Log, id: i32) {
    log.push(id);
}

#[test]
fn items_in_the_block() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        use std::convert::identity;

        const FIRST: i32 = 1;

        #[deferred_task]
        fn local(log: &Log, id: i32) {
            log.push(id);
        }

        struct Pair(i32, i32);

        impl Pair {
            fn both(&self, log: &Log) {
                log.push(self.0);
                log.push(self.1);
            }
        }

        fn helper(log: &Log) -> i32 {
            identity(log.ran().len() as i32);
            2
        }

        macro_rules! one_more {
            ($id:expr) => {
                note(&log, $id).after_commit(conn)?
            };
        }

        local(&log, FIRST);
        local(&log, identity(helper(&log)));
        one_more!(3);
        Pair(4, 5).both(&log);
        Ok(())
    })?;
    assert_eq!(log.ran(), [4, 5, 1, 2, 3]);
    Ok(())
}

#[test]
fn macros_that_use_what_they_are_given() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        let tasks = vec![note(&log, 1), note(&log, 2)];
        assert_eq!(format!("{:?}", tasks[0]).contains("id: 1"), true);
        assert!(matches!(tasks.len(), 2), "{}", tasks.len());
        println!("{}", tasks.len());
        for task in tasks {
            task
        }
        Ok(())
    })?;
    assert_eq!(log.ran(), [1, 2]);
    Ok(())
}

macro_rules! block_with {
    ($conn:ident, $log:ident, $call:expr, { $($body:tt)* }) => {
        atomic!($conn, -> QueryResult<()>, {
            $call;
            $($body)*
            note($log, 3)
                ;
            Ok(())
        })
    };
}

#[test]
fn a_block_that_a_macro_writes() -> QueryResult<()> {
    let conn = &mut connect();
    let log = &Log::new();
    block_with!(conn, log, note(log, 1), {
        if log.ran().is_empty() {
            note(log, 2)
        }
    })?;
    assert_eq!(log.ran(), [1, 2, 3]);
    Ok(())
}
