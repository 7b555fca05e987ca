use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};

type Conn = DeferredConnection<SqliteConnection>;

async fn nothing(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, async { Ok(()) }).await
}

fn main() {}
