//! How many statements durable calls take, and when these are sent.

use diesel::prelude::*;
use diesel_deferred::{CommitProof, DeferredConnection, atomic};
use diesel_deferred_tests::{Database, Log, Scratch, note, on_every_database, record, record_kept, rolled_back};

use crate::tasks::{assert_not_in_transaction, count, first, firsts, in_short, keep, ready, second, stored, third};

on_every_database! {
    d02_one_statement_for_a_thousand_calls,
    d02_one_call_is_begin_insert_commit,
    d02_the_insert_of_one_call_is_prepared_once,
    d02_calls_and_hooks_share_a_commit,
    d02_a_plain_transaction_stores_as_well,
    d03_a_rolled_back_savepoint_writes_nothing,
    c21_without_durable_calls_nothing_else_is_sent,
    t01_in_a_test_transaction_the_outermost_block_stores,
}

/// D2, D3: a thousand calls of three tasks, over nested blocks, of which some are rolled back.
fn d02_one_statement_for_a_thousand_calls<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let statements = record(conn);
    let mut expected = Vec::new();
    atomic!(conn, -> QueryResult<()>, {
        for block in 0..100 {
            first(block);
            second("outer");
            third(block.into(), true);
            expected.extend([format!("{block}"), "outer".into(), format!("true {block}")]);
            let inner = atomic!(conn, -> QueryResult<()>, {
                for n in 0..7 {
                    second(&format!("{block} {n}"));
                }
                if block % 4 == 3 { rolled_back() } else { Ok(()) }
            });
            if inner.is_ok() {
                expected.extend((0..7).map(|n| format!("{block} {n}")));
            }
        }
        for n in 0..175 {
            third(n, false);
            expected.push(format!("false {n}"));
        }
        Ok(())
    })
    .unwrap();
    let sent = in_short(statements.take());
    let others = sent.iter().filter(|sql| !sql.contains("SAVEPOINT")).collect::<Vec<_>>();
    assert_eq!(others, ["BEGIN", "INSERT", "COMMIT"]);
    assert_eq!(sent.iter().position(|sql| sql == "INSERT"), Some(sent.len() - 2), "just before COMMIT");
    assert_eq!(expected.len(), 1_000);
    let arguments = |payload: String| {
        let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&payload).unwrap();
        let words = fields.values().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        words.collect::<Vec<_>>().join(" ")
    };
    // In the order of their ids, which is that of the calls.
    let rows: Vec<_> = db.tasks().into_iter().map(|row| arguments(row.payload)).collect();
    assert_eq!(rows, expected);
}

/// D2, C21
fn d02_one_call_is_begin_insert_commit<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let statements = record(conn);
    for id in 0..3 {
        atomic!(conn, -> QueryResult<()>, {
            first(id);
            assert_eq!(in_short(statements.take()), ["BEGIN"]);
            Ok(())
        })
        .unwrap();
        assert_eq!(in_short(statements.take()), ["INSERT", "COMMIT"]);
    }
    assert_eq!(stored(db), firsts(0..3));
}

/// D2: as it is of most transactions, and to prepare it takes longer than to run it.
fn d02_the_insert_of_one_call_is_prepared_once<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let kept = record_kept(conn);
    for id in 0..3 {
        atomic!(conn, -> QueryResult<()>, {
            first(id);
            Ok(())
        })
        .unwrap();
    }
    let kept = kept.take();
    assert_eq!(kept.iter().filter(|sql| sql.starts_with("INSERT")).count(), 1, "{kept:?}");
}

/// D2: the proof that hooks need is in the COMMIT's message, as ever.
fn d02_calls_and_hooks_share_a_commit<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let log = Log::new();
    let statements = record(conn);
    atomic!(conn, -> QueryResult<()>, {
        note(&log, 1);
        first(2);
        note(&log, 3);
        Ok(())
    })
    .unwrap();
    let sent = in_short(statements.take());
    assert_eq!(sent.len(), 3, "{sent:?}");
    assert_eq!(sent[..2], ["BEGIN", "INSERT"]);
    assert_eq!(sent[2] == "COMMIT", C::PROOF == CommitProof::Commit, "{sent:?}");
    assert_eq!((log.ran(), stored(db)), (vec![1, 3], firsts([2])));
}

