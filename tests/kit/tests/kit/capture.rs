//! `capture`: typed calls, in order, and nothing runs.

use diesel::prelude::*;
use diesel_deferred::testing::{Captured, TaskRows, capture};
use diesel_deferred::{DeferredConnection, assert_deferred, atomic, refute_deferred};
use diesel_deferred_tests::{Database, Notes, Scratch, on_every_database, rolled_back};

use crate::tasks::{begun, plain, spawned, stored};

on_every_database! {
    t02_nothing_runs_and_the_calls_are_in_order,
    t02_a_capture_in_a_capture_has_its_calls_alone,
    t03_nothing_runs_of_a_block_that_failed,
    t04_what_ran_too_early_is_told_when_its_transaction_is_rolled_back,
    t05_what_was_registered_before_is_not_captured,
    t06_what_captured_calls_register_runs_once_in_the_order_of_production,
    t03_nothing_runs_where_one_of_the_calls_cannot,
    a_panic_in_the_block_goes_on_and_ends_the_capture,
    what_is_rolled_back_is_not_captured,
    a_call_that_a_transaction_waits_for_is_captured_and_stored,
}

fn call<C: Database>(conn: &mut DeferredConnection<C>, notes: &Notes, ids: [i32; 2]) -> QueryResult<()> {
    atomic!(conn, {
        for id in ids {
            plain(notes.clone(), id, "text");
        }
        // No runtime is needed.
        spawned(notes.clone(), ids[0]);
        stored(ids[1], "row");
        Ok(())
    })
}

/// T2
fn t02_nothing_runs_and_the_calls_are_in_order<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun(db), Notes::default());
    let captured = capture(conn, |conn| call(conn, &notes, [1, 2]));
    assert_eq!((captured.len(), captured.value()), (4, &Ok(())));
    let shown = captured.shown();
    for (shown, begin) in shown.iter().zip(["plain(", "plain(", "spawned(", "stored("]) {
        assert!(shown.contains(begin), "{shown}");
    }
    assert_deferred!(captured, plain(_, 1, "text").times(1));
    assert_deferred!(captured, plain(_, _, _).times(2));
    assert_deferred!(captured, spawned(_, 1));
    assert_deferred!(captured, stored(2, "row").queue("mail").max_attempts(3));
    refute_deferred!(captured, plain(_, 3, _));
    refute_deferred!(captured, stored(_, "row").queue("default"));
    assert!(notes.all().is_empty() && conn.pending().is_empty());
    assert_eq!(conn.last_report().ran(), 0);
    // The next block is a real one.
    let runs = atomic!(conn, -> QueryResult<()>, {
        plain(notes.clone(), 3, "real");
        Ok(())
    });
    assert_eq!((runs, notes.all()), (Ok(()), vec!["plain 3 real".to_owned()]));
}

/// T2
fn t02_a_capture_in_a_capture_has_its_calls_alone<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun(db), Notes::default());
    let block = |conn: &mut DeferredConnection<C>, id| -> QueryResult<()> {
        atomic!(conn, {
            plain(notes.clone(), id, "");
            Ok(())
        })
    };
    let mut inner = None;
    let outer = capture(conn, |conn| {
        block(conn, 1)?;
        inner = Some(capture(conn, |conn| block(conn, 2)));
        block(conn, 3)
    });
    let inner: Captured<_, _> = inner.expect("captured");
    assert_eq!((inner.len(), outer.len()), (1, 2));
    refute_deferred!(outer, plain(_, 2, _));
    inner.run(conn).unwrap();
    outer.run(conn).unwrap();
    assert_eq!(notes.all(), ["plain 2 ", "plain 1 ", "plain 3 "]);
}

/// T3
fn t03_nothing_runs_of_a_block_that_failed<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun(db), Notes::default());
    let captured = capture(conn, |conn| -> QueryResult<()> {
        atomic!(conn, -> QueryResult<()>, {
            plain(notes.clone(), 1, "committed");
            Ok(())
        })?;
        rolled_back()
    });
    assert_deferred!(captured, plain(_, 1, _));
    assert_eq!(captured.run(conn), rolled_back());
    assert!(notes.all().is_empty(), "{:?}", notes.all());
}

