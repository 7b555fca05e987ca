//! A2, A3: blocks of many shapes, dropped at every poll.

use diesel::result::QueryResult;
use diesel_async::SimpleAsyncConnection;
use diesel_deferred::{AsyncDeferredConnection, atomic};
use diesel_deferred_tests::{
    AsyncDatabase, AsyncSqliteConnection, Database, Scratch, Session, note, on_every_async_database, rolled_back,
};

use crate::harness::{Run, Seen, at_every_poll, note_async, note_blocking, note_inner};

on_every_async_database! {
    a02_a_block_with_hooks_of_every_kind,
    a02_a_block_without_hooks,
    a02_a_nested_block_that_commits,
    a02_a_nested_block_that_was_rolled_back,
    a02_a_block_that_fails,
    a02_a_block_that_is_retried,
    a02_the_method_transaction,
    a03_closures_that_await,
}

type Conn<C> = AsyncDeferredConnection<C>;

/// Whether the next block can roll back what was left.
fn recovers<C: Session>() -> bool {
    C::Blocking::NAME != "MariaDB"
}

/// That the cuts were where they should be. What is left open can be rolled back on PostgreSQL and
/// SQLite.
fn thorough<C: Session>(seen: &Seen) -> bool {
    seen.clean >= 2 && seen.refused >= 2 && (seen.recovered > 0 || !recovers::<C>())
}

/// The same of a block with hooks, which is to commit.
fn commits<C: Session>(seen: &Seen) -> bool {
    thorough::<C>(seen) && seen.in_commit > 0
}

fn assert_enough<C: Session>(seen: &Seen, enough: impl Fn(&Seen) -> bool) {
    assert!(enough(seen), "{seen:?}");
    assert!(recovers::<C>() || seen.recovered == 0, "{seen:?}");
}

/// All that can be registered, around two inserts.
async fn plain<C: Session>(conn: &mut Conn<C>, run: &Run) -> QueryResult<()> {
    atomic!(conn, async {
        note(&run.log, run.commit(1));
        C::insert(conn, run.id(1)).await?;
        note_async(run.log.clone(), run.commit(2));
        note_blocking(&run.log, run.commit(3));
        note(&run.log, run.rollback_task(1)).after_rollback(conn)?;
        note_async(run.log.clone(), run.rollback_task(2)).after_rollback(conn)?;
        let (log, id) = (run.log.clone(), run.commit(4));
        conn.after_commit(async move |_| log.push(id))?;
        let (log, id) = (run.log.clone(), run.rollback_closure(3));
        conn.after_rollback(async move |_| log.push(id))?;
        let id = run.id(3);
        conn.before_commit(async move |conn| {
            C::insert(conn, id).await?;
            tokio::task::yield_now().await;
            C::insert(conn, id + 1).await
        })?;
        tokio::task::yield_now().await;
        C::insert(conn, run.id(2)).await
    })
    .await
}

async fn a02_a_block_with_hooks_of_every_kind<C: Session>(db: &Scratch<C::Blocking>) {
    let seen = at_every_poll::<C, _>(db, commits::<C>, plain::<C>).await;
    assert_enough::<C>(&seen, commits::<C>);
}

/// Without hooks a COMMIT may be Diesel's own.
async fn a02_a_block_without_hooks<C: Session>(db: &Scratch<C::Blocking>) {
    let seen = at_every_poll::<C, _>(db, thorough::<C>, async |conn: &mut Conn<C>, run: &Run| {
        atomic!(conn, async {
            C::insert(conn, run.id(1)).await?;
            C::insert(conn, run.id(2)).await
        })
        .await
    })
    .await;
    assert_enough::<C>(&seen, thorough::<C>);
}

