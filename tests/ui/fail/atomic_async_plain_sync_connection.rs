use diesel::prelude::*;
use diesel_deferred::atomic;

async fn nothing(conn: &mut SqliteConnection) -> QueryResult<()> {
    atomic!(conn, async { Ok(()) }).await
}

fn main() {}
