//! Modes: manual, inline, real; of one connection each.

use diesel::prelude::*;
use diesel_deferred::testing::{Mode, TaskRows, capture, set_mode, take_held};
use diesel_deferred::{
    DeferredConnection, Dispatcher, assert_deferred, assert_enqueued, atomic, refute_deferred, refute_enqueued,
};
use diesel_deferred_tests::{Database, Notes, Scratch, on_every_database, rolled_back};

use crate::tasks::{Picky, begun, blocking, blocking_on_its_runtime, picky, plain, spawned, stored};

on_every_database! {
    t11_manual_holds_calls_until_they_are_taken,
    t11_inline_runs_each_to_its_end_before_the_block_returns,
    t11_a_connection_has_a_mode_of_its_own,
    t11_manual_holds_what_runs_after_a_rollback_and_outside_of_a_transaction,
    t11_a_commit_that_fails_leaves_nothing_held,
    t11_inline_runs_stored_calls_whatever_hooks_roll_back,
    t11_inline_runs_rollback_hooks_and_blocking_tasks_to_their_end,
    t11_inline_tells_of_a_row_that_cannot_be_read,
}

fn call<C: Database>(conn: &mut DeferredConnection<C>, notes: &Notes, id: i32) -> QueryResult<()> {
    atomic!(conn, {
        plain(notes.clone(), id, "");
        spawned(notes.clone(), id);
        blocking(notes.clone(), id);
        stored(id, "row");
        Ok(())
    })
}

/// T11
fn t11_manual_holds_calls_until_they_are_taken<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun(db), Notes::default());
    set_mode(conn, Mode::Manual);
    call(conn, &notes, 1).unwrap();
    call(conn, &notes, 2).unwrap();
    assert_deferred!(conn, plain(_, 1, _).times(1));
    assert_deferred!(conn, spawned(_, _).times(2));
    assert_deferred!(conn, stored(2, "row"));
    assert_enqueued!(conn, stored(_, _).times(2));
    refute_deferred!(conn, plain(_, 3, _));
    assert!(notes.all().is_empty());
    let held = take_held(conn);
    assert_eq!(held.len(), 8);
    refute_deferred!(conn, plain(_, _, _));
    set_mode(conn, Mode::Inline);
    held.run(conn);
    assert_eq!(
        notes.all(),
        ["plain 1 ", "spawned 1", "blocking 1", "plain 2 ", "spawned 2", "blocking 2"],
        "the rows are left for a worker"
    );
}

/// T11
fn t11_inline_runs_each_to_its_end_before_the_block_returns<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun(db), Notes::default());
    conn.set_dispatcher(Dispatcher::builder().state(notes.clone()).build());
    set_mode(conn, Mode::Inline);
    call(conn, &notes, 1).unwrap();
    assert_eq!(notes.all(), ["plain 1 ", "spawned 1", "blocking 1", "stored 1 row 1"]);
    assert!(conn.last_report().is_clean(), "{}", conn.last_report());
    refute_enqueued!(conn, stored(_, _));
    // What fails is in the report, as on the committing thread.
    call(conn, &notes, -1).unwrap();
    let failures: Vec<_> = conn.last_report().failures().iter().map(ToString::to_string).collect();
    assert!(matches!(&*failures, [spawned] if spawned.contains("-1 is negative")), "{failures:?}");
    atomic!(conn, -> QueryResult<()>, {
        stored(3, "fails");
        Ok(())
    })
    .unwrap();
    let failures: Vec<_> = conn.last_report().failures().iter().map(ToString::to_string).collect();
    assert!(matches!(&*failures, [stored] if stored.contains("stored (by a worker, called at")), "{failures:?}");
    assert_enqueued!(conn, stored(3, "fails"));
    set_mode(conn, Mode::Real);
    atomic!(conn, -> QueryResult<()>, {
        stored(4, "");
        Ok(())
    })
    .unwrap();
    assert_enqueued!(conn, stored(4, _));
}

/// T11
fn t11_a_connection_has_a_mode_of_its_own<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let (held, real, notes) = (&mut db.connect(), &mut db.connect(), Notes::default());
    set_mode(held, Mode::Manual);
    for (conn, id) in [(&mut *held, 1), (&mut *real, 2)] {
        atomic!(conn, -> QueryResult<()>, {
            plain(notes.clone(), id, "");
            Ok(())
        })
        .unwrap();
    }
    assert_eq!(notes.all(), ["plain 2 "]);
    assert_deferred!(held, plain(_, 1, _));
    refute_deferred!(real, plain(_, _, _));
}

