use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};

type Conn = DeferredConnection<SqliteConnection>;

fn nothing(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, retries = 3, outermost, retries = 5, { Ok(()) })
}

fn main() {}
