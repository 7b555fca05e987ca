use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};

type Conn = DeferredConnection<SqliteConnection>;

#[deferred_task]
fn send(user_id: i32) {
    println!("{user_id}");
}

#[derive(Debug)]
struct SignUpError;

fn sign_up(conn: &mut Conn) -> Result<(), SignUpError> {
    atomic!(conn, {
        send(1);
        Ok(())
    })
}

fn main() {}
