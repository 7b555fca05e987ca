use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};

type Conn = DeferredConnection<SqliteConnection>;

fn nothing(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, -> QueryResult<()>, outermost, -> QueryResult<()>, { Ok(()) })
}

fn main() {}
