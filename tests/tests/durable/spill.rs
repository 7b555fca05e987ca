//! D14, D22: what is beyond ten thousand calls, or 2 MB of arguments, is stored before the COMMIT,
//! in the savepoint that it belongs to.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel_deferred::{CommitError, DeferredConnection, atomic};
use diesel_deferred_tests::{Database, NOTHING, Scratch, on_every_database, record, refusal, rolled_back};

use crate::tasks::{assert_usable, count, first, is_insert, keep, ready, replace, second};

on_every_database! {
    d14_at_the_next_statement,
    d14_where_a_nested_block_begins_and_ends,
    d14_a_rolled_back_savepoint_takes_its_rows_along,
    d14_memory_is_bounded,
    d14_the_result_is_the_same,
    d14_a_failed_spill_fails_the_transaction,
    d14_keys_over_several_statements,
    d14_raw_sql_is_found_out_before_a_spill,
    t01_in_a_test_transaction,
    d22_large_calls_are_stored_at_the_next_statement_or_call_on_the_connection,
    d22_the_calls_of_all_depths_together_are_few,
}

type Conn<C> = DeferredConnection<C>;

/// As many as are kept.
const MANY: i32 = 10_000;

fn call_many<C: Database>(conn: &mut Conn<C>, from: i32) -> QueryResult<()> {
    // One expansion, so that this is quick in a debug build too.
    atomic!(conn, -> QueryResult<()>, {
        for id in from..from + MANY {
            first(id);
        }
        Ok(())
    })
}

fn inside<C: Database>(conn: &mut Conn<C>) -> i64 {
    // Past the wrapper, which would make room.
    C::number(conn.inner_mut(), "SELECT COUNT(*) AS number FROM deferred_tasks")
}

/// D14: of the wrapper's, in the block that makes the calls: of each kind of statement.
fn d14_at_the_next_statement<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    type Statement<C> = fn(&mut Conn<C>) -> QueryResult<()>;
    let statement: [(&str, Statement<C>); 4] = [
        ("execute", |conn| C::insert(conn, i32::from(conn.pending().len() == 10_000))),
        ("load", |conn| C::load_witnesses(conn).map(drop)),
        ("raw", |conn| C::execute_raw(conn, "DELETE FROM witness")),
        ("batch_execute", |conn| conn.batch_execute("DELETE FROM witness")),
    ];
    for (what, statement) in statement {
        atomic!(conn, -> QueryResult<()>, {
            for id in 1..MANY {
                first(id);
            }
            statement(conn)?;
            db.run_sql("SELECT 1");
            assert_eq!((inside(conn), conn.pending().len()), (0, 9_999), "{what}: not yet");
            first(MANY);
            assert_eq!(conn.pending().len(), 10_000);
            statement(conn)?;
            assert_eq!((inside(conn), conn.pending().len()), (10_000, 0), "{what}");
            first(MANY + 1);
            rolled_back()
        })
        .unwrap_err();
        assert_eq!((count(db), db.committed()), (0, NOTHING.to_vec()), "{what}");
    }
}

/// D14
fn d14_where_a_nested_block_begins_and_ends<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let statements = record(conn);
    atomic!(conn, -> QueryResult<()>, {
        call_many(conn, 0)?;
        let sent = statements.take();
        let place = sent.iter().position(|sql| is_insert(sql)).expect("before the savepoint is released");
        assert!(sent[place + 1..].iter().any(|sql| sql.starts_with("RELEASE")), "{sent:?}");
        for id in 0..MANY {
            first(id);
        }
        atomic!(conn, -> QueryResult<()>, {
            let sent = statements.take();
            let place = sent.iter().position(|sql| is_insert(sql)).expect("before the savepoint is set");
            assert!(sent[place + 1..].iter().any(|sql| sql.starts_with("SAVEPOINT diesel")), "{sent:?}");
            first(1);
            rolled_back()
        })
        .unwrap_err();
        assert!(!statements.take().iter().any(|sql| is_insert(sql)));
        Ok(())
    })
    .unwrap();
    assert_eq!(count(db), 20_000);
}

/// D14, D3
fn d14_a_rolled_back_savepoint_takes_its_rows_along<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    atomic!(conn, -> QueryResult<()>, {
        second("outer");
        let inner = atomic!(conn, -> QueryResult<()>, {
            call_many(conn, 0)?;
            assert_eq!(inside(conn), 10_000);
            for id in 0..MANY {
                first(id);
            }
            C::insert(conn, 1)?;
            assert_eq!((inside(conn), conn.pending().len()), (20_000, 1), "of the outer block");
            rolled_back()
        });
        assert_eq!(inner, rolled_back());
        assert_eq!((inside(conn), conn.pending().len()), (0, 1));
        Ok(())
    })
    .unwrap();
    assert_eq!(db.tasks().len(), 1);
    assert_eq!(db.tasks()[0].task, "second");
}

