use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};

type Conn = DeferredConnection<SqliteConnection>;

#[deferred_task]
fn send(user_id: i32) {
    println!("{user_id}");
}

#[deferred_task]
fn greet(name: String) {
    println!("{name}");
}

fn sign_up(conn: &mut Conn, name: String) -> QueryResult<()> {
    atomic!(conn, retries = 3, {
        greet(name);
        Ok(())
    })
}

fn main() {}
