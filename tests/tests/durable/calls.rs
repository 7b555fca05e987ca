//! The call itself: when its arguments are taken, what it is given, how it can be written, and how
//! it is shown while it waits.

use std::time::{Duration, SystemTime};

use diesel::prelude::*;
use diesel::result::Error;
use diesel_deferred::{AfterCommit, CommitError, DeferredConnection, HookKind, TaskId, atomic, deferred_task};
use diesel_deferred_tests::{Database, Log, Scratch, TaskRow, note, on_every_database, record, rolled_back};

use crate::tasks::{assert_not_in_transaction, count, first, firsts, keep, ready, second, stored, third};

on_every_database! {
    c10_arguments_and_options_are_those_of_the_call,
    c12_outside_of_a_transaction_nothing_is_stored,
    c17_the_identity_is_the_rows_and_in_order,
    c18_every_way_to_call_defers,
    c18_every_option_is_stored,
    c18_a_hook_calls_in_a_block_of_its_own,
    c14_a_row_belongs_to_its_connection,
    calls_that_wait_are_listed,
    a_compensation_cannot_be_stored,
}

/// C10, C11: by value, at the call, once, in source order.
fn c10_arguments_and_options_are_those_of_the_call<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let mut evaluated = Vec::new();
    atomic!(conn, -> QueryResult<()>, {
        let (mut text, mut key) = ("old".to_owned(), "key".to_owned());
        let mut delay = Duration::from_secs(600);
        second(&text).key(&key).delay(delay);
        text.push_str(" and new");
        key.clear();
        delay = Duration::ZERO;
        for id in 0..3 {
            first(id);
        }
        let mut seen = |n: i64| {
            evaluated.push(n);
            n
        };
        third(seen(1), seen(2) == 2).priority(seen(3) as i16);
        let _ = (text, key, delay);
        Ok(())
    })
    .unwrap();
    assert_eq!(evaluated, [1, 2, 3]);
    let rows = db.tasks();
    let second = &rows[0];
    assert_eq!((&*second.payload, second.task_key.as_deref()), (r#"{"text":"old"}"#, Some("key")));
    assert_eq!(second.state, "scheduled");
    assert_eq!(stored(db)[1..4], firsts(0..3));
}

/// C12: an error, and a value that is not used is none: never silently stored, never silently run.
fn c12_outside_of_a_transaction_nothing_is_stored<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let statements = record(conn);
    assert_not_in_transaction(first(1).after_commit(conn));
    assert_not_in_transaction(first(1).key("").after_commit(conn));
    assert_not_in_transaction(conn.defer_task(first(1)));
    let error = conn.defer_task_or_run_it(first(1)).unwrap_err();
    assert!(error.downcast_ref().is_some_and(CommitError::is_not_in_transaction), "{error}");
    assert!(error.to_string().contains("first") && error.to_string().contains("calls.rs"), "{error}");
    assert!(!error.to_string().contains("or_now"), "there is no row without a transaction: {error}");
    assert_eq!(statements.take(), [""; 0], "C13");
    atomic!(conn, -> QueryResult<()>, {
        drop(first(2));
        first(3).run();
        std::mem::forget(first(4));
        let kept = first(5);
        let _ = kept;
        Ok(())
    })
    .unwrap();
    assert_eq!(conn.pending(), []);
    assert_eq!(count(db), 0);
}

/// C17: known at the call, and greater than those before it.
fn c17_the_identity_is_the_rows_and_in_order<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let ids: Vec<TaskId> = atomic!(conn, -> QueryResult<_>, {
        let mut ids = Vec::new();
        for n in 0..300 {
            ids.push(first(n).after_commit(conn)?);
            let rolled_back = atomic!(conn, -> QueryResult<()>, {
                first(-n).after_commit(conn)?;
                rolled_back()
            });
            assert!(rolled_back.is_err());
            ids.push(atomic!(conn, -> QueryResult<_>, { second("inner").after_commit(conn) })?);
        }
        Ok(ids)
    })
    .unwrap();
    assert!(ids.is_sorted_by(|a, b| a < b), "ascending");
    assert_eq!(db.task_ids(), ids);
    assert_eq!(ids[0].to_string().parse::<TaskId>(), Ok(ids[0]));
    assert_eq!(ids[0].as_uuid().get_version_num(), 7);
}

#[deferred_task(durable, name = "generic over its connection")]
fn helper_task(id: i32) {
    let _ = id;
}

/// A helper function that is not in the block.
fn helper(conn: &mut impl AfterCommit, id: i32) -> QueryResult<TaskId> {
    helper_task(id).after_commit(conn)
}

