use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};

type Conn = DeferredConnection<SqliteConnection>;

fn nothing(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, retry = 3, { Ok(()) })
}

fn main() {}
