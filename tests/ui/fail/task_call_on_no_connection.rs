use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};

type Conn = DeferredConnection<SqliteConnection>;

#[deferred_task]
fn send(user_id: i32) {
    println!("{user_id}");
}

fn helper(conn: &mut Conn) -> QueryResult<()> {
    send(1).after_commit(1)
}

fn main() {}