/// C18: in every position, in every wrapping.
fn c18_every_way_to_call_defers<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let run = |conn: &mut DeferredConnection<C>, commits: bool| {
        atomic!(conn, -> QueryResult<()>, {
            first(1);
            first(2).after_commit(conn)?;
            helper(conn, 3)?;
            conn.defer_task(first(4))?;
            Some(first(5));
            None::<first>;
            let both = vec![first(6), first(7)];
            both;
            if commits { first(8) } else { first(9) }
            match commits {
                true => first(10),
                false => {
                    first(11);
                }
            }
            for id in 12..14 {
                first(id);
            }
            let called: QueryResult<Vec<TaskId>> = (14..16).map(|id| first(id).after_commit(conn)).collect();
            assert_eq!(called?.len(), 2);
            diesel::Connection::transaction(conn, |conn| helper(conn, 16))?;
            conn.defer_task_or_run_it(first(17)).map_err(Error::QueryBuilderError)?;
            conn.before_commit(|conn| helper(conn, 18).map(drop))?;
            assert_eq!(C::number(&mut *conn, "SELECT COUNT(*) AS number FROM deferred_tasks"), 0, "not yet");
            if commits { Ok(()) } else { rolled_back() }
        })
    };
    assert_eq!(run(conn, false), rolled_back());
    assert_eq!(count(db), 0);
    run(conn, true).unwrap();
    let ids: Vec<i32> = db
        .tasks()
        .iter()
        .map(|row| row.payload.trim_start_matches("{\"id\":").trim_end_matches('}').parse().unwrap())
        .collect();
    assert_eq!(ids, [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 13, 14, 15, 16, 17, 18]);
}

/// C18, C11
fn c18_every_option_is_stored<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let hour = Duration::from_secs(3_600);
    atomic!(conn, -> QueryResult<()>, {
        third(0, true);
        third(1, true).queue("other").priority(-5).max_attempts(1).key("k");
        third(2, true).delay(hour);
        third(3, true).run_at(SystemTime::now() + hour);
        third(4, true).run_at(SystemTime::now() - hour);
        third(5, true).run_at(SystemTime::UNIX_EPOCH - hour);
        third(6, true).delay(Duration::MAX);
        third(7, true).delay(Duration::ZERO);
        third(8, true).max_attempts(0);
        third(9, true).max_attempts(u16::MAX).priority(i16::MIN);
        third(10, true).delay(hour).run_at(SystemTime::UNIX_EPOCH);
        Ok(())
    })
    .unwrap();
    let row = |id: i64, state: &str| TaskRow {
        task: "third".to_owned(),
        queue: "thirds".to_owned(),
        payload: format!("{{\"id\":{id},\"flag\":true}}"),
        priority: 3,
        state: state.to_owned(),
        // Looked at below.
        run_at_ms: 0,
        attempts: 0,
        max_attempts: 7,
        task_key: None,
        error: None,
        trace_parent: None,
    };
    let other = TaskRow {
        queue: "other".to_owned(),
        priority: -5,
        max_attempts: 1,
        task_key: Some("k".to_owned()),
        ..row(1, "ready")
    };
    let (once, often) = (
        TaskRow { max_attempts: 1, ..row(8, "ready") },
        TaskRow { max_attempts: u16::MAX.into(), priority: i16::MIN, ..row(9, "ready") },
    );
    let expected = [
        row(0, "ready"),
        other,
        row(2, "scheduled"),
        row(3, "scheduled"),
        row(4, "ready"),
        row(5, "ready"),
        row(6, "scheduled"),
        row(7, "ready"),
        once,
        often,
        row(10, "ready"),
    ];
    let stored: Vec<_> = db.tasks().into_iter().map(|row| TaskRow { run_at_ms: 0, ..row }).collect();
    assert_eq!(stored, expected);
    // By the clock of the database, which is this machine's here.
    let due = |id: i64| {
        let payload = format!("{{\"id\":{id},\"flag\":true}}");
        let sql = format!("SELECT run_at_ms AS number FROM deferred_tasks WHERE payload = '{payload}'");
        C::number(&mut db.observer(), &sql)
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as i64;
    let is_about = |due: i64, expected: i64| (expected - due).abs() < 60_000;
    assert!(is_about(due(0), now), "{} is not about {now}", due(0));
    assert!(is_about(due(2), now + 3_600_000));
    assert!(is_about(due(3), now + 3_600_000));
    assert!(is_about(due(4), now - 3_600_000));
    assert_eq!((due(5), due(10)), (0, 0));
    assert!(due(6) > now * 100);
}

/// C7, C8, C18: a real transaction, whose calls are stored at its own COMMIT; in the hook itself
/// there is none.
fn c18_a_hook_calls_in_a_block_of_its_own<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        let inner = log.clone();
        first(1);
        conn.after_commit(move |conn| -> QueryResult<()> {
            assert_eq!(C::number(&mut *conn, "SELECT COUNT(*) AS number FROM deferred_tasks"), 1);
            assert_not_in_transaction(first(2).after_commit(conn));
            atomic!(conn, outermost, -> QueryResult<()>, {
                first(3);
                note(&inner, 3);
                Ok(())
            })?;
            assert_eq!(C::number(&mut *conn, "SELECT COUNT(*) AS number FROM deferred_tasks"), 2);
            let failed = atomic!(conn, -> QueryResult<()>, {
                first(4);
                rolled_back()
            });
            assert_eq!(failed, rolled_back());
            inner.push(5);
            Ok(())
        })
    })
    .unwrap();
    assert!(conn.last_report().is_clean(), "{}", conn.last_report());
    assert_eq!((log.ran(), stored(db)), (vec![3, 5], firsts([1, 3])));
}

