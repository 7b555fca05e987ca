//! Types that are found out late, from the outside, or by coercion.

use std::fmt::Display;

use diesel::prelude::*;
use diesel::result::Error;
use diesel_deferred::atomic;
use diesel_deferred_tests::{Log, note};

use crate::connect;

fn made<T: Default>() -> T {
    T::default()
}

fn of<T>(value: T) -> T {
    value
}

struct Draft {
    id: i32,
}

impl Draft {
    fn save(self) -> QueryResult<i32> {
        Ok(self.id)
    }

    fn note(self, log: &Log) -> note {
        note(log, self.id)
    }
}

#[test]
fn generic_returns() -> QueryResult<()> {
    let conn = &mut connect();
    atomic!(conn, -> QueryResult<()>, {
        made::<String>();
        of(5);
        of(());
        of(Some("x"));
        made::<Vec<u8>>();
        "5".parse::<i32>().ok();
        [1, 2].iter().map(|x| x * 2).sum::<i32>();
        Ok(())
    })
}

/// A list behind `let _` is looked through only where its type is known already.
#[test]
fn lists_behind_an_underscore() -> QueryResult<()> {
    let conn = &mut connect();
    atomic!(conn, -> QueryResult<()>, {
        let mut numbers = Vec::new();
        let _ = (of(1), numbers.pop());
        let _ = [of(None), numbers.first().copied()];
        let _ = [Ok(1), Err("no")];
        let _: Vec<Vec<u8>> = vec![made()];
        let _: (u8, [Option<u8>; 1]) = (made(), [made()]);
        let _ = (of(1), vec!["x"], [of(2), 3]);
        numbers.push(5_u8);
        Ok(())
    })
}

#[test]
fn a_type_that_is_known_only_later() -> QueryResult<()> {
    let conn = &mut connect();
    atomic!(conn, -> QueryResult<()>, {
        let mut numbers = vec![made(), made()];
        numbers.swap_remove(0);
        numbers.push(5_u8);
        let mut lists = Vec::new();
        lists.extend([made()]);
        lists.swap_remove(0);
        lists.push(vec!['a']);
        let mut arrays = Vec::from([made()]);
        arrays.swap_remove(0);
        arrays.push(["a"; 3]);
        let mut options = Vec::from([made()]);
        options.swap_remove(0);
        options.push(Some('a'));
        let mut pairs = Vec::new();
        pairs.pop();
        pairs.push((1, "one"));
        let mut names = Vec::from([made()]);
        names.remove(0);
        names.push(String::new());
        Ok(())
    })
}

#[test]
fn the_result_is_inferred_from_outside() -> Result<(), Box<dyn std::error::Error>> {
    let conn = &mut connect();
    let log = Log::new();
    let error: Result<(), Box<dyn std::error::Error>> = atomic!(conn, {
        note(&log, 1);
        let _: i32 = "five".parse()?;
        Ok(())
    });
    assert!(error.is_err());
    let collected: Result<Vec<i32>, Error> = atomic!(conn, {
        note(&log, 2);
        ["5"].iter().map(|id| id.parse().map_err(|_| Error::NotFound)).collect()
    });
    assert_eq!(collected?, [5]);
    atomic!(conn, {
        note(&log, 3);
        Err("by hand")?;
        Ok(())
    })
    .or_else(|error: Box<dyn std::error::Error>| if error.to_string() == "by hand" { Ok(()) } else { Err(error) })?;
    assert_eq!(log.ran(), [2]);
    Ok(())
}

#[test]
fn coercions() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    let shown = atomic!(conn, -> QueryResult<Box<dyn Display>>, {
        let mut all: Vec<Box<dyn Display>> = Vec::new();
        all.push(Box::new(5));
        all.push(Box::new("five"));
        let callback: &dyn Fn(i32) -> i32 = &|x| x + 1;
        note(&log, callback(1));
        note(&Box::new(log.clone()), 3);
        Ok(Box::new("shown"))
    })?;
    assert_eq!((shown.to_string().as_str(), log.ran()), ("shown", vec![2, 3]));
    Ok(())
}

#[test]
fn chains_and_struct_literals() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        Draft { id: 1 }.save()?;
        Draft { id: 2 }.note(&log);
        Some(3).map(|id| note(&log, id)).into_iter().next().ok_or(Error::NotFound)?;
        [4].map(|id| Draft { id })[0].id.to_string().len();
        *log.ran().first().get_or_insert(&0);
        (note(&log, 5));
        Ok(())
    })?;
    assert_eq!(log.ran(), [2, 3, 5]);
    Ok(())
}

#[test]
fn a_task_as_a_value_is_only_a_value() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        let kept = note(&log, 1);
        let tasks: Vec<note> = (2..4).map(|id| note(&log, id)).collect();
        for task in tasks {
            task;
        }
        kept;
        Ok(())
    })?;
    assert_eq!(log.ran(), [2, 3, 1]);
    Ok(())
}
