use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};

type Conn = DeferredConnection<SqliteConnection>;

fn nothing(mut conn: Conn) -> QueryResult<()> {
    atomic!(&mut conn, { Ok(()) })
}

fn main() {}
