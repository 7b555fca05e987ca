//! `if`, `match`, loops, labels, `return`: tasks and other calls side by side.

use diesel::prelude::*;
use diesel_deferred::atomic;
use diesel_deferred_tests::{Log, note};

use crate::connect;

fn plain() -> Option<i32> {
    Some(1)
}

#[test]
fn branches_mix_tasks_and_plain_calls() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    let mut list = Vec::new();
    atomic!(conn, -> QueryResult<()>, {
        for id in 0..4 {
            if id == 0 {
                note(&log, id)
            } else if id == 1 {
                list.push(id)
            } else {
                drop(vec![plain()])
            }
            match id {
                0 => note(&log, 10),
                1 => list.push(10),
                2 => {
                    note(&log, 12);
                }
                _ => (),
            }
            if let Some(more) = plain() {
                note(&log, more + 20)
            }
        }
        Ok(())
    })?;
    assert_eq!(log.ran(), [0, 10, 21, 21, 12, 21, 21]);
    assert_eq!(list, [1, 10]);
    Ok(())
}

/// Braces may stand in what an `if`, `while`, `for` asks: its body is behind that.
#[test]
fn braces_in_heads() -> QueryResult<()> {
    const fn above<const N: i32>(n: i32) -> bool {
        n > N
    }
    const LEAST: i32 = 1;
    let conn = &mut connect();
    let log = Log::new();
    let mut queue = vec![1, 2, 3];
    atomic!(conn, -> QueryResult<()>, {
        for task in {
            let log = &log;
            [note(log, 1), note(log, 2)]
        } {
            task.after_commit(conn)?;
        }
        while let Some(id) = {
            let left = queue.len();
            queue.pop().filter(|_| left > 1)
        } {
            note(&log, id);
        }
        if above::<{ LEAST + 1 }>(2) {
            note(&log, 10);
        } else {
            note(&log, 20);
        }
        if let Some(id) = { plain() } {
            note(&log, 30 + id);
        } else {
            note(&log, 40);
        }
        Ok(())
    })?;
    assert_eq!(log.ran(), [1, 2, 3, 2, 20, 31]);
    Ok(())
}

#[test]
#[allow(unsafe_code, reason = "a block that the rewrite goes into")]
fn tails_of_unit_blocks() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        {
            note(&log, 1)
        }
        // SAFETY: the pointer is to a constant.
        unsafe { note(&log, *std::ptr::from_ref(&2)) }
        'label: {
            if log.ran().is_empty() {
                break 'label;
            }
            note(&log, 0)
        }
        {
            {
                note(&log, 3)
            }
        }
        let five = {
            note(&log, 4);
            5
        };
        note(&log, five);
        Ok(())
    })?;
    assert_eq!(log.ran(), [1, 2, 3, 4, 5]);
    Ok(())
}

#[test]
fn loops() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    let mut left = vec![5, 4, 3];
    atomic!(conn, -> QueryResult<()>, {
        for id in 1..=2 {
            note(&log, id)
        }
        while let Some(id) = left.pop() {
            note(&log, id)
        }
        let mut id = 6;
        while id < 8 {
            note(&log, id);
            id += 1;
        }
        let last = loop {
            note(&log, id);
            if id == 9 {
                break id;
            }
            id += 1;
        };
        assert_eq!(last, 9);
        loop {
            id += 1;
            if id == 12 {
                break;
            }
            note(&log, id)
        }
        Ok(())
    })?;
    assert_eq!(log.ran(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    Ok(())
}

#[test]
fn labelled_breaks() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        'outer: for row in 0..3 {
            for column in 0..3 {
                match (row, column) {
                    (_, 1) => continue 'outer,
                    (2, _) => break 'outer,
                    _ => note(&log, row),
                }
            }
        }
        let found = 'search: {
            for id in 0..3 {
                note(&log, 10 + id);
                if id == 1 {
                    break 'search Some(id);
                }
            }
            None
        };
        assert_eq!(found, Some(1));
        Ok(())
    })?;
    assert_eq!(log.ran(), [0, 1, 10, 11]);
    Ok(())
}

#[test]
fn let_else() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    let nothing: Option<i32> = None;
    let value = atomic!(conn, -> QueryResult<&str>, {
        let Some(id) = plain() else {
            note(&log, 0);
            return Ok("nothing");
        };
        note(&log, id);
        let Some(id) = nothing else {
            note(&log, 2);
            return Ok("early");
        };
        note(&log, id);
        Ok("late")
    })?;
    assert_eq!((value, log.ran()), ("early", vec![1, 2]));
    Ok(())
}

#[test]
fn an_early_return_commits() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    for stop in [true, false] {
        atomic!(conn, -> QueryResult<()>, {
            note(&log, 1);
            if stop {
                return Ok(());
            }
            note(&log, 2);
            Ok(())
        })?;
    }
    assert_eq!(log.ran(), [1, 1, 2]);
    Ok(())
}

#[test]
fn a_block_may_be_its_whole_if() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    for flag in [true, false] {
        let value = atomic!(conn, -> QueryResult<i32>, {
            if flag {
                note(&log, 1);
                Ok(1)
            } else {
                match plain() {
                    Some(id) => {
                        note(&log, id + 1);
                        Ok(2)
                    }
                    None => Err(diesel::result::Error::NotFound),
                }
            }
        })?;
        assert_eq!(value, if flag { 1 } else { 2 });
    }
    assert_eq!(log.ran(), [1, 2]);
    Ok(())
}
