use diesel::prelude::*;
use diesel_deferred::atomic;

async fn nothing(conn: &mut String) -> QueryResult<()> {
    atomic!(conn, async { Ok(()) }).await
}

fn main() {}
