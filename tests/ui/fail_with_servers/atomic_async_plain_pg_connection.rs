use diesel::prelude::*;
use diesel_async::AsyncPgConnection;
use diesel_deferred::atomic;

async fn nothing(conn: &mut AsyncPgConnection) -> QueryResult<()> {
    atomic!(conn, async { Ok(()) }).await
}

fn main() {}
