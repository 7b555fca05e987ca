//! What a block costs on the wire. What it costs in memory is in `allocations.rs`.

use diesel::prelude::*;
use diesel_deferred::{CommitProof, atomic};
use diesel_deferred_tests::{Database, Log, Scratch, note, on_every_database, record};

on_every_database! {
    c21_a_block_without_tasks_sends_begin_and_commit,
    c21_the_proof_is_no_message_of_its_own,
    c21_rollbacks_and_nesting_send_what_diesel_sends,
}

const PROVEN_COMMIT: &str =
    "SAVEPOINT diesel_deferred_commit_proof; RELEASE SAVEPOINT diesel_deferred_commit_proof; COMMIT";

/// C21: nothing else, also in front of and behind a block with tasks.
fn c21_a_block_without_tasks_sends_begin_and_commit<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let statements = record(conn);
    for _ in 0..3 {
        atomic!(conn, -> QueryResult<()>, { Ok(()) }).unwrap();
        assert_eq!(statements.take(), ["BEGIN", "COMMIT"]);
        let rolled_back: QueryResult<()> = atomic!(conn, {
            note(&log, 1);
            Err(diesel::result::Error::RollbackTransaction)
        });
        assert!(rolled_back.is_err());
        assert_eq!(statements.take(), ["BEGIN", "ROLLBACK"]);
        atomic!(conn, -> QueryResult<()>, {
            note(&log, 2);
            Ok(())
        })
        .unwrap();
        statements.take();
    }
}

/// C21: with tasks there are as many messages as without; the proof travels in the one that carries
/// COMMIT.
fn c21_the_proof_is_no_message_of_its_own<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let statements = record(conn);
    atomic!(conn, -> QueryResult<()>, {
        note(&log, 1);
        Ok(())
    })
    .unwrap();
    let commit = if C::PROOF == CommitProof::Commit { "COMMIT" } else { PROVEN_COMMIT };
    assert_eq!(statements.take(), ["BEGIN", commit]);
    assert_eq!(log.ran(), [1]);
}

/// C21, N14: savepoints are Diesel's own, with tasks in them or not, and a rolled-back one is
/// released in its ROLLBACK's message.
fn c21_rollbacks_and_nesting_send_what_diesel_sends<C: Database>(db: &Scratch<C>) {
    let conn = &mut db.connect();
    let log = Log::new();
    let statements = record(conn);
    for tasks in [false, true] {
        let nested = atomic!(conn, -> QueryResult<()>, {
            atomic!(conn, -> QueryResult<()>, {
                if tasks {
                    note(&log, 1);
                }
                Ok(())
            })?;
            let inner: QueryResult<()> = atomic!(conn, { Err(diesel::result::Error::RollbackTransaction) });
            inner
        });
        assert!(nested.is_err());
        assert_eq!(
            statements.take(),
            [
                "BEGIN",
                "SAVEPOINT diesel_savepoint_1",
                "RELEASE SAVEPOINT diesel_savepoint_1",
                "SAVEPOINT diesel_savepoint_1",
                "ROLLBACK TO SAVEPOINT diesel_savepoint_1; RELEASE SAVEPOINT diesel_savepoint_1",
                "ROLLBACK"
            ]
        );
    }
}
