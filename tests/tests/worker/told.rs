//! What a worker tells whoever runs it: what it works on, and what keeps it from that.

use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel_deferred::deferred_task;
use diesel_deferred_tests::{
    AsyncDatabase, Database, Notes, Scratch, at_work, events_with, eventually, on_every_async_database,
};

use crate::support::{words, worker};

#[deferred_task(durable, queue = "told elsewhere")]
async fn told_elsewhere() {}

#[deferred_task(durable, unique)]
async fn only_once() {}

on_every_async_database!(a_worker_says_at_its_start_what_it_works_on, a_lock_is_told_as_a_lock);

/// FINDINGS C12: "`.queue("defalt", 1)` builds, runs nothing and says nothing at trace level; a
/// worker says nothing at its start".
async fn a_worker_says_at_its_start_what_it_works_on<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let queue = format!("defalt of {}", A::Blocking::NAME);
    let at_work = at_work!(worker::<A>(db, &Notes::default()).queue(&*queue, 3));
    words(db, &["a"]);
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    at_work.stop().await;
    let told = events_with(&queue);
    let [start, warning] = &*told else { panic!("{told:#?}") };
    for part in
        ["queues=\"default (10), ", "(3)\"", "tasks=", "version=\"0.", "tables=2", "a worker of durable tasks starts"]
    {
        assert!(start.contains(part), "{part}: {start}");
    }
    assert!(warning.contains("no durable task of this program names this queue"), "{warning}");
    let elsewhere = events_with("told_elsewhere (told elsewhere)");
    assert!(elsewhere.iter().any(|event| event.contains("elsewhere=")), "{elsewhere:#?}");
}

/// FINDINGS C12: "a missing right, a deadlock and a full disk are all 'could not reach its
/// database', for ever".
async fn a_lock_is_told_as_a_lock<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let mut other = db.observer();
    let (lock, unlock) = match A::Blocking::NAME {
        "PostgreSQL" => ("BEGIN; LOCK TABLE deferred_tasks", "COMMIT"),
        "MariaDB" => ("LOCK TABLES deferred_tasks WRITE", "UNLOCK TABLES"),
        _ => ("BEGIN EXCLUSIVE", "COMMIT"),
    };
    words(db, &["a"]);
    let before = events_with("somebody has locked the table of durable tasks").len();
    other.batch_execute(lock).expect("locked");
    let at_work = at_work!(worker::<A>(db, &notes).lease(Duration::from_secs(1)));
    eventually("the lock is told", || events_with("somebody has locked the table of durable tasks").len() > before)
        .await;
    other.batch_execute(unlock).expect("unlocked");
    assert_eq!(notes.wait_for(1).await, ["a"]);
    at_work.stop().await;
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
mod rights {
    use diesel::prelude::*;
    use diesel_deferred::{
        DeferredConnection, Worker, WorkerError, cancel_task, pause_queue, replay_task, resume_queue,
    };

    use crate::support::note;

    use super::*;

