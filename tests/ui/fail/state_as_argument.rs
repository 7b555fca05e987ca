use diesel::prelude::*;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_deferred::{AsyncDeferredConnection, atomic, deferred_task};

type Conn = AsyncDeferredConnection<SyncConnectionWrapper<SqliteConnection>>;

struct Mailer;

#[deferred_task]
async fn send(#[state] mailer: &Mailer, user_id: i32) {
    let _ = mailer;
    println!("{user_id}");
}

async fn sign_up(conn: &mut Conn, mailer: &Mailer) -> QueryResult<()> {
    atomic!(conn, async {
        send(mailer, 1);
        Ok(())
    })
    .await
}

fn main() {}
