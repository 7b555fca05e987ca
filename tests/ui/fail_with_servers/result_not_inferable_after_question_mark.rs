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
        Ok(())
    })?;
    Ok(())
}

fn main() {}