/// D14: a block that never calls anything but tasks in nested blocks, and one with statements.
fn d14_memory_is_bounded<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let mut most = 0;
    atomic!(conn, -> QueryResult<()>, {
        for n in 0..21_000 {
            first(n);
            if n % 100 == 0 {
                C::execute_raw(conn, "DELETE FROM witness")?;
                most = most.max(conn.pending().len());
            }
        }
        for _ in 0..11 {
            atomic!(conn, -> QueryResult<()>, {
                for id in 0..1_000 {
                    first(id);
                }
                Ok(())
            })?;
            most = most.max(conn.pending().len());
        }
        Ok(())
    })
    .unwrap();
    assert!((9_000..=11_000).contains(&most), "{most} waited");
    assert_eq!(count(db), 32_000);
}

/// D14: as without a spill: the same rows, in the order of the calls; with the same identities as
/// the calls returned.
fn d14_the_result_is_the_same<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let (mut ids, mut expected) = (Vec::new(), Vec::new());
    atomic!(conn, -> QueryResult<()>, {
        for block in 0..15 {
            let inner = atomic!(conn, -> QueryResult<_>, {
                let mut of_block = Vec::new();
                for n in 0..1_000 {
                    of_block.push((first(block * 1_000 + n).after_commit(conn)?, block * 1_000 + n));
                }
                if block % 5 == 4 { Err(diesel::result::Error::RollbackTransaction) } else { Ok(of_block) }
            });
            for (id, n) in inner.into_iter().flatten() {
                ids.push(id);
                expected.push(n);
            }
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(db.task_ids(), ids);
    let payloads: Vec<_> = db.tasks().into_iter().map(|row| row.payload).collect();
    let expected: Vec<_> = expected.into_iter().map(|n| format!("{{\"id\":{n}}}")).collect();
    assert_eq!(payloads, expected);
}

/// D14, D5: a spill that fails is an error of the statement or block that caused it. Whoever goes
/// on in spite of that must not get to commit without those calls.
fn d14_a_failed_spill_fails_the_transaction<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    for way in ["statement", "begin", "release"] {
        let result = atomic!(conn, -> QueryResult<()>, {
            let caused = match way {
                "statement" => {
                    for id in 0..MANY {
                        first(id);
                    }
                    C::insert(conn, 1)
                }
                "begin" => {
                    for id in 0..MANY {
                        first(id);
                    }
                    atomic!(conn, -> QueryResult<()>, { Ok(()) })
                }
                _ => call_many(conn, 0),
            };
            assert_eq!(refusal(&caused), "NoTaskTable", "{way}");
            // Swallowed.
            if C::NAME != "PostgreSQL" {
                C::migrate(&mut db.observer());
                first(-2);
                C::insert(conn, 2)?;
            }
            Ok(())
        });
        match (way, C::NAME) {
            // The nested block failed, with all its calls. What the block around it does about that
            // is up to it.
            ("release", _) => assert_eq!(result, Ok(())),
            (_, "PostgreSQL") => assert_eq!(refusal(&result), "RolledBack", "{way}"),
            _ => {
                assert_eq!(refusal(&result), "TaskCannotBeStored", "{way}");
                let text = result.unwrap_err().to_string();
                assert!(text.contains("`first` (called at") && text.contains("deferred_tasks"), "{text}");
            }
        }
        if way != "release" {
            assert_eq!(db.committed(), NOTHING);
            if C::NAME != "PostgreSQL" {
                assert_eq!(count(db), 0);
            }
        }
        assert_eq!(conn.pending(), []);
        C::migrate(&mut db.observer());
        db.run_sql("DELETE FROM deferred_tasks");
        assert_usable(db, conn);
        for table in ["deferred_schema", "deferred_paused_queues", "deferred_tasks"] {
            db.run_sql(&format!("DROP TABLE {table}"));
        }
        db.run_sql("DELETE FROM __diesel_schema_migrations");
        *conn = db.connect();
    }
}

/// D14, D6
fn d14_keys_over_several_statements<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let ids = atomic!(conn, -> QueryResult<_>, {
        let kept = keep(1, "first").after_commit(conn)?;
        replace(1, "first");
        call_many(conn, 0)?;
        for id in 0..MANY {
            first(id);
        }
        let inner = atomic!(conn, -> QueryResult<()>, {
            replace(1, "rolled back");
            for id in 0..MANY {
                first(id);
            }
            C::insert(conn, 1)?;
            rolled_back()
        });
        assert_eq!(inner, rolled_back());
        keep(1, "last");
        Ok([kept, replace(1, "last").after_commit(conn)?])
    })
    .unwrap();
    let keyed: Vec<_> = db.tasks().into_iter().filter(|row| row.task_key.is_some()).map(|row| row.payload).collect();
    assert_eq!(keyed, [r#"{"id":1,"text":"first"}"#, r#"{"id":1,"text":"last"}"#]);
    let stored = db.task_ids();
    assert!(ids.iter().all(|id| stored.contains(id)));
    assert_eq!(stored.len(), 20_002);
}

/// E9, D1: rows would be committed on their own.
fn d14_raw_sql_is_found_out_before_a_spill<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    for spilled_before in [false, true] {
        let result = atomic!(conn, -> QueryResult<()>, {
            if spilled_before {
                call_many(conn, 0)?;
            }
            for id in 0..MANY {
                first(id);
            }
            conn.inner_mut().batch_execute("ROLLBACK")?;
            let caused = C::insert(conn, 1);
            if C::NAME != "PostgreSQL" {
                assert_eq!(refusal(&caused), "EndedEarly");
            }
            let _ = atomic!(conn, -> QueryResult<()>, { Ok(()) });
            Ok(())
        });
        assert_eq!(refusal(&result), "EndedEarly");
        assert_eq!(count(db), 0, "spilled before: {spilled_before}");
        assert_eq!(conn.last_report().not_run().len(), 10_000);
        assert_usable(db, conn);
        db.run_sql("DELETE FROM witness");
    }
}

/// T1
fn t01_in_a_test_transaction<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    conn.begin_test_transaction().unwrap();
    let failed = atomic!(conn, -> QueryResult<()>, {
        call_many(conn, 0)?;
        rolled_back()
    });
    assert_eq!((failed, inside(conn)), (rolled_back(), 0));
    atomic!(conn, -> QueryResult<()>, {
        call_many(conn, 0)?;
        first(1);
        Ok(())
    })
    .unwrap();
    assert_eq!((inside(conn), count(db)), (10_001, 0));
}

