use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};

type Conn = DeferredConnection<SqliteConnection>;

#[deferred_task]
fn send(user_id: i32) {
    println!("{user_id}");
}

fn sign_up(conn: &mut Conn, users: &[i32]) -> QueryResult<()> {
    atomic!(conn, {
        users.iter().for_each(|id| {
            send(*id);
        });
        Ok(())
    })
}

fn main() {}