/// T11
fn t11_manual_holds_what_runs_after_a_rollback_and_outside_of_a_transaction<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun(db), Notes::default());
    set_mode(conn, Mode::Manual);
    let failed: QueryResult<()> = atomic!(conn, {
        plain(notes.clone(), 1, "dropped");
        plain(notes.clone(), 2, "undo").after_rollback(conn)?;
        rolled_back()
    });
    assert_eq!(failed, rolled_back());
    plain(notes.clone(), 3, "now").after_commit_or_now(conn).unwrap();
    assert!(notes.all().is_empty());
    refute_deferred!(conn, plain(_, 1, _));
    assert_deferred!(conn, plain(_, 2, _).times(1));
    assert_deferred!(conn, plain(_, 3, _).times(1));
}

/// T11, E6
fn t11_a_commit_that_fails_leaves_nothing_held<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let (conn, notes) = (&mut begun(db), Notes::default());
    set_mode(conn, Mode::Manual);
    let failed: QueryResult<()> = atomic!(conn, {
        plain(notes.clone(), 1, "");
        stored(1, "");
        conn.before_commit(|_| rolled_back())?;
        Ok(())
    });
    assert_eq!(failed, rolled_back());
    let failed: QueryResult<()> = atomic!(conn, {
        stored(2, "");
        stored(3, "").queue("").after_commit(conn)?;
        Ok(())
    });
    assert!(failed.is_err());
    refute_deferred!(conn, plain(_, _, _));
    refute_deferred!(conn, stored(_, _));
    assert!(take_held(conn).is_empty());
}

fn inline<C: Database>(db: &Scratch<C>, notes: &Notes) -> DeferredConnection<C>
where
    DeferredConnection<C>: TaskRows,
{
    let mut conn = begun(db);
    conn.set_dispatcher(Dispatcher::builder().state(notes.clone()).build());
    set_mode(&mut conn, Mode::Inline);
    conn
}

/// T11
fn t11_inline_runs_stored_calls_whatever_hooks_roll_back<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let notes = Notes::default();
    let conn = &mut inline(db, &notes);
    atomic!(conn, -> QueryResult<()>, {
        stored(1, "outer");
        conn.after_commit(|conn| {
            let failed: QueryResult<()> = atomic!(conn, {
                stored(2, "inner");
                rolled_back()
            });
            assert_eq!(failed, rolled_back());
        })?;
        Ok(())
    })
    .unwrap();
    assert_eq!(notes.all(), ["stored 1 outer 1"]);
    assert_eq!(conn.last_report().ran(), 2, "{}", conn.last_report());
}

/// T11: without a runtime.
fn t11_inline_runs_rollback_hooks_and_blocking_tasks_to_their_end<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let notes = Notes::default();
    let conn = &mut inline(db, &notes);
    let failed: QueryResult<()> = atomic!(conn, {
        spawned(notes.clone(), 1).after_rollback(conn)?;
        blocking_on_its_runtime(notes.clone()).after_rollback(conn)?;
        rolled_back()
    });
    assert_eq!(failed, rolled_back());
    assert_eq!(notes.all(), ["its runtime", "spawned 1"]);
    let captured = capture(conn, |conn| -> QueryResult<()> {
        atomic!(conn, {
            spawned(notes.clone(), 2).after_rollback(conn)?;
            rolled_back()
        })
    });
    assert_deferred!(captured, spawned(_, 2));
}

/// T11, D21
fn t11_inline_tells_of_a_row_that_cannot_be_read<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let notes = Notes::default();
    let conn = &mut inline(db, &notes);
    atomic!(conn, -> QueryResult<()>, {
        picky(Picky(7));
        Ok(())
    })
    .unwrap();
    let failures: Vec<_> = conn.last_report().failures().iter().map(ToString::to_string).collect();
    assert!(matches!(&*failures, [picky] if picky.contains("its argument `value` cannot be read")), "{failures:?}");
    for _ in 0..2 {
        let drained = diesel_deferred::testing::drain(conn).run();
        assert_eq!((drained.ran(), drained.unknown().len()), (0, 1), "it is still there: {drained}");
    }
}