async fn a02_a_nested_block_that_commits<C: Session>(db: &Scratch<C::Blocking>) {
    let seen = at_every_poll::<C, _>(db, commits::<C>, async |conn: &mut Conn<C>, run: &Run| {
        atomic!(conn, async {
            C::insert(conn, run.id(1)).await?;
            note(&run.log, run.commit(1));
            note(&run.log, run.rollback_task(1)).after_rollback(conn)?;
            atomic!(conn, -> QueryResult<()>, async {
                note_async(run.log.clone(), run.commit(2));
                let (log, id) = (run.log.clone(), run.commit(3));
                conn.after_commit(async move |_| log.push(id))?;
                note(&run.log, run.rollback_task(2)).after_rollback(conn)?;
                C::insert(conn, run.id(2)).await?;
                C::insert(conn, run.id(3)).await
            })
            .await?;
            note(&run.log, run.commit(4));
            C::insert(conn, run.id(4)).await
        })
        .await
    })
    .await;
    assert_enough::<C>(&seen, commits::<C>);
}

async fn a02_a_nested_block_that_was_rolled_back<C: Session>(db: &Scratch<C::Blocking>) {
    let seen = at_every_poll::<C, _>(db, commits::<C>, async |conn: &mut Conn<C>, run: &Run| {
        atomic!(conn, async {
            C::insert(conn, run.id(1)).await?;
            note(&run.log, run.commit(1));
            let inner: QueryResult<()> = atomic!(conn, async {
                note(&run.log, run.id(5));
                note(&run.log, run.rollback_task(5)).after_rollback(conn)?;
                C::insert(conn, run.id(5)).await?;
                rolled_back()
            })
            .await;
            assert_eq!(inner, rolled_back());
            note_blocking(&run.log, run.commit(2));
            C::insert(conn, run.id(2)).await
        })
        .await
    })
    .await;
    assert_enough::<C>(&seen, commits::<C>);
}

/// Dropped in its ROLLBACK, and while rollback hooks are awaited.
async fn a02_a_block_that_fails<C: Session>(db: &Scratch<C::Blocking>) {
    let seen = at_every_poll::<C, _>(db, thorough::<C>, async |conn: &mut Conn<C>, run: &Run| {
        let result: QueryResult<()> = atomic!(conn, async {
            C::insert(conn, run.id(1)).await?;
            note(&run.log, run.commit(1));
            note(&run.log, run.rollback_task(1)).after_rollback(conn)?;
            for n in [2, 3] {
                let (log, id) = (run.log.clone(), run.rollback_closure(n));
                conn.after_rollback(async move |_| {
                    tokio::task::yield_now().await;
                    log.push(id);
                })?;
            }
            note_async(run.log.clone(), run.rollback_task(4)).after_rollback(conn)?;
            rolled_back()
        })
        .await;
        assert_eq!(result, rolled_back());
        result
    })
    .await;
    assert_enough::<C>(&seen, thorough::<C>);
    assert_eq!((seen.in_commit, seen.behind_commit), (0, 0), "{seen:?}");
}

/// What the server would say of a concurrent transaction, on demand.
fn conflict<C: Session>(run: &Run) -> String {
    match C::Blocking::NAME {
        "SQLite" => format!("INSERT INTO witness VALUES ({})", run.id(99)),
        "PostgreSQL" => {
            "DO $$ BEGIN RAISE EXCEPTION 'could not serialize access' USING ERRCODE = '40001'; END $$".into()
        }
        _ => {
            "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'Deadlock found when it was wanted'".into()
        }
    }
}

async fn a02_a_block_that_is_retried<C: Session>(db: &Scratch<C::Blocking>) {
    if C::Blocking::NAME == "SQLite" {
        use diesel::connection::SimpleConnection;
        let trigger = "CREATE TRIGGER conflict BEFORE INSERT ON witness WHEN NEW.id % 200 = 99 \
                       BEGIN SELECT RAISE(ABORT, 'database is locked'); END";
        db.observer().batch_execute(trigger).unwrap();
    }
    let seen = at_every_poll::<C, _>(db, commits::<C>, async |conn: &mut Conn<C>, run: &Run| {
        let mut attempt = 0;
        atomic!(conn, retries = 2, async {
            attempt += 1;
            let n = 5 * attempt;
            run.again();
            note(&run.log, run.commit(n));
            note(&run.log, run.rollback_task(n)).after_rollback(conn)?;
            C::insert(conn, run.id(n)).await?;
            if attempt < 3 {
                conn.batch_execute(&conflict::<C>(run)).await?;
            }
            Ok(())
        })
        .await
    })
    .await;
    assert_enough::<C>(&seen, commits::<C>);
}

