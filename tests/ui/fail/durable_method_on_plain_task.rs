use std::time::Duration;

use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};

#[deferred_task]
fn send_welcome(user_id: i32) {
    println!("{user_id}");
}

fn sign_up(conn: &mut DeferredConnection<SqliteConnection>) -> QueryResult<()> {
    atomic!(conn, {
        send_welcome(1).delay(Duration::from_secs(60));
        Ok(())
    })
}

fn main() {}
