use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};

type Conn = DeferredConnection<SqliteConnection>;

fn nothing(conn: &mut Conn) -> QueryResult<()> {
    let _ = conn;
    atomic!(conn)
}

fn no_block_but_an_option(conn: &mut Conn) -> QueryResult<()> {
    let _ = conn;
    atomic!(conn, immediate)
}

fn main() {}