/// The inherent method, and what is nested in it.
async fn a02_the_method_transaction<C: Session>(db: &Scratch<C::Blocking>) {
    let seen = at_every_poll::<C, _>(db, commits::<C>, async |conn: &mut Conn<C>, run: &Run| {
        conn.transaction(async |conn| {
            C::insert(conn, run.id(1)).await?;
            note(&run.log, run.commit(1)).after_commit(conn)?;
            note(&run.log, run.rollback_task(1)).after_rollback(conn)?;
            conn.transaction(async |conn| {
                note(&run.log, run.commit(2)).after_commit(conn)?;
                C::insert(conn, run.id(2)).await
            })
            .await?;
            QueryResult::Ok(())
        })
        .await
    })
    .await;
    assert_enough::<C>(&seen, commits::<C>);
}

/// Dropped while hooks are awaited behind the COMMIT, of which some run statements and blocks of
/// their own.
async fn a03_closures_that_await<C: Session>(db: &Scratch<C::Blocking>) {
    let enough = |seen: &Seen| commits::<C>(seen) && seen.behind_commit > 5;
    let seen = at_every_poll::<C, _>(db, enough, async |conn: &mut Conn<C>, run: &Run| {
        atomic!(conn, async {
            for n in 1..=6 {
                C::insert(conn, run.id(n)).await?;
            }
            let (log, id, own) = (run.log.clone(), run.commit(1), run.id(21));
            conn.after_commit(async move |conn| -> QueryResult<()> {
                tokio::task::yield_now().await;
                C::insert(conn, own).await?;
                atomic!(conn, -> QueryResult<()>, async {
                    C::insert(conn, own + 1).await?;
                    note_inner(&log, own + 1);
                    C::insert(conn, own + 2).await
                })
                .await?;
                tokio::task::yield_now().await;
                log.push(id);
                Ok(())
            })?;
            note(&run.log, run.commit(2));
            note_async(run.log.clone(), run.commit(3));
            let (log, id) = (run.log.clone(), run.commit(4));
            conn.after_commit(async move |_| {
                tokio::task::yield_now().await;
                log.push(id);
            })?;
            note_blocking(&run.log, run.commit(5));
            note(&run.log, run.commit(6));
            Ok(())
        })
        .await
    })
    .await;
    assert_enough::<C>(&seen, enough);
}

/// BEGIN is sent by the wrapper itself where it has options.
macro_rules! begin_with {
    ($name:ident, $conn:ty, $($option:tt)*) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let db = Scratch::new();
            let seen = at_every_poll::<$conn, _>(&db, commits::<$conn>, async |conn: &mut Conn<$conn>, run: &Run| {
                atomic!(conn, $($option)*, async {
                    note(&run.log, run.commit(1));
                    <$conn as AsyncDatabase>::insert(conn, run.id(1)).await?;
                    tokio::task::yield_now().await;
                    <$conn as AsyncDatabase>::insert(conn, run.id(2)).await
                })
                .await
            })
            .await;
            assert_enough::<$conn>(&seen, commits::<$conn>);
        }
    };
}

begin_with!(a02_begin_immediate, AsyncSqliteConnection, immediate);
#[cfg(feature = "postgres")]
begin_with!(a02_begin_serializable_on_postgres, diesel_async::AsyncPgConnection, isolation = Serializable);
#[cfg(feature = "mysql")]
begin_with!(a02_begin_serializable_on_mysql, diesel_async::AsyncMysqlConnection, isolation = Serializable);
