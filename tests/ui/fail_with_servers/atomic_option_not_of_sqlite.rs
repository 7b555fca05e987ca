use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};

type Conn = DeferredConnection<SqliteConnection>;

fn isolation(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, isolation = Serializable, { Ok(()) })
}

fn read_only(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, read_only, { Ok(()) })
}

fn deferrable(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, deferrable, { Ok(()) })
}

fn main() {}
