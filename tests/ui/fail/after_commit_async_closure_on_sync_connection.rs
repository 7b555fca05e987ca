use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};

type Conn = DeferredConnection<SqliteConnection>;

async fn committed() {}

fn sign_up(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, {
        conn.after_commit(async |_conn| committed().await)?;
        Ok(())
    })
}

fn main() {}
