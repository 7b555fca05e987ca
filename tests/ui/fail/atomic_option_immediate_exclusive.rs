use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};

type Conn = DeferredConnection<SqliteConnection>;

fn nothing(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, immediate, exclusive, { Ok(()) })
}

fn main() {}
