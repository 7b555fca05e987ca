//! A task that is not durable has no rows; an argument of another type; what is no call; one argument
//! too few; an option of a task that has none; a connection without the kit.

use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, assert_deferred, assert_enqueued, deferred_task};

#[deferred_task]
fn send_welcome(user_id: i32, email: &str) {
    let _ = (user_id, email);
}

fn look(conn: &mut DeferredConnection<SqliteConnection>, plain: &mut SqliteConnection) {
    assert_enqueued!(conn, send_welcome(7, _));
    assert_deferred!(conn, send_welcome("7", _));
    assert_deferred!(conn, send_welcome);
    assert_deferred!(conn, send_welcome(7));
    assert_deferred!(conn, send_welcome(7, _).queue("mail"));
    assert_deferred!(plain, send_welcome(7, _));
    assert_deferred!(conn);
}

fn main() {}
