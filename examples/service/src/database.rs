//! The two databases that the service runs on: their tables, and the few statements that it needs.
//!
//! Diesel's queries are built for one database each, so that what is generic over them needs a
//! trait. A service with one database has no need of this: its handlers name the connection and
//! write the queries where they need them.

use std::error::Error;
use std::future::Future;

use diesel::prelude::*;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, PoolError};
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use diesel_deferred::{AsyncDeferrable, AsyncDeferredConnection, WorkerConnection};
use diesel_migrations::MigrationHarness;
use serde::Serialize;

/// SQLite, each statement on a thread for blocking work.
pub type Sqlite = SyncConnectionWrapper<SqliteConnection>;
/// PostgreSQL.
pub type Postgres = AsyncPgConnection;

/// The service's connections keep tasks until the commit.
pub type Conn<D> = AsyncDeferredConnection<D>;
pub type Pool<D> = bb8::Pool<<D as Database>::Manager>;

diesel::table! { users { id -> Integer, email -> Text, } }
diesel::table! { orders { id -> Integer, email -> Text, cents -> BigInt, } }
diesel::table! { referrals (user_id) { user_id -> Integer, referrer -> Text, } }

#[derive(Queryable, Selectable, Serialize, Debug, Clone)]
pub struct User {
    pub id: i32,
    pub email: String,
}

#[derive(Queryable, Selectable, Serialize, Debug, Clone)]
pub struct Order {
    pub id: i32,
    pub email: String,
    pub cents: i64,
}

pub trait Database: AsyncDeferrable + WorkerConnection {
    type Manager: bb8::ManageConnection<Connection = Conn<Self>, Error = PoolError>;

    /// Makes the tables, those of durable tasks too.
    fn migrate(url: &str) -> impl Future<Output = Result<(), Box<dyn Error + Send + Sync>>> + Send;

    /// A pool of deferring connections.
    fn open(url: &str) -> impl Future<Output = Result<Pool<Self>, Box<dyn Error + Send + Sync>>> + Send;

    fn insert_user(conn: &mut Conn<Self>, email: &str) -> impl Future<Output = QueryResult<User>> + Send;

    fn insert_referral(
        conn: &mut Conn<Self>,
        user: &User,
        referrer: &str,
    ) -> impl Future<Output = QueryResult<()>> + Send;

    fn count_users(conn: &mut Conn<Self>) -> impl Future<Output = QueryResult<i64>> + Send;

    fn insert_order(conn: &mut Conn<Self>, email: &str, cents: i64) -> impl Future<Output = QueryResult<Order>> + Send;

    fn count_orders(conn: &mut Conn<Self>) -> impl Future<Output = QueryResult<i64>> + Send;
}

macro_rules! database {
    ($conn:ty, each connection: $settings:literal, once: $tables:literal) => {
        impl Database for $conn {
            type Manager = AsyncDieselConnectionManager<Conn<Self>>;

            async fn migrate(url: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
                let mut conn = <Self as diesel_async::AsyncConnection>::establish(url).await?;
                conn.batch_execute(concat!($settings, $tables)).await?;
                AsyncMigrationHarness::new(conn).run_pending_migrations(diesel_deferred::migrations())?;
                Ok(())
            }

            async fn open(url: &str) -> Result<Pool<Self>, Box<dyn Error + Send + Sync>> {
                let mut config = ManagerConfig::default();
                config.custom_setup = Box::new(|url| {
                    let url = url.to_owned();
                    Box::pin(async move {
                        let mut conn = <Conn<Self> as diesel_async::AsyncConnection>::establish(&url).await?;
                        conn.batch_execute($settings).await.map_err(ConnectionError::CouldntSetupConfiguration)?;
                        Ok(conn)
                    })
                });
                let manager = AsyncDieselConnectionManager::new_with_config(url, config);
                Ok(bb8::Pool::builder().max_size(8).build(manager).await?)
            }

            async fn insert_user(conn: &mut Conn<Self>, email: &str) -> QueryResult<User> {
                let user = diesel::insert_into(users::table).values(users::email.eq(email));
                user.returning(User::as_returning()).get_result(conn).await
            }

            async fn insert_referral(conn: &mut Conn<Self>, user: &User, referrer: &str) -> QueryResult<()> {
                let referral = (referrals::user_id.eq(user.id), referrals::referrer.eq(referrer));
                diesel::insert_into(referrals::table).values(referral).execute(conn).await?;
                Ok(())
            }

            async fn count_users(conn: &mut Conn<Self>) -> QueryResult<i64> {
                users::table.count().get_result(conn).await
            }

            async fn insert_order(conn: &mut Conn<Self>, email: &str, cents: i64) -> QueryResult<Order> {
                let order =
                    diesel::insert_into(orders::table).values((orders::email.eq(email), orders::cents.eq(cents)));
                order.returning(Order::as_returning()).get_result(conn).await
            }

            async fn count_orders(conn: &mut Conn<Self>) -> QueryResult<i64> {
                orders::table.count().get_result(conn).await
            }
        }
    };
}

database! {
    Sqlite,
    each connection: "
        PRAGMA busy_timeout = 5000;
        PRAGMA journal_mode = WAL;
        PRAGMA synchronous = NORMAL;
        PRAGMA foreign_keys = ON;",
    once: "
        CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE);
        CREATE TABLE IF NOT EXISTS referrals (
            user_id INTEGER PRIMARY KEY REFERENCES users,
            referrer TEXT NOT NULL REFERENCES users (email)
        );
        CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, email TEXT NOT NULL, cents BIGINT NOT NULL);"
}

database! {
    Postgres,
    each connection: "SET lock_timeout = '5s';",
    once: "
        CREATE TABLE IF NOT EXISTS users (id SERIAL PRIMARY KEY, email TEXT NOT NULL UNIQUE);
        CREATE TABLE IF NOT EXISTS referrals (
            user_id INTEGER PRIMARY KEY REFERENCES users,
            referrer TEXT NOT NULL REFERENCES users (email)
        );
        CREATE TABLE IF NOT EXISTS orders (id SERIAL PRIMARY KEY, email TEXT NOT NULL, cents BIGINT NOT NULL);"
}
