//! Connections that are not Diesel's own: pooled ones, and enums of several kinds.

use std::cell::RefCell;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, Pool, R2D2Connection};
use diesel_async::AsyncConnection;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, bb8, deadpool, mobc};
use diesel_deferred::{
    AfterCommit, AsyncDeferredConnection, Deferrable, DeferredConnection, NewTask, StoredCalls, TaskId, atomic,
};
use diesel_deferred_tests::{Database, Scratch, on_every_database, record, refusal, rolled_back};

use crate::tasks::{count, first, firsts, in_short, ready, stored};

on_every_database! {
    a_pool_of_deferring_connections,
    a_deferring_connection_around_a_pooled_one,
}

fn pool<C: R2D2Connection + 'static>(url: &str) -> Pool<ConnectionManager<C>> {
    Pool::builder().max_size(1).build(ConnectionManager::new(url)).unwrap()
}

fn call(conn: &mut impl AfterCommit, id: i32) -> QueryResult<()> {
    first(id).after_commit(conn).map(drop)
}

fn a_pool_of_deferring_connections<C: Database + R2D2Connection>(db: &Scratch<C>) {
    C::migrate(&mut db.observer());
    let pool = pool::<DeferredConnection<C>>(db.url());
    for id in [1, 11] {
        let mut conn = pool.get().unwrap();
        assert!(call(&mut conn, 0).is_err());
        atomic!(conn, -> QueryResult<()>, {
            first(id);
            call(conn, id + 1)
        })
        .unwrap();
        // The pool's own `transaction` goes past ours.
        conn.transaction(|conn| call(conn, id + 2)).unwrap();
        let failed: QueryResult<()> = conn.transaction(|conn| {
            call(conn, id + 3)?;
            rolled_back()
        });
        assert_eq!(failed, rolled_back());
    }
    assert_eq!(stored(db), firsts([1, 2, 3, 11, 12, 13]));
}

fn a_deferring_connection_around_a_pooled_one<C: Database + R2D2Connection>(db: &Scratch<C>) {
    C::migrate(&mut db.observer());
    let pool = pool::<C>(db.url());
    for id in [1, 11] {
        let conn = &mut DeferredConnection::new(pool.get().unwrap());
        let statements = record(conn);
        atomic!(conn, -> QueryResult<()>, {
            first(id);
            let inner = atomic!(conn, -> QueryResult<()>, {
                first(id + 1);
                rolled_back()
            });
            assert_eq!(inner, rolled_back());
            first(id + 2);
            Ok(())
        })
        .unwrap();
        assert_eq!(in_short(statements.take()).iter().filter(|sql| *sql == "INSERT").count(), 1);
        let ended = atomic!(conn, -> QueryResult<()>, {
            first(id + 3);
            conn.batch_execute("COMMIT")
        });
        assert_eq!(refusal(&ended), "EndedEarly");
    }
    assert_eq!(stored(db), firsts([1, 3, 11, 13]));
}

/// The pools of diesel-async, of deferring connections and around them, of each kind: what they are
/// generic over is long.
macro_rules! async_pools {
    ($($pool:ident: $get:expr;)*) => {$(
        mod $pool {
            use super::*;

            async_pools!(@ sqlite diesel_deferred_tests::AsyncSqliteConnection, SqliteConnection, $get, "PRAGMA busy_timeout = 20000");
            #[cfg(feature = "postgres")]
            async_pools!(@ postgres diesel_async::AsyncPgConnection, PgConnection, $get, "SELECT 1");
            #[cfg(feature = "mysql")]
            async_pools!(@ mysql diesel_async::AsyncMysqlConnection, MysqlConnection, $get, "SELECT 1");
        }
    )*};
    (@ $name:ident $conn:ty, $blocking:ty, $get:expr, $patience:literal) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let db = &Scratch::<$blocking>::new();
            <$blocking>::migrate(&mut db.observer());
            let manager = AsyncDieselConnectionManager::<AsyncDeferredConnection<$conn>>::new(db.url());
            let pool = $get(manager).await;
            let mut conn = pool.get().await.unwrap();
            // SQLite locks the database while a pool closes its last connection to it.
            diesel_async::SimpleAsyncConnection::batch_execute(&mut *conn, $patience).await.unwrap();
            atomic!(conn, -> QueryResult<()>, async {
                first(1);
                call(&mut *conn, 2)
            })
            .await
            .unwrap();
            conn.transaction(async |conn| call(conn, 3)).await.unwrap();
            let failed = atomic!(conn, -> QueryResult<()>, async {
                first(4);
                rolled_back()
            })
            .await;
            assert_eq!(failed, rolled_back());
            drop(conn);

            let pool = $get(AsyncDieselConnectionManager::<$conn>::new(db.url())).await;
            let conn = &mut AsyncDeferredConnection::new(pool.get().await.unwrap());
            diesel_async::SimpleAsyncConnection::batch_execute(conn, $patience).await.unwrap();
            atomic!(conn, -> QueryResult<()>, async {
                first(5);
                Ok(())
            })
            .await
            .unwrap();
            assert_eq!(stored(db), firsts([1, 2, 3, 5]));
        }
    };
}

async_pools! {
    with_bb8: (async |manager| bb8::Pool::builder().max_size(1).build(manager).await.unwrap());
    with_deadpool: (async |manager| deadpool::Pool::builder(manager).max_size(1).build().unwrap());
    with_mobc: (async |manager| mobc::Pool::builder().max_open(1).build(manager));
}

/// An enum that says nothing of rows.
mod silent {
    use diesel::SqliteConnection;