/// C14
fn c14_a_row_belongs_to_its_connection<C: Database>(db: &Scratch<C>) {
    let (one, other) = (&mut ready(db), &mut db.connect());
    let result = atomic!(one, -> QueryResult<()>, {
        first(1);
        atomic!(other, -> QueryResult<()>, {
            first(2);
            Ok(())
        })?;
        assert_eq!(stored(db), firsts([2]));
        rolled_back()
    });
    assert_eq!(result, rolled_back());
    assert_eq!(stored(db), firsts([2]));
}

/// What one looks at with a debugger: behind the hooks, with what will be stored.
fn calls_that_wait_are_listed<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        second("\"quoted\"").key("a").queue("b");
        note(&log, 1);
        atomic!(conn, -> QueryResult<()>, {
            let line = line!() + 1;
            first(1);
            first(2).key("");
            let pending = conn.pending();
            let listed: Vec<_> = pending.iter().map(|hook| (hook.kind, hook.task, &*hook.arguments, hook.depth)).collect();
            let note = listed[0];
            assert_eq!((note.0, note.3), (HookKind::AfterCommit, 1));
            assert_eq!(
                listed[1..],
                [
                    (HookKind::Durable, "second", r#"{"text":"\"quoted\""}"#, 1),
                    (HookKind::Durable, "first", r#"{"id":1}"#, 2),
                    (HookKind::Durable, "first", "its key is empty", 2),
                ]
            );
            assert_eq!((pending[2].call_site.file(), pending[2].call_site.line()), (file!(), line));
            assert_eq!(pending[2].to_string(), format!("first({{\"id\":1}}) by a worker at {}, depth 2", pending[2].call_site));
            rolled_back()
        })
        .unwrap_err();
        let inner = atomic!(conn, -> QueryResult<()>, {
            keep(1, "");
            Ok(())
        });
        inner?;
        let depths: Vec<_> = conn.pending().iter().map(|hook| (hook.task, hook.depth)).skip(1).collect();
        assert_eq!(depths, [("second", 1), ("keep", 1)], "the released one belongs to the outer one now");
        Ok(())
    })
    .unwrap();
    assert_eq!(conn.pending(), []);
}

/// It would be a row of what is rolled back.
fn a_compensation_cannot_be_stored<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    atomic!(conn, -> QueryResult<()>, {
        let error = conn.compensate_task(first(1)).unwrap_err();
        assert!(matches!(CommitError::of(&error), Some(CommitError::TaskCannotBeStored(_))));
        assert!(error.to_string().contains("would be rolled back with it"), "{error}");
        Ok(())
    })
    .unwrap();
    assert_eq!(count(db), 0);
}

/// C17: in a column of the user's own, in the same transaction.
mod in_a_column {
    use super::*;

    macro_rules! on {
        ($name:ident, $conn:ty, $sql_type:ident, $create:literal) => {
            mod $name {
                use super::*;

                diesel::table! {
                    orders (id) {
                        id -> Integer,
                        task -> $sql_type,
                    }
                }

                #[test]
                fn c17_the_identity_can_be_stored() {
                    let db = &Scratch::<$conn>::new();
                    let conn = &mut ready(db);
                    db.run_sql($create);
                    let id = atomic!(conn, -> QueryResult<_>, {
                        let id = first(1).after_commit(conn)?;
                        diesel::insert_into(orders::table)
                            .values((orders::id.eq(1), orders::task.eq(id)))
                            .execute(conn)?;
                        let found: i32 = orders::table.filter(orders::task.eq(id)).select(orders::id).first(conn)?;
                        assert_eq!(found, 1);
                        Ok(id)
                    })
                    .unwrap();
                    let read: TaskId = orders::table.select(orders::task).first(conn).unwrap();
                    assert_eq!((read, db.task_ids()), (id, vec![id]));
                    let joined = "SELECT COUNT(*) AS number FROM orders o JOIN deferred_tasks t ON t.id = o.task";
                    assert_eq!(<$conn>::number(conn, joined), 1);
                }
            }
        };
    }

    on!(sqlite, SqliteConnection, Binary, "CREATE TABLE orders (id INTEGER PRIMARY KEY, task BLOB NOT NULL)");
    #[cfg(feature = "postgres")]
    on!(postgres, PgConnection, Uuid, "CREATE TABLE orders (id INTEGER PRIMARY KEY, task uuid NOT NULL)");
    #[cfg(feature = "mysql")]
    on!(mysql, MysqlConnection, Binary, "CREATE TABLE orders (id INTEGER PRIMARY KEY, task BINARY(16) NOT NULL)");
}
