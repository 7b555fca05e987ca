use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};

type Conn = DeferredConnection<SqliteConnection>;

#[deferred_task]
fn send(user_id: i32) {
    println!("{user_id}");
}

#[deferred_task]
fn greet(names: Vec<i32>) {
    println!("{names:?}");
}

fn sign_up(conn: &mut Conn, names: Vec<i32>) -> QueryResult<()> {
    atomic!(conn, retries = 3, {
        greet(names);
        Ok(())
    })
}

fn main() {}
