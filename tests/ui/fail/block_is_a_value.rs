use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};

type Conn = DeferredConnection<SqliteConnection>;

fn sign_up(conn: &mut Conn) -> QueryResult<usize> {
    atomic!(conn, { diesel::sql_query("SELECT 1").execute(conn)? })
}

fn main() {}
