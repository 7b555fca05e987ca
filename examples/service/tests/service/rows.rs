//! A database for one run of the service, and what another connection finds in it.

use diesel::prelude::*;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use tempfile::TempDir;

diesel::table! { users { id -> Integer, email -> Text, } }
diesel::table! { orders { id -> Integer, } }
diesel::table! { deferred_tasks (task) { task -> Text, } }
diesel::table! { referrals (user_id) { user_id -> Integer, referrer -> Text, } }

/// An empty database and an empty outbox, for as long as this value lives.
pub struct Scratch {
    pub directory: TempDir,
    pub url: String,
    _schema: Option<Schema>,
}

impl Scratch {
    pub fn sqlite() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let url = directory.path().join("service.db").display().to_string();
        Self { directory, url, _schema: None }
    }

    /// A schema of its own on the server that PG_DATABASE_URL names.
    #[cfg(feature = "test-postgres")]
    pub async fn postgres() -> Self {
        let server = std::env::var("PG_DATABASE_URL");
        let server = server.expect("PG_DATABASE_URL is set; run the tests with `./test`");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let name = format!("service_{}_{:08x}", std::process::id(), fastrand::u32(..));
        execute(&server, &format!("CREATE SCHEMA {name}")).await;
        let separator = if server.contains('?') { '&' } else { '?' };
        let url = format!("{server}{separator}options=-csearch_path%3D{name}%20-cclient_min_messages%3Derror");
        Self { directory, url, _schema: Some(Schema { server, name }) }
    }

    /// The orders that are committed, and how many receipts have not been sent.
    pub async fn orders(&self) -> (Vec<i32>, i64) {
        let (orders, tasks) = (orders::table.select(orders::id).order(orders::id), deferred_tasks::table.count());
        if self.url.starts_with("postgres") {
            let mut conn = AsyncPgConnection::establish(&self.url).await.expect("connect");
            (orders.load(&mut conn).await.expect("orders"), tasks.get_result(&mut conn).await.expect("tasks"))
        } else {
            let mut conn = SyncConnectionWrapper::<SqliteConnection>::establish(&self.url).await.expect("open");
            conn.batch_execute("PRAGMA busy_timeout = 5000").await.expect("a setting");
            (orders.load(&mut conn).await.expect("orders"), tasks.get_result(&mut conn).await.expect("tasks"))
        }
    }

    /// What is committed.
    pub async fn rows(&self) -> Rows {
        if self.url.starts_with("postgres") {
            let mut conn = AsyncPgConnection::establish(&self.url).await.expect("connect");
            Rows {
                users: users::table.order(users::id).load(&mut conn).await.expect("users"),
                referrals: referrals::table.order(referrals::user_id).load(&mut conn).await.expect("referrals"),
            }
        } else {
            let mut conn = SyncConnectionWrapper::<SqliteConnection>::establish(&self.url).await.expect("open");
            Rows {
                users: users::table.order(users::id).load(&mut conn).await.expect("users"),
                referrals: referrals::table.order(referrals::user_id).load(&mut conn).await.expect("referrals"),
            }
        }
    }
}

#[derive(Debug)]
pub struct Rows {
    pub users: Vec<(i32, String)>,
    /// Who has a bonus for whom.
    pub referrals: Vec<(i32, String)>,
}

struct Schema {
    server: String,
    name: String,
}

impl Drop for Schema {
    fn drop(&mut self) {
        let (server, sql) = (self.server.clone(), format!("DROP SCHEMA {} CASCADE", self.name));
        // Not on this thread: it belongs to a runtime, which must not be blocked.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(execute(&server, &sql));
        });
        let _ = dropped.join();
    }
}

async fn execute(server: &str, sql: &str) {
    let mut conn = AsyncPgConnection::establish(server).await.unwrap_or_else(|error| panic!("{server}: {error}"));
    diesel::sql_query(sql).execute(&mut conn).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}
