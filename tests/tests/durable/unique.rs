//! D6: calls of one key. The one that waits stays, or the new one takes its place; nobody's
//! transaction fails for that.

use std::sync::{Arc, Barrier};
use std::thread;

use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, TaskId, atomic, deferred_task};
use diesel_deferred_tests::{Database, Scratch, on_every_database, record, rolled_back};

use crate::tasks::{count, first, firsts, in_short, is_insert, keep, ready, replace, stored};

on_every_database! {
    d06_the_one_that_waits_stays,
    d06_the_new_one_takes_its_place,
    d06_within_one_transaction,
    d06_over_savepoints,
    d06_keys_are_compared_as_they_are,
    d06_without_a_key_the_arguments_make_it_the_same,
    d06_one_that_was_started_is_in_nobodys_way,
    e15_a_rollback_gives_the_place_back,
}

type Conn<C> = DeferredConnection<C>;

fn call_keep<C: Database>(conn: &mut Conn<C>, id: i32, text: &str) -> TaskId {
    atomic!(conn, -> QueryResult<_>, { keep(id, text).after_commit(conn) }).unwrap()
}

fn call_replace<C: Database>(conn: &mut Conn<C>, id: i32, text: &str) -> TaskId {
    atomic!(conn, -> QueryResult<_>, { replace(id, text).after_commit(conn) }).unwrap()
}

/// D6: the block commits, with all else that it did.
fn d06_the_one_that_waits_stays<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let first_id = call_keep(conn, 1, "old");
    atomic!(conn, -> QueryResult<()>, {
        keep(1, "new");
        first(1);
        keep(2, "other");
        C::insert(conn, 1)
    })
    .unwrap();
    let rows = [
        r#"keep {"id":1,"text":"old"}"#.to_owned(),
        firsts([1]).remove(0),
        r#"keep {"id":2,"text":"other"}"#.to_owned(),
    ];
    assert_eq!(stored(db), rows);
    assert_eq!(db.task_ids()[0], first_id);
    assert_eq!(db.committed(), [1]);
}

/// D6, C17: the row is the new call's in all, with the identity that the call returned.
fn d06_the_new_one_takes_its_place<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let later = std::time::Duration::from_secs(3_600);
    atomic!(conn, -> QueryResult<()>, {
        replace(1, "old").delay(later).queue("slow").priority(5).max_attempts(3);
        Ok(())
    })
    .unwrap();
    assert_eq!(db.tasks()[0].state, "scheduled");
    let id = call_replace(conn, 1, "new");
    let [row] = &db.tasks()[..] else { panic!("one row: {:?}", db.tasks()) };
    assert_eq!(
        (&*row.payload, &*row.queue, row.priority, row.max_attempts, &*row.state, row.task_key.as_deref()),
        (r#"{"id":1,"text":"new"}"#, "default", 0, 20, "ready", Some("1"))
    );
    assert_eq!(db.task_ids(), [id]);
}

