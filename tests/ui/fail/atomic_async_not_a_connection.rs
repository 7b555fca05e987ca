use diesel::prelude::*;
use diesel_deferred::atomic;

async fn nothing(conn: &mut [u8; 4]) -> QueryResult<()> {
    atomic!(conn, async { Ok(()) }).await
}

fn main() {}
