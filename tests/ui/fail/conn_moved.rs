use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};

type Conn = DeferredConnection<SqliteConnection>;

#[deferred_task]
fn send(user_id: i32) {
    println!("{user_id}");
}

fn close(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, {
        drop::<&mut Conn>(conn);
        send(1);
        conn.after_commit(|_| ())?;
        Ok(())
    })
}

fn main() {}