/// D6, D2: calls of one transaction are the same to each other, in one statement.
fn d06_within_one_transaction<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let statements = record(conn);
    atomic!(conn, -> QueryResult<()>, {
        for text in ["a", "b", "c"] {
            keep(1, text);
            replace(1, text);
            first(1);
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(in_short(statements.take()), ["BEGIN", "INSERT", "COMMIT"]);
    let mut rows = stored(db);
    rows.sort();
    let mut expected = firsts([1, 1, 1]);
    expected.extend([r#"keep {"id":1,"text":"a"}"#.to_owned(), r#"replace {"id":1,"text":"c"}"#.to_owned()]);
    assert_eq!(rows, expected);
}

/// D6, D3: what was rolled back neither stays nor takes a place.
fn d06_over_savepoints<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    call_replace(conn, 2, "committed");
    atomic!(conn, -> QueryResult<()>, {
        let inner = atomic!(conn, -> QueryResult<()>, {
            keep(1, "rolled back");
            replace(1, "rolled back");
            replace(2, "rolled back");
            rolled_back()
        });
        assert_eq!(inner, rolled_back());
        keep(1, "outer");
        replace(1, "outer");
        Ok(())
    })
    .unwrap();
    let mut rows = stored(db);
    rows.sort();
    let expected = [
        r#"keep {"id":1,"text":"outer"}"#,
        r#"replace {"id":1,"text":"outer"}"#,
        r#"replace {"id":2,"text":"committed"}"#,
    ];
    assert_eq!(rows, expected);
}

#[deferred_task(durable, name = "about", unique)]
fn about(what: i32) {
    let _ = what;
}

/// D6: nothing is folded: no case, no accents, and no blanks at the end, which MySQL does not
/// compare.
fn d06_keys_are_compared_as_they_are<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let keys = ["a", "A", "ä", "a ", "a  ", " a", "a\t", "a\u{a0}", "ａ", "ß", "ss", "'", "\\", "%", "é", "e\u{301}"];
    for key in keys {
        atomic!(conn, -> QueryResult<()>, {
            about(0).key(key);
            Ok(())
        })
        .unwrap();
    }
    atomic!(conn, -> QueryResult<()>, {
        for key in keys {
            about(0).key(key);
        }
        Ok(())
    })
    .unwrap();
    let stored: Vec<_> = db.tasks().into_iter().map(|row| row.task_key.unwrap()).collect();
    assert_eq!(stored, keys);
}

/// D6
fn d06_without_a_key_the_arguments_make_it_the_same<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    for _ in 0..2 {
        atomic!(conn, -> QueryResult<()>, {
            for what in [1, 2, 1] {
                about(what);
            }
            Ok(())
        })
        .unwrap();
    }
    assert_eq!(stored(db), [r#"about {"what":1}"#, r#"about {"what":2}"#]);
    assert!(db.tasks().iter().all(|row| row.task_key.is_none()), "they run at the same time");
}

/// Q5: unique is what waits.
fn d06_one_that_was_started_is_in_nobodys_way<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    call_keep(conn, 1, "started");
    // As a worker does that takes it.
    db.run_sql("UPDATE deferred_tasks SET state = 'running', unique_key = NULL, attempts = 1, lease_until_ms = 1");
    call_keep(conn, 1, "new");
    call_keep(conn, 1, "newer");
    assert_eq!(stored(db), [r#"keep {"id":1,"text":"started"}"#, r#"keep {"id":1,"text":"new"}"#]);
}

/// E15: and only its own.
fn e15_a_rollback_gives_the_place_back<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    // Written, and rolled back by a COMMIT that fails: one that waits behind it would have been in
    // its way.
    let other = &mut db.connect();
    call_keep(other, 7, "other's");
    let failed = atomic!(conn, -> QueryResult<()>, {
        keep(7, "mine");
        keep(8, "mine");
        C::insert(conn, 1)?;
        conn.before_commit(|_| rolled_back())
    });
    assert_eq!(failed, rolled_back());
    call_keep(other, 8, "other's");
    assert_eq!(stored(db), [r#"keep {"id":7,"text":"other's"}"#, r#"keep {"id":8,"text":"other's"}"#]);
    assert_eq!(count(db), 2);
}

/// D6: two that store the same keys in opposite orders, at the same moment, again and again.
/// Neither fails, neither is retried.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn d06_opposite_orders_do_not_deadlock<C: Database>(db: &Scratch<C>) {
    const ROUNDS: usize = 60;
    const SIDES: usize = 3;
    C::migrate(&mut db.observer());
    let meet = Arc::new(Barrier::new(SIDES));
    thread::scope(|scope| {
        let sides: Vec<_> = (0..SIDES)
            .map(|side| {
                let meet = Arc::clone(&meet);
                scope.spawn(move || {
                    let mut conn = db.connect();
                    let mut errors = Vec::new();
                    for round in 0..ROUNDS {
                        meet.wait();
                        let base = round as i32 / 2 * 10;
                        let result = atomic!(conn = &mut conn, -> QueryResult<()>, {
                            for n in 0..10 {
                                let id = base + if side % 2 == 0 { n } else { 9 - n };
                                keep(id, &format!("{side}"));
                                replace(id, &format!("{side}"));
                            }
                            Ok(())
                        });
                        errors.extend(result.err());
                    }
                    errors
                })
            })
            .collect();
        for side in sides {
            assert_eq!(side.join().unwrap(), []);
        }
    });
    assert_eq!(count(db), 2 * 10 * (ROUNDS as i64 / 2));
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use diesel::connection::SimpleConnection;
    use diesel::result::{DatabaseErrorKind, Error};

    use super::*;

    #[test]
    fn d06_opposite_orders_do_not_deadlock() {
        super::d06_opposite_orders_do_not_deadlock(&Scratch::<PgConnection>::new());
    }

    /// D6: another transaction's row that is not committed yet is waited for; then it is a
    /// conflict, or it is none.
    #[test]
    fn d06_a_concurrent_transaction_is_waited_for() {
        let db = &Scratch::<PgConnection>::new();
        let conn = &mut ready(db);
        for commits in [true, false] {
            db.run_sql("DELETE FROM deferred_tasks");
            let mut other = db.observer();
            other
                .batch_execute(
                    "BEGIN; INSERT INTO deferred_tasks (id, task, queue, payload, \
                     run_at_ms, max_attempts, unique_key, enqueued_at_ms) \
                     VALUES (gen_random_uuid(), 'keep', 'default', '{}', 0, 1, '1', 0)",
                )
                .unwrap();
            thread::scope(|scope| {
                let waiting = scope.spawn(|| call_keep(conn, 1, "mine"));
                let mut observer = db.observer();
                let waits = "SELECT COUNT(*) AS number FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                             AND query LIKE '%INSERT INTO deferred_tasks%' AND pid <> pg_backend_pid()";
                while PgConnection::number(&mut observer, waits) == 0 {
                    assert!(!waiting.is_finished(), "it does not wait");
                    thread::yield_now();
                }
                other.batch_execute(if commits { "COMMIT" } else { "ROLLBACK" }).unwrap();
                waiting.join().unwrap();
            });
            let expected = if commits { "keep {}" } else { r#"keep {"id":1,"text":"mine"}"# };
            assert_eq!(stored(db), [expected]);
        }
    }

    /// D6: a snapshot that cannot see the row in its way is what `REPEATABLE READ` and
    /// `SERIALIZABLE` are: a serialisation failure, after which `retries` run the block again. It
    /// is the only case in which a conflict fails a block.
    #[test]
    fn d06_an_older_snapshot_is_a_serialization_failure() {
        let db = &Scratch::<PgConnection>::new();
        let conn = &mut ready(db);
        macro_rules! at {
            ($level:ident) => {
                db.run_sql("DELETE FROM deferred_tasks");
                let attempt = |conn: &mut Conn<PgConnection>, attempts: &mut i32| {
                    *attempts += 1;
                    // The snapshot is taken here.
                    PgConnection::witnesses(&mut *conn);
                    if *attempts == 1 {
                        call_keep(&mut db.connect(), 1, "theirs");
                    }
                    keep(1, "mine").after_commit(conn)?;
                    PgConnection::insert(conn, *attempts)
                };
                let mut attempts = 0;
                let result = atomic!(conn, isolation = $level, -> QueryResult<()>, { attempt(conn, &mut attempts) });
                let failed =
                    matches!(result, Err(Error::DatabaseError(DatabaseErrorKind::SerializationFailure, _)));
                assert!(failed, "{result:?}");
                db.run_sql("DELETE FROM deferred_tasks");
                let mut attempts = 0;
                atomic!(conn, isolation = $level, retries = 3, -> QueryResult<()>, { attempt(conn, &mut attempts) })
                    .unwrap();
                assert_eq!(attempts, 2);
                assert_eq!(stored(db), [r#"keep {"id":1,"text":"theirs"}"#]);
                assert_eq!(db.committed(), [2], "E13: the row of the attempt that committed");
                db.run_sql("DELETE FROM witness");
            };
        }
        at!(RepeatableRead);
        at!(Serializable);
    }
}

#[cfg(feature = "mysql")]
mod on_mysql {
    use super::*;

    #[test]
    fn d06_opposite_orders_do_not_deadlock() {
        super::d06_opposite_orders_do_not_deadlock(&Scratch::<MysqlConnection>::new());
    }

    /// D6: its INSERT looks at what is committed, at any level of isolation.
    #[test]
    fn d06_an_older_snapshot_is_in_nobodys_way() {
        let db = &Scratch::<MysqlConnection>::new();
        let conn = &mut ready(db);
        atomic!(conn, isolation = RepeatableRead, -> QueryResult<()>, {
            MysqlConnection::witnesses(&mut *conn);
            call_keep(&mut db.connect(), 1, "theirs");
            keep(1, "mine");
            MysqlConnection::insert(conn, 1)
        })
        .unwrap();
        assert_eq!(stored(db), [r#"keep {"id":1,"text":"theirs"}"#]);
        assert_eq!(db.committed(), [1]);
    }
}

/// D2: sorted by key, so that the locks are taken in one order by everybody.
#[test]
fn d06_rows_with_keys_are_written_in_the_order_of_their_keys() {
    let db = &Scratch::<SqliteConnection>::new();
    let conn = &mut ready(db);
    db.run_sql(
        "CREATE TABLE written (position INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT); \
         CREATE TRIGGER note AFTER INSERT ON deferred_tasks \
         BEGIN INSERT INTO written (what) VALUES (new.task || ' ' || COALESCE(new.task_key, '-')); END",
    );
    let statements = record(conn);
    atomic!(conn, -> QueryResult<()>, {
        for id in [3, 1, 2] {
            replace(id, "");
            keep(id, "");
            first(id);
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(statements.take().iter().filter(|sql| is_insert(sql)).count(), 1);
    #[derive(QueryableByName)]
    struct Written {
        #[diesel(sql_type = diesel::sql_types::Text)]
        what: String,
    }
    let written: Vec<Written> =
        diesel::sql_query("SELECT what FROM written ORDER BY position").load(&mut db.observer()).unwrap();
    let written: Vec<_> = written.into_iter().map(|row| row.what).collect();
    let expected =
        ["first -", "first -", "first -", "keep 1", "replace 1", "keep 2", "replace 2", "keep 3", "replace 3"];
    assert_eq!(written, expected);
    assert_eq!(stored(db)[2], "first {\"id\":3}", "their ids are in the order of the calls");
}
