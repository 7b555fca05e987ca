//! `no_lost_calls`: a test that has lost calls fails.

use diesel::prelude::*;
use diesel_deferred::testing::{TaskRows, capture, no_lost_calls};
use diesel_deferred::{DeferredConnection, atomic};
use diesel_deferred_tests::{Database, Notes, Scratch, on_every_database, rolled_back};

use crate::tasks::{assert_says, begun, message_of, plain, stored};

on_every_database! {
    t07_a_hook_whose_transaction_never_ended_is_named,
    t04_a_call_that_ran_too_early_is_named,
    t07_nothing_is_lost_where_all_is_well,
}

/// C24
#[test]
fn c24_a_call_that_was_dropped_fails_the_test() {
    let message = message_of(|| {
        let _guard = no_lost_calls();
        let calls = [1, 2].map(|id| plain(Notes::default(), id, ""));
        drop(calls);
    });
    assert_says("dropped_calls", &message);
}

/// C24: others have guards of their own, and a test that fails anyway says why.
#[test]
fn c24_it_is_of_this_thread_and_says_nothing_beside_another_failure() {
    let guard = no_lost_calls();
    let other = std::thread::spawn(|| drop(Vec::from([1, 2].map(|id| stored(id, "")))));
    other.join().unwrap();
    stored(1, "").forget();
    guard.check().unwrap();
    let message = message_of(|| {
        let _guard = no_lost_calls();
        drop(vec![stored(1, "")]);
        panic!("another failure");
    });
    assert_eq!(message, "another failure");
}

/// T7
fn t07_a_hook_whose_transaction_never_ended_is_named<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let guard = no_lost_calls();
    let mut conn = begun(db);
    begin(&mut conn);
    plain(Notes::default(), 1, "").after_commit(&mut conn).unwrap();
    stored(2, "").after_commit(&mut conn).unwrap();
    drop(conn);
    let lost = guard.check().unwrap_err();
    assert_eq!(lost.tasks().collect::<Vec<_>>(), ["kit::tasks::plain", "kit::tasks::stored"]);
    if C::NAME == "SQLite" {
        assert_says("never_ended", &lost.to_string());
    }
}

fn begin<C: Database>(conn: &mut DeferredConnection<C>) {
    use diesel::connection::TransactionManager;
    diesel_deferred::DeferredTransactionManager::begin_transaction(conn).unwrap();
}

/// T4
fn t04_a_call_that_ran_too_early_is_named<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let guard = no_lost_calls();
    let conn = &mut begun(db);
    let failed: QueryResult<()> = atomic!(conn, {
        capture(conn, |conn| plain(Notes::default(), 1, "").after_commit(conn)).run(conn)?;
        rolled_back()
    });
    assert_eq!(failed, rolled_back());
    let lost = guard.check().unwrap_err().to_string();
    assert!(lost.contains("kit::tasks::plain") && lost.contains("must not have run"), "{lost}");
}

/// T7
fn t07_nothing_is_lost_where_all_is_well<C: Database>(db: &Scratch<C>)
where
    DeferredConnection<C>: TaskRows,
{
    let _guard = no_lost_calls();
    let conn = &mut begun(db);
    let called: QueryResult<()> = atomic!(conn, {
        plain(Notes::default(), 1, "");
        stored(1, "");
        let failed: QueryResult<()> = atomic!(conn, {
            plain(Notes::default(), 2, "");
            stored(2, "");
            rolled_back()
        });
        assert_eq!(failed, rolled_back());
        Ok(())
    });
    called.unwrap();
    drop(capture(conn, |conn| -> QueryResult<()> {
        atomic!(conn, {
            plain(Notes::default(), 3, "");
            Ok(())
        })
    }));
}

/// C24: what is lost in a guard's scope is its own; the one around it goes on.
#[test]
fn c24_a_guard_in_a_guard_takes_its_own() {
    let outer = no_lost_calls();
    drop(vec![stored(1, "")]);
    let inner = no_lost_calls();
    drop(vec![plain(Notes::default(), 2, "")]);
    assert_eq!(inner.check().unwrap_err().tasks().collect::<Vec<_>>(), ["kit::tasks::plain"]);
    drop(vec![stored(3, "")]);
    assert_eq!(outer.check().unwrap_err().tasks().count(), 2);
}
