//! `assert_enqueued!`: rows, and what is about to become rows.

use std::time::{Duration, SystemTime};

use diesel::prelude::*;
use diesel_deferred::testing::{TaskRows, advance};
use diesel_deferred::{DeferredConnection, assert_deferred, assert_enqueued, atomic, refute_enqueued};
use diesel_deferred_tests::{Database, Scratch, on_every_database, rolled_back};

use crate::tasks::{begun, keyed, stored};

on_every_database! {
    t08_rows_and_calls_of_an_open_transaction_are_found,
    t08_options_count_and_times_have_a_tolerance,
    t08_what_was_rolled_back_is_not_there,
}

/// T8
fn t08_rows_and_calls_of_an_open_transaction_are_found<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let conn = &mut begun(db);
    refute_enqueued!(conn, stored(_, _));
    atomic!(conn, -> QueryResult<()>, {
        stored(1, "first");
        assert_enqueued!(conn, stored(1, _).times(1));
        assert_deferred!(conn, stored(1, "first").queue("mail"));
        atomic!(conn, -> QueryResult<()>, {
            stored(2, "inner");
            assert_enqueued!(conn, stored(_, _).times(2));
            Ok(())
        })
    })
    .unwrap();
    assert_enqueued!(conn, stored(1, "first").times(1));
    assert_enqueued!(conn, stored(2, "inner").times(1));
    refute_enqueued!(conn, stored(2, "first"));
    assert!(db.tasks().is_empty(), "in a transaction that nobody else sees into");
}

/// T8
fn t08_options_count_and_times_have_a_tolerance<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let conn = &mut begun(db);
    let (hour, tomorrow) = (Duration::from_secs(3600), SystemTime::now() + Duration::from_secs(86_400));
    atomic!(conn, -> QueryResult<()>, {
        stored(1, "").delay(hour).priority(7).queue("other").after_commit(conn)?;
        stored(2, "").run_at(tomorrow).after_commit(conn)?;
        keyed(3, 4).after_commit(conn)?;
        assert_enqueued!(conn, stored(1, _).delay(hour).priority(7).queue("other").max_attempts(3));
        Ok(())
    })
    .unwrap();
    assert_enqueued!(conn, stored(1, _).delay(hour).priority(7).queue("other").max_attempts(3));
    assert_enqueued!(conn, stored(2, _).run_at(tomorrow));
    assert_enqueued!(conn, keyed(3, 4).key("key-3").delay(Duration::ZERO));
    refute_enqueued!(conn, stored(1, _).priority(0));
    refute_enqueued!(conn, stored(1, _).delay(hour + Duration::from_secs(5)));
    assert_enqueued!(conn, stored(1, _).delay(hour + Duration::from_secs(5)).within(Duration::from_secs(6)));
    refute_enqueued!(conn, stored(2, _).run_at(tomorrow + Duration::from_secs(60)));
    refute_enqueued!(conn, keyed(3, _).key("key-4"));
    // Time passes for what was called and what is due alike.
    advance(conn, hour);
    assert_enqueued!(conn, stored(1, _).delay(hour));
    refute_enqueued!(conn, stored(2, _).run_at(tomorrow));
    assert_enqueued!(conn, stored(2, _).run_at(tomorrow - hour));
}

fn t08_what_was_rolled_back_is_not_there<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let conn = &mut begun(db);
    let failed: QueryResult<()> = atomic!(conn, {
        stored(1, "");
        assert_enqueued!(conn, stored(1, _));
        rolled_back()
    });
    assert_eq!(failed, rolled_back());
    refute_enqueued!(conn, stored(_, _));
}
