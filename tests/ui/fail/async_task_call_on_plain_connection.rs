use diesel::prelude::*;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_deferred::deferred_task;

#[deferred_task]
async fn send(user_id: i32) {
    println!("{user_id}");
}

async fn sign_up(conn: &mut SyncConnectionWrapper<SqliteConnection>) -> QueryResult<()> {
    send(1).after_commit(conn)
}

fn main() {}
