use diesel::prelude::*;
use diesel_async::AsyncPgConnection;
use diesel_deferred::{AsyncDeferredConnection, atomic};

async fn immediate(conn: &mut AsyncDeferredConnection<AsyncPgConnection>) -> QueryResult<()> {
    atomic!(conn, immediate, async { Ok(()) }).await
}

fn main() {}
