use diesel::prelude::*;
use diesel_async::AsyncConnection;
use diesel_deferred::{AsyncDeferredConnection, atomic};

async fn audit<C: AsyncConnection>(conn: &mut AsyncDeferredConnection<C>) -> QueryResult<()> {
    atomic!(conn, async { Ok(()) }).await
}

fn main() {}
