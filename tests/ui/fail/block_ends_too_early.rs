use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};

type Conn = DeferredConnection<SqliteConnection>;

#[deferred_task]
fn send(user_id: i32) {
    println!("{user_id}");
}

fn sign_up(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, {
        send(1);
        let user_id = 2
    })
}

fn sum_up(conn: &mut Conn) -> QueryResult<i32> {
    atomic!(conn, {
        send(1);
        2 +
    })
}

fn main() {}