/// D22: four of them are 2 MB.
fn d22_large_calls_are_stored_at_the_next_statement_or_call_on_the_connection<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let large = "x".repeat(512 << 10);
    atomic!(conn, -> QueryResult<()>, {
        for _ in 0..3 {
            second(&large);
        }
        C::insert(conn, 1)?;
        assert_eq!((inside(conn), conn.pending().len()), (0, 3), "not yet");
        second(&large);
        C::insert(conn, 2)?;
        assert_eq!((inside(conn), conn.pending().len()), (4, 0));
        for _ in 0..5 {
            second(&large).after_commit(conn)?;
        }
        assert_eq!((inside(conn), conn.pending().len()), (8, 1), "without a statement");
        Ok(())
    })
    .unwrap();
    assert_eq!(count(db), 9);
}

/// D22, D3: those of an outer block cannot be stored while a nested one is open.
fn d22_the_calls_of_all_depths_together_are_few<C: Database>(db: &Scratch<C>) {
    fn nest<C: Database>(conn: &mut Conn<C>, depth: usize, large: &str) -> QueryResult<usize> {
        atomic!(conn, -> QueryResult<usize>, {
            for _ in 0..3 {
                second(large);
            }
            let waits = conn.pending().len();
            if depth == 10 {
                return rolled_back();
            }
            // The innermost is refused, with its three.
            let inner = nest(conn, depth + 1, large).unwrap_or_default();
            Ok(waits.max(inner))
        })
    }
    let conn = &mut ready(db);
    let most = nest(conn, 1, &"x".repeat(512 << 10)).unwrap();
    assert!(most <= 6, "{most} waited");
    assert_eq!(count(db), 27);
}

/// E10, D14: a plain transaction is believed as Diesel does, but not about durable calls: DDL has
/// committed those that were stored by then.
#[cfg(feature = "mysql")]
#[test]
fn e10_ddl_behind_a_spill_is_told_in_a_plain_transaction_too() {
    let db = &Scratch::<MysqlConnection>::new();
    let conn = &mut ready(db);
    for plain in [false, true] {
        let block = |conn: &mut Conn<MysqlConnection>| {
            call_many(conn, 0)?;
            conn.batch_execute(&format!("CREATE TABLE ddl_{plain} (id INTEGER)"))
        };
        let result = if plain { conn.transaction(block) } else { atomic!(conn, { block(conn) }) };
        assert_eq!(refusal(&result), "EndedEarly", "plain: {plain}");
        assert!(matches!(CommitError::of(&result.unwrap_err()), Some(CommitError::EndedEarly)));
        assert_usable(db, conn);
    }
}
