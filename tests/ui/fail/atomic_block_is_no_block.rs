use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};

type Conn = DeferredConnection<SqliteConnection>;

fn one(conn: &mut Conn) -> QueryResult<usize> {
    atomic!(conn, diesel::sql_query("SELECT 1").execute(conn))
}

fn main() {}
