//! What each assertion says when it fails.

use std::time::Duration;

use diesel::prelude::*;
use diesel_deferred::testing::{Mode, capture, set_mode};
use diesel_deferred::{DeferredConnection, assert_deferred, assert_enqueued, atomic, refute_deferred, refute_enqueued};
use diesel_deferred_tests::{Notes, Scratch};

use crate::tasks::{
    LessPublic, Opaque, Shown, assert_says, begun, generic, keyed, less_public, message_of, names, odd, plain, stored,
};

fn conn() -> DeferredConnection<SqliteConnection> {
    begun(&Scratch::new())
}

/// T8
#[test]
fn t08_assert_deferred() {
    let conn = &mut conn();
    let notes = Notes::default();
    let nothing = capture(conn, |_| ());
    assert_says("assert_deferred_nothing", &message_of(|| assert_deferred!(nothing, plain(_, 1, "text"))));
    let some = capture(conn, |conn| {
        atomic!(conn, -> QueryResult<()>, {
            plain(notes.clone(), 1, "other");
            plain(notes.clone(), 2, "text");
            stored(3, "row");
            conn.after_commit(|_| ())?;
            Ok(())
        })
    });
    assert_says("assert_deferred_other_arguments", &message_of(|| assert_deferred!(some, plain(_, 1, "text"))));
    assert_says("assert_deferred_times", &message_of(|| assert_deferred!(some, plain(_, _, _).times(1))));
    assert_says(
        "assert_deferred_options",
        &message_of(|| assert_deferred!(some, stored(3, _).queue("default").delay(Duration::from_secs(60)))),
    );
    assert_says("refute_deferred", &message_of(|| refute_deferred!(some, plain(_, _, _))));
    set_mode(conn, Mode::Manual);
    let message = message_of(|| assert_deferred!(conn, stored(_, _)));
    assert_says("assert_deferred_on_a_connection", &message);
}

/// T8: by `Debug` where there is no `PartialEq`; secrets are compared, and not shown.
#[test]
fn t08_arguments_that_cannot_be_compared() {
    let conn = &mut conn();
    let captured = capture(conn, |conn| {
        atomic!(conn, -> QueryResult<()>, {
            odd(Shown(1), Opaque, "letmein".to_owned());
            Ok(())
        })
    });
    assert_deferred!(captured, odd(Shown(1), _, "letmein".to_owned()));
    refute_deferred!(captured, odd(Shown(2), _, _));
    let message = message_of(|| assert_deferred!(captured, odd(Shown(2), Opaque, "secret".to_owned())));
    assert!(!message.contains("letmein") && !message.contains("\"secret\""), "{message}");
    assert_says("incomparable", &message);
}

/// T8
#[test]
fn t08_arguments_of_any_name_and_type() {
    let conn = &mut conn();
    let captured = capture(conn, |conn| {
        atomic!(conn, -> QueryResult<()>, {
            names(1, 2, 3, 4, 5, 6);
            generic([1_u8, 2], &[3]);
            less_public(LessPublic);
            Ok(())
        })
    });
    assert_deferred!(captured, less_public(LessPublic));
    assert_deferred!(captured, names(1, 2, 3, 4, 5, 6));
    refute_deferred!(captured, names(1, 2, 3, 4, 5, 7));
    // Nothing is known of a `T`: it may be anything.
    assert_deferred!(captured, generic::<u8, 2>(_, _));
    refute_deferred!(captured, generic::<u8, 3>(_, _));
}

/// T8
#[test]
fn t08_assert_enqueued() {
    let conn = &mut conn();
    assert_says("assert_enqueued_nothing", &message_of(|| assert_enqueued!(conn, stored(1, "text"))));
    let called: QueryResult<()> = atomic!(conn, {
        stored(1, "other");
        keyed(5, 6);
        Ok(())
    });
    called.unwrap();
    assert_says(
        "assert_enqueued_other_arguments",
        &message_of(|| assert_enqueued!(conn, stored(1, "text").queue("x"))),
    );
    assert_says("refute_enqueued", &message_of(|| refute_enqueued!(conn, stored(1, _))));
    // Rows that another version has written.
    use diesel::connection::SimpleConnection;
    conn.batch_execute("UPDATE deferred_tasks SET payload = '{\"id\":1}' WHERE task LIKE '%stored'").unwrap();
    assert_says("assert_enqueued_unreadable", &message_of(|| assert_enqueued!(conn, stored(1, _))));
    conn.batch_execute("DROP TABLE deferred_tasks").unwrap();
    assert_says("assert_enqueued_no_table", &message_of(|| assert_enqueued!(conn, stored(1, _))));
}
