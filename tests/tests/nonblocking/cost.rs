//! What a block costs on the wire.

use diesel::result::QueryResult;
use diesel_deferred::{CommitProof, atomic, deferred_task};
use diesel_deferred_tests::{AsyncDatabase, Log, Scratch, note, on_every_async_database, record_async, rolled_back};

use crate::fixture::{one_at_a_time, settled};

on_every_async_database! {
    c21_a_block_without_tasks_sends_begin_and_commit,
    c21_the_proof_is_no_message_of_its_own,
    c21_rollbacks_and_nesting_send_what_diesel_sends,
}

/// The message that commits where hooks wait.
fn proven_commit(proof: CommitProof) -> String {
    let proof = match proof {
        CommitProof::Commit => "",
        CommitProof::Statement => "SAVEPOINT diesel_deferred_commit_proof; ",
        _ => "SAVEPOINT diesel_deferred_commit_proof; RELEASE SAVEPOINT diesel_deferred_commit_proof; ",
    };
    format!("{proof}COMMIT")
}

#[deferred_task]
async fn spawned(log: Log, id: i32) {
    log.push(id);
}

/// C21: nothing else, also with typed queries in it, and in front of and behind a block with tasks.
async fn c21_a_block_without_tasks_sends_begin_and_commit<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    let statements = record_async(conn);
    for id in 0..3 {
        atomic!(conn, -> QueryResult<()>, async { Ok(()) }).await.unwrap();
        assert_eq!(statements.take(), ["BEGIN", "COMMIT"]);
        atomic!(conn, async { C::insert(conn, id).await }).await.unwrap();
        let sent = statements.take();
        assert_eq!((sent.len(), sent[0].as_str(), sent[2].as_str()), (3, "BEGIN", "COMMIT"), "{sent:?}");
        conn.transaction(async |_| QueryResult::Ok(())).await.unwrap();
        assert_eq!(statements.take(), ["BEGIN", "COMMIT"]);
        let failed: QueryResult<()> = atomic!(conn, async {
            note(&log, 1);
            rolled_back()
        })
        .await;
        assert_eq!(failed, rolled_back());
        assert_eq!(statements.take(), ["BEGIN", "ROLLBACK"]);
        atomic!(conn, -> QueryResult<()>, async {
            note(&log, 2);
            Ok(())
        })
        .await
        .unwrap();
        statements.take();
    }
}

/// C21: with tasks there are as many messages as without; the proof travels in the one that carries
/// COMMIT.
async fn c21_the_proof_is_no_message_of_its_own<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let dispatcher = one_at_a_time(conn);
    let log = Log::new();
    let statements = record_async(conn);
    atomic!(conn, -> QueryResult<()>, async {
        note(&log, 1);
        spawned(log.clone(), 2);
        conn.after_commit(async |_| ())?;
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(statements.take(), ["BEGIN", &proven_commit(C::PROOF)]);
    settled(&dispatcher).await;
    assert_eq!(log.ran(), [1, 2]);
}

/// C21, N14: savepoints are Diesel's own, with tasks in them or not, and a rolled-back one is
/// released in its ROLLBACK's message.
async fn c21_rollbacks_and_nesting_send_what_diesel_sends<C: AsyncDatabase>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = Log::new();
    let statements = record_async(conn);
    for tasks in [false, true] {
        let nested = atomic!(conn, -> QueryResult<()>, async {
            atomic!(conn, -> QueryResult<()>, async {
                if tasks {
                    note(&log, 1);
                }
                Ok(())
            })
            .await?;
            let inner: QueryResult<()> = atomic!(conn, async { rolled_back() }).await;
            inner
        })
        .await;
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
