use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};

type Conn = DeferredConnection<SqliteConnection>;

fn no_value(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, retries, { Ok(()) })
}

fn needless_value(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, outermost = true, { Ok(()) })
}

fn wrong_value(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, isolation = Snapshot, { Ok(()) })
}

fn main() {}
