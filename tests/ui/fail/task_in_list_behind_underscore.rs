use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};

#[deferred_task]
fn send(user_id: i32) {
    println!("{user_id}");
}

fn sign_up(conn: &mut DeferredConnection<SqliteConnection>) -> QueryResult<()> {
    atomic!(conn, {
        let _ = [send(1), send(2)];
        let _ = (send(3), 3);
        _ = vec![send(4)];
        Ok(())
    })
}

fn main() {}