/// T4
fn t04_what_ran_too_early_is_told_when_its_transaction_is_rolled_back<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun(db), Notes::default());
    for fails in [false, true] {
        let ended = atomic!(conn, -> QueryResult<()>, {
            let captured = capture(conn, |conn| call(conn, &notes, [1, 2]));
            refute_deferred!(captured, spawned(_, 2));
            let captured = capture(conn, |conn| -> QueryResult<()> {
                plain(notes.clone(), 3, "early").after_commit(conn)
            });
            captured.run(conn)?;
            if fails { rolled_back() } else { Ok(()) }
        });
        assert_eq!(ended.is_err(), fails);
        let told: Vec<_> = conn.last_report().failures().iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), usize::from(fails), "{told:?}");
        assert!(
            told.iter().all(|text| text.contains("plain") && text.contains("before its transaction was committed"))
        );
    }
    assert_eq!(notes.all(), ["plain 3 early", "plain 3 early"]);
}

/// T5
fn t05_what_was_registered_before_is_not_captured<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun(db), Notes::default());
    atomic!(conn, -> QueryResult<()>, {
        plain(notes.clone(), 1, "before");
        stored(1, "before");
        let captured = capture(conn, |conn| call(conn, &notes, [2, 3]));
        assert_eq!(captured.len(), 4);
        refute_deferred!(captured, plain(_, 1, _));
        refute_deferred!(captured, stored(1, _));
        plain(notes.clone(), 4, "behind");
        Ok(())
    })
    .unwrap();
    assert_eq!(notes.all(), ["plain 1 before", "plain 4 behind"]);
}

/// T6, C8
fn t06_what_captured_calls_register_runs_once_in_the_order_of_production<C: Database>(_: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let mut orders = Vec::new();
    for captures in [false, true] {
        let db = Scratch::<C>::new();
        let (conn, notes) = (&mut begun(&db), Notes::default());
        let block = |conn: &mut DeferredConnection<C>| -> QueryResult<()> {
            atomic!(conn, {
                for id in [1, 2] {
                    let notes = notes.clone();
                    conn.after_commit(move |conn| -> QueryResult<()> {
                        plain(notes.clone(), id, "before").run();
                        atomic!(conn, {
                            plain(notes.clone(), id, "inner");
                            Ok(())
                        })
                    })?;
                }
                Ok(())
            })
        };
        if captures {
            capture(conn, block).run(conn).unwrap();
        } else {
            block(conn).unwrap();
        }
        orders.push(notes.all());
    }
    assert_eq!(orders[0], orders[1]);
    assert_eq!(orders[1].len(), 4);
}

fn a_panic_in_the_block_goes_on_and_ends_the_capture<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun(db), Notes::default());
    let message = crate::tasks::message_of(|| {
        capture(conn, |conn| {
            call(conn, &notes, [1, 2]).unwrap();
            panic!("in the block")
        })
        .into_value();
    });
    assert_eq!(message, "in the block");
    atomic!(conn, -> QueryResult<()>, {
        plain(notes.clone(), 3, "real");
        Ok(())
    })
    .unwrap();
    assert_eq!(notes.all(), ["plain 3 real"]);
}

fn what_is_rolled_back_is_not_captured<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun(db), Notes::default());
    let captured = capture(conn, |conn| {
        atomic!(conn, -> QueryResult<()>, {
            stored(1, "outer");
            let failed: QueryResult<()> = atomic!(conn, {
                plain(notes.clone(), 1, "inner");
                stored(2, "inner");
                rolled_back()
            });
            assert_eq!(failed, rolled_back());
            Ok(())
        })
    });
    assert_eq!(captured.len(), 1);
    refute_deferred!(captured, plain(_, _, _));
    refute_deferred!(captured, stored(2, _));
    let failed = capture(conn, |conn| -> QueryResult<()> {
        atomic!(conn, {
            stored(3, "");
            rolled_back()
        })
    });
    assert!(failed.is_empty(), "{failed:?}");
}

fn a_call_that_a_transaction_waits_for_is_captured_and_stored<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let conn = &mut begun(db);
    atomic!(conn, -> QueryResult<()>, {
        let captured = capture(conn, |conn| stored(1, "waits").after_commit(conn).map(drop));
        assert_deferred!(captured, stored(1, "waits").times(1));
        Ok(())
    })
    .unwrap();
    diesel_deferred::assert_enqueued!(conn, stored(1, "waits").times(1));
}

/// T3: the last one has no runtime.
fn t03_nothing_runs_where_one_of_the_calls_cannot<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun(db), Notes::default());
    let captured = capture(conn, |conn| {
        atomic!(conn, -> QueryResult<()>, {
            plain(notes.clone(), 1, "");
            spawned(notes.clone(), 2);
            Ok(())
        })
    });
    let message = crate::tasks::message_of(|| drop(captured.run(conn)));
    assert!(message.contains("kit::tasks::spawned") && message.contains("what was captured cannot run"), "{message}");
    assert!(notes.all().is_empty());
}
