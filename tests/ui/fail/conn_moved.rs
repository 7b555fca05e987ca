use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};

type Conn = DeferredConnection<SqliteConnection>;

#[deferred_task]
fn send(user_id: i32) {
    println!("{user_id}");
}

fn close(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, {
        let other = conn;
        diesel::sql_query("SELECT 1").execute(other)?;
        send(1);
        diesel::sql_query("SELECT 1").execute(conn)?;
        Ok(())
    })
}

fn main() {}