/// D2: also what is opened by code that has never heard of us.
fn d02_a_plain_transaction_stores_as_well<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let statements = record(conn);
    conn.transaction(|conn| {
        first(1).after_commit(conn)?;
        conn.transaction(|conn| first(2).after_commit(conn).map(drop))
    })
    .unwrap();
    let sent = in_short(statements.take());
    assert_eq!(sent[sent.len() - 2..], ["INSERT", "COMMIT"], "{sent:?}");
    assert_eq!(stored(db), firsts([1, 2]));
}

/// D3: nor does one that is rolled back with what it had released.
fn d03_a_rolled_back_savepoint_writes_nothing<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let statements = record(conn);
    let mut both = |outer: QueryResult<()>| {
        let result = atomic!(conn, -> QueryResult<()>, {
            let inner = atomic!(conn, -> QueryResult<()>, {
                first(1);
                atomic!(conn, -> QueryResult<()>, {
                    keep(2, "");
                    Ok(())
                })?;
                rolled_back()
            });
            assert_eq!(inner, rolled_back());
            if outer.is_ok() { Ok(()) } else { rolled_back() }
        });
        assert_eq!(result, outer);
    };
    both(Ok(()));
    both(rolled_back());
    assert!(!statements.take().iter().any(|sql| sql.contains("deferred_tasks")));
    assert_eq!(count(db), 0);
}

/// C21: nothing, also in front of and behind a block with durable calls; and where there is no
/// table.
fn c21_without_durable_calls_nothing_else_is_sent<C: Database>(db: &Scratch<C>) {
    let empty = |conn: &mut DeferredConnection<C>| atomic!(conn, -> QueryResult<()>, { Ok(()) }).unwrap();
    let conn = &mut db.connect();
    let statements = record(conn);
    empty(conn);
    assert_eq!(statements.take(), ["BEGIN", "COMMIT"]);
    let conn = &mut ready(db);
    let statements = record(conn);
    for _ in 0..3 {
        empty(conn);
        assert_eq!(statements.take(), ["BEGIN", "COMMIT"]);
        let failed: QueryResult<()> = atomic!(conn, {
            first(1);
            rolled_back()
        });
        assert_eq!(failed, rolled_back());
        assert_eq!(statements.take(), ["BEGIN", "ROLLBACK"]);
        atomic!(conn, -> QueryResult<()>, {
            first(1);
            Ok(())
        })
        .unwrap();
        statements.take();
    }
}

/// T1: at the point where production stores them; the test transaction takes them along.
fn t01_in_a_test_transaction_the_outermost_block_stores<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    conn.begin_test_transaction().unwrap();
    assert_not_in_transaction(first(1).after_commit(conn));
    let statements = record(conn);
    for id in [2, 3] {
        atomic!(conn, outermost, -> QueryResult<()>, {
            atomic!(conn, -> QueryResult<()>, {
                first(id);
                Ok(())
            })?;
            assert!(!in_short(statements.take()).contains(&"INSERT".to_owned()));
            Ok(())
        })
        .unwrap();
        assert_eq!(in_short(statements.take()), ["INSERT", "RELEASE SAVEPOINT diesel_savepoint_1"]);
        assert_eq!(conn.pending(), []);
    }
    let failed = atomic!(conn, -> QueryResult<()>, {
        first(4);
        rolled_back()
    });
    assert_eq!(failed, rolled_back());
    let rows = C::number(conn.inner_mut(), "SELECT COUNT(*) AS number FROM deferred_tasks");
    assert_eq!((rows, count(db)), (2, 0), "seen inside, and nowhere else");
}
