use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};

async fn fetch() -> i32 {
    5
}

async fn sign_up(conn: &mut DeferredConnection<SqliteConnection>) -> QueryResult<()> {
    atomic!(conn, {
        let user_id = fetch().await;
        println!("{user_id}");
        Ok(())
    })
}

fn main() {}
