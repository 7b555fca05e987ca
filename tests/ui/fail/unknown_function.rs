use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};

type Conn = DeferredConnection<SqliteConnection>;

fn sign_up(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, {
        sned(1);
        Ok(())
    })
}

fn main() {}
