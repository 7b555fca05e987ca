use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, deferred_task};

#[deferred_task(durable)]
fn send(user_id: i32) {
    println!("{user_id}");
}

fn sign_up(conn: &mut DeferredConnection<SqliteConnection>) -> QueryResult<()> {
    send(1).after_rollback(conn)
}

fn main() {}
