//! Where the rewrite does not go: closures, async blocks, functions. What is no task stays what it is there.

use diesel::prelude::*;
use diesel_deferred::atomic;
use diesel_deferred_tests::{Log, NOTHING, note};

use crate::connect;

#[test]
fn closures_with_plain_statements() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        let mut list = Vec::new();
        (0..2).for_each(|id| list.push(id));
        (2..4).for_each(|id| {
            list.push(id);
            list.len();
        });
        let mut push = |id| {
            list.push(id);
            log.push(id)
        };
        push(4);
        push(5);
        list.retain(|id| {
            drop(vec![id]);
            *id > 0
        });
        assert_eq!(list, [1, 2, 3, 4, 5]);
        let doubled: Vec<i32> = list.iter().map(|id| id * 2).collect();
        note(&log, doubled.iter().sum());
        Ok(())
    })?;
    assert_eq!(log.ran(), [4, 5, 30]);
    Ok(())
}

#[test]
fn closures_that_return_early_or_never() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        let parse = |text: &str| -> Result<i32, std::num::ParseIntError> {
            text.parse::<i32>()?;
            if text.len() > 1 {
                return Ok(0);
            }
            text.parse()
        };
        let _fail = |code: i32| {
            std::process::exit(code);
        };
        note(&log, parse("5").unwrap());
        note(&log, parse("55").unwrap());
        Ok(())
    })?;
    assert_eq!(log.ran(), [5, 0]);
    Ok(())
}

#[test]
fn a_closure_that_is_given_the_connection() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        (1..3).try_for_each(|id| note(&log, id).after_commit(conn))?;
        [3].iter().map(|id| note(&log, *id)).try_for_each(|task| task.after_commit(conn))?;
        let mut later = |id| {
            note(&log, id).after_commit(conn)?;
            QueryResult::Ok(())
        };
        later(4)?;
        Ok(())
    })?;
    assert_eq!(log.ran(), [1, 2, 3, 4]);
    Ok(())
}

#[test]
fn async_blocks() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        let future = async {
            log.push(1);
            std::future::ready(()).await;
            std::future::ready(5).await
        };
        drop(future);
        note(&log, 2);
        Ok(())
    })?;
    assert_eq!(log.ran(), [2]);
    Ok(())
}

/// What a closure returned, dropped by a statement: the compiler does not mind, so that it must not be lost.
#[test]
fn tasks_in_an_option_or_a_list() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    let (some, none) = (Some(1), None::<i32>);
    atomic!(conn, -> QueryResult<()>, {
        some.map(|id| note(&log, id));
        none.map(|id| note(&log, id));
        true.then(|| note(&log, 2));
        false.then(|| note(&log, 0));
        [3, 4].iter().map(|id| note(&log, *id)).collect::<Vec<_>>();
        if let Some(id) = some {
            Some(note(&log, id + 4));
        }
        Some(vec![note(&log, 6)]);
        vec![note(&log, 7), note(&log, 8)];
        if some.is_some() {
            vec![note(&log, 9)];
        }
        let mut numbers = vec![7];
        numbers.pop();
        assert_eq!(numbers, NOTHING);
        Ok(())
    })?;
    assert_eq!(log.ran(), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    Ok(())
}

/// Macros that log use what they are given; of one that hands its value on, the value is settled.
#[test]
fn macros_whose_values_are_known() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    let id = 1;
    atomic!(conn, -> QueryResult<()>, {
        tracing::info!(id, "registers {}", log.ran().len());
        dbg!(note(&log, id));
        match id {
            1 => note(&log, 2),
            _ => note(&log, 3),
        };
        Ok(())
    })?;
    assert_eq!(log.ran(), [1, 2]);
    Ok(())
}