    /// A role that may do what a worker does, or less.
    struct Role<'d, C: Database> {
        db: &'d Scratch<C>,
        name: String,
        url: String,
    }

    impl<'d, C: Database> Role<'d, C> {
        fn new(db: &'d Scratch<C>, name: &str) -> Self {
            let name = format!("{name}_{}", std::process::id());
            let (scheme, rest) = db.url().split_once("://").expect("a URL");
            let (_, rest) = rest.split_once('@').expect("a URL with a user");
            let role = Self { db, url: format!("{scheme}://{name}@{rest}"), name };
            match C::NAME {
                "PostgreSQL" => {
                    let schema = rest.split_once("search_path%3D").map(|(_, rest)| rest.split('%').next());
                    let schema = schema.flatten().expect("a schema");
                    role.db
                        .run_sql(&format!("CREATE ROLE {0} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {0}", role.name));
                }
                _ => role.db.run_sql(&format!("CREATE USER {}", role.name)),
            }
            role
        }

        /// With the rights of a worker.
        fn of_worker(db: &'d Scratch<C>, name: &str) -> Self {
            let role = Self::new(db, name);
            role.allow("SELECT, UPDATE, DELETE ON deferred_tasks");
            role.allow("SELECT ON deferred_schema");
            role.allow("SELECT ON deferred_paused_queues");
            role
        }

        fn allow(&self, what: &str) {
            self.db.run_sql(&format!("GRANT {what} TO {}", self.name));
        }

        fn forbid(&self, what: &str) {
            self.db.run_sql(&format!("REVOKE {what} FROM {}", self.name));
        }
    }

    impl<C: Database> Drop for Role<'_, C> {
        fn drop(&mut self) {
            let drop = match C::NAME {
                "PostgreSQL" => format!("DROP OWNED BY {0}; DROP ROLE {0}", self.name),
                _ => format!("DROP USER {}", self.name),
            };
            let _ = self.db.observer().batch_execute(&drop);
        }
    }

    /// "'Permission denied' and the like end `run` with an error that names right and table when they
    /// are met at start": also a right that is needed when a task has ended only.
    async fn a_missing_right_ends_the_worker_at_its_start<A: AsyncDatabase>() {
        let db = &Scratch::<A::Blocking>::with_tasks();
        words(db, &["a"]);
        let role = Role::of_worker(db, "missing_at_start");
        for (right, table) in [
            ("SELECT", "deferred_schema"),
            ("SELECT", "deferred_paused_queues"),
            ("SELECT", "deferred_tasks"),
            ("UPDATE", "deferred_tasks"),
            ("DELETE", "deferred_tasks"),
        ] {
            role.forbid(&format!("{right} ON {table}"));
            let worker = Worker::<A>::builder(&*role.url).queue("default", 1).state(Notes::default());
            let error = at_work!(worker).fails().await;
            let message = error.to_string();
            let WorkerError::MissingRight { right: Some(found), to, .. } = &error else { panic!("{error:?}") };
            assert_eq!((&**found, &**to), (right, table), "{message}");
            assert!(message.starts_with(&format!("the worker lacks the right {right} to {table} (")), "{message}");
            assert!(message.contains("GRANT SELECT, UPDATE, DELETE ON deferred_tasks TO …"), "{message}");
            role.allow(&format!("{right} ON {table}"));
        }
        // What the message names is enough.
        let worker = Worker::<A>::builder(&*role.url).queue("default", 1).state(Notes::default());
        let at_work = at_work!(worker);
        db.wait_for_tasks(|rows| rows.is_empty()).await;
        at_work.stop().await;
    }

    /// "and are told as what they are later": the worker waits for the right, and goes on.
    async fn a_right_that_is_lost_is_told_and_waited_for<A: AsyncDatabase>() {
        let db = &Scratch::<A::Blocking>::with_tasks();
        let notes = Notes::default();
        let role = Role::of_worker(db, "lost_later");
        let worker = Worker::<A>::builder(&*role.url);
        let worker = worker.queue("default", 1).state(notes.clone()).poll_interval(Duration::from_millis(50));
        let at_work = at_work!(worker);
        words(db, &["a"]);
        notes.wait_for(1).await;
        db.wait_for_tasks(|rows| rows.is_empty()).await;
        let lost = || events_with("a worker lacks a right that it had").len();
        let before = lost();
        role.forbid("SELECT ON deferred_tasks");
        eventually("it is told", || lost() > before).await;
        assert!(!at_work.has_ended());
        words(db, &["b"]);
        role.allow("SELECT ON deferred_tasks");
        assert_eq!(notes.wait_for(2).await, ["a", "b"]);
        at_work.stop().await;
    }

    /// What guide/src/durable-table.md says that those need who call tasks, and look after them, is what
    /// they need.
    fn the_rights_of_the_page_are_those_that_are_needed<C: Database>() {
        let db = &Scratch::<C>::with_tasks();
        let role = Role::<C>::new(db, "callers");
        let connect = || DeferredConnection::<C>::new(C::establish(&role.url).expect("a connection"));
        let call = || connect().transaction(|conn| note("a").after_commit(conn));
        let unique = || connect().transaction(|conn| only_once().after_commit(conn));
        // Whether MariaDB lets somebody connect who has no right at all to the database depends on
        // how that is written.
        role.allow("SELECT ON deferred_schema");
        call().expect_err("without any right");
        role.allow("INSERT ON deferred_tasks");
        let id = call().expect("called");
        unique().expect_err("without SELECT and UPDATE");
        role.allow("SELECT, UPDATE ON deferred_tasks");
        unique().expect("called");
        let tell = |statement| C::tell(&mut connect(), statement);
        assert_eq!(tell(cancel_task(id)).expect("cancelled"), 1);
        assert_eq!(tell(replay_task(id)).expect("replayed"), 1);
        tell(pause_queue("q")).expect_err("without INSERT");
        role.allow("SELECT, INSERT, UPDATE, DELETE ON deferred_paused_queues");
        tell(pause_queue("q")).expect("paused");
        tell(pause_queue("q")).expect("paused");
        assert_eq!(tell(resume_queue("q")).expect("resumed"), 1);
    }

    #[cfg(feature = "postgres")]
    mod postgres {
        #[test]
        fn the_rights_of_the_page_are_those_that_are_needed() {
            super::the_rights_of_the_page_are_those_that_are_needed::<diesel::PgConnection>();
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn a_missing_right_ends_the_worker_at_its_start() {
            super::a_missing_right_ends_the_worker_at_its_start::<diesel_async::AsyncPgConnection>().await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn a_right_that_is_lost_is_told_and_waited_for() {
            super::a_right_that_is_lost_is_told_and_waited_for::<diesel_async::AsyncPgConnection>().await;
        }
    }

    #[cfg(feature = "mysql")]
    mod mysql {
        #[test]
        fn the_rights_of_the_page_are_those_that_are_needed() {
            super::the_rights_of_the_page_are_those_that_are_needed::<diesel::MysqlConnection>();
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn a_missing_right_ends_the_worker_at_its_start() {
            super::a_missing_right_ends_the_worker_at_its_start::<diesel_async::AsyncMysqlConnection>().await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn a_right_that_is_lost_is_told_and_waited_for() {
            super::a_right_that_is_lost_is_told_and_waited_for::<diesel_async::AsyncMysqlConnection>().await;
        }
    }
}