    #[derive(diesel::MultiConnection)]
    pub enum Silent {
        Sqlite(SqliteConnection),
    }
}

use silent::Silent;

impl Deferrable for Silent {}

/// The error says what to write.
#[test]
fn a_connection_that_nobody_knows_says_so() {
    let db = &Scratch::<SqliteConnection>::new();
    let conn = &mut DeferredConnection::new(Silent::Sqlite(ready(db).into_inner()));
    let (mut line, mut run) = (0, |calls: bool| {
        atomic!(conn, -> QueryResult<()>, {
            if calls {
                first(1);
            }
            Ok(())
        })
    });
    line += line!() - 5;
    run(false).unwrap();
    let result = run(true);
    assert_eq!(refusal(&result), "TaskCannotBeStored");
    assert_eq!(
        result.unwrap_err().to_string(),
        format!(
            "the transaction was rolled back, nothing was committed: the durable task `first` (called at {}:{line}:17) could not be \
             stored: nobody knows how to write its row on a `durable::pools::silent::Silent`; write `store_calls` in its \
             `impl Deferrable` (or `AsyncDeferrable`), which hands the calls on to the connection that it holds",
            file!(),
        )
    );
    run(false).unwrap();
    assert_eq!(count(db), 0);
}

#[cfg(not(feature = "postgres"))]
mod any {
    use diesel::SqliteConnection;

    #[derive(diesel::MultiConnection)]
    pub enum Any {
        Sqlite(SqliteConnection),
    }
}

#[cfg(feature = "postgres")]
mod any {
    use diesel::{PgConnection, SqliteConnection};

    #[derive(diesel::MultiConnection)]
    pub enum Any {
        Sqlite(SqliteConnection),
        Pg(PgConnection),
    }
}

use any::Any;

thread_local! {
    /// What calls said of themselves on their way to the rows: identity, task, arguments.
    static HANDED_ON: RefCell<Vec<(TaskId, &'static str, String)>> = const { RefCell::new(Vec::new()) };
}

/// As the docs have it.
impl Deferrable for Any {
    fn store_calls(&mut self, calls: &[NewTask]) -> QueryResult<StoredCalls> {
        let said = calls.iter().map(|call| (call.id(), call.task(), call.payload().to_owned()));
        HANDED_ON.with_borrow_mut(|handed_on| handed_on.extend(said));
        match self {
            Self::Sqlite(conn) => conn.store_calls(calls),
            #[cfg(feature = "postgres")]
            Self::Pg(conn) => conn.store_calls(calls),
        }
    }
}

/// D1, D5, E7, E9: as on the connection that it holds.
fn an_enum_that_hands_calls_on<C: Database>(open: impl Fn(C) -> Any) {
    let db = &Scratch::<C>::new();
    C::migrate(&mut db.observer());
    let conn = &mut DeferredConnection::new(open(db.observer()));
    let expected = &mut Vec::new();
    atomic!(conn, -> QueryResult<()>, {
        first(1);
        let inner = atomic!(conn, -> QueryResult<()>, {
            first(2);
            rolled_back()
        });
        assert_eq!(inner, rolled_back());
        // In doubt, and proven.
        conn.batch_execute("INSERT INTO witness VALUES (1)")?;
        first(3);
        Ok(())
    })
    .unwrap();
    expected.extend(firsts([1, 3]));
    assert_eq!(stored(db), *expected);
    let rows = db.task_ids().into_iter().zip(db.tasks());
    let rows: Vec<_> = rows.map(|(id, row)| (id, row.task, row.payload.replace(' ', ""))).collect();
    let handed_on: Vec<_> =
        HANDED_ON.take().into_iter().map(|(id, task, payload)| (id, task.to_owned(), payload)).collect();
    assert_eq!(handed_on, rows);
    for (sql, plain) in [("COMMIT", true), ("COMMIT", false), ("ROLLBACK", true), ("ROLLBACK", false)] {
        let block = |conn: &mut DeferredConnection<Any>| {
            first(4).after_commit(conn)?;
            conn.batch_execute(sql)
        };
        let result = if plain { conn.transaction(block) } else { atomic!(conn, -> QueryResult<()>, { block(conn) }) };
        assert_eq!(refusal(&result), "EndedEarly", "{sql}, plain: {plain}");
        assert_eq!(stored(db), *expected, "{sql}, plain: {plain}");
        assert!(!conn.in_transaction());
        // Swallowed; and with DDL, which is a statement like others here.
        let result = atomic!(conn, -> QueryResult<()>, {
            first(5);
            conn.batch_execute(&format!("CREATE TABLE t_{}_{plain} (id INTEGER)", sql.to_lowercase()))?;
            assert!(conn.batch_execute("no SQL").is_err());
            first(6);
            Ok(())
        });
        assert_eq!(result.is_err(), C::NAME == "PostgreSQL", "{result:?}");
        if result.is_ok() {
            expected.extend(firsts([5, 6]));
        }
        assert_eq!(stored(db), *expected, "{sql}, plain: {plain}");
        atomic!(conn, -> QueryResult<()>, {
            first(7);
            conn.batch_execute("SELECT 1")
        })
        .unwrap();
        expected.extend(firsts([7]));
        assert_eq!(stored(db), *expected);
    }
}

#[test]
fn an_enum_of_sqlite_hands_calls_on() {
    an_enum_that_hands_calls_on(Any::Sqlite);
}

#[cfg(feature = "postgres")]
#[test]
fn an_enum_of_postgres_hands_calls_on() {
    an_enum_that_hands_calls_on(Any::Pg);
}
