//! Names of the user's that are also the expansion's.

use diesel::prelude::*;
use diesel_deferred_tests::{Log, note};

use crate::connect;

mod shadowing {
    #![allow(dead_code, non_camel_case_types)]

    use diesel_deferred::{atomic, deferred_task};
    use diesel_deferred_tests::{Log, note};

    pub(super) type Connection = crate::Conn;
    pub(super) type Outcome = ::diesel::QueryResult<()>;
    const DONE: Outcome = Outcome::Ok(());

    struct Statement;
    struct Result;
    struct Option;
    struct String;
    struct Vec;
    struct Box;
    struct Task;
    struct Registrar;
    struct End;
    #[derive(Clone, Copy)]
    struct Ok;
    struct Err;
    struct Some;
    struct None;
    mod std {}
    mod core {}
    mod alloc {}
    mod diesel {}
    fn concat() {}
    fn drop() {}

    pub(super) trait Settling {
        fn settle(self, log: &Log);
        fn stray(self)
        where
            Self: Sized,
        {
        }
        fn pass(&self) {}
        fn run(&self, log: &Log);
        fn end(&self) {}
        fn register(&self) {}
        fn isolation(&self) {}
        fn run_block(&self) {}
        fn to_owned(&self) {}
        fn borrow(&self) {}
        fn hand_over(&self) {}
    }

    impl<T> Settling for T {
        fn settle(self, log: &Log) {
            log.push(1);
        }
        fn run(&self, log: &Log) {
            log.push(2);
        }
    }

    #[deferred_task]
    fn log_it(log: &Log, value: i32, registrar: i32, conn: i32, f: i32, receiver: i32, call: i32) {
        log.push(value + registrar + conn + f + receiver + call);
    }

    pub(super) fn shadowed(conn: &mut Connection, log: &Log, builder: u32) -> Outcome {
        atomic!(conn, -> Outcome, retries = builder, {
            let value = 5;
            let registrar = 6;
            value.settle(log);
            registrar.run(log);
            log_it(log, value, registrar, 0, 0, 0, 0);
            note(log, 12);
            DONE
        })
    }
}

#[test]
fn names_of_the_expansion_are_free() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    shadowing::shadowed(conn, &log, 1)?;
    assert_eq!(log.ran(), [1, 2, 11, 12]);
    Ok(())
}

#[test]
fn a_shadowed_connection() -> QueryResult<()> {
    use diesel_deferred::atomic;
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        note(&log, 1);
        let conn = 2;
        note(&log, conn);
        let log = (log.clone(), conn);
        note(&log.0, log.1 + 1);
        Ok(())
    })?;
    assert_eq!(log.ran(), [1, 2, 3]);
    Ok(())
}

/// All of the runtime, under another name.
mod facade {
    pub(crate) mod database {
        pub(crate) use diesel_deferred as deferred;
    }
}

#[facade::database::deferred::deferred_task(crate = "crate::pass::hygiene::facade::database::deferred")]
fn elsewhere(log: &Log, id: i32) {
    log.push(id);
}

#[test]
fn a_re_exported_crate() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    facade::database::deferred::atomic!(conn, crate = crate::pass::hygiene::facade::database::deferred, {
        elsewhere(&log, 1);
        note(&log, 2);
        QueryResult::Ok(())
    })?;
    assert_eq!(log.ran(), [1, 2]);
    Ok(())
}

#[test]
fn a_connection_of_any_name_and_kind() -> QueryResult<()> {
    use diesel_deferred::atomic;
    struct Repository {
        connection: Box<crate::Conn>,
        log: Log,
    }
    let mut repository = Repository { connection: Box::new(connect()), log: Log::new() };
    let Repository { log, .. } = &repository;
    let log = log.clone();
    atomic!(conn = repository.connection, -> QueryResult<()>, {
        note(&repository.log, 1);
        assert!(conn.in_transaction());
        Ok(())
    })?;
    let mut owned = connect();
    atomic!(owned, -> QueryResult<()>, {
        note(&log, 2);
        Ok(())
    })?;
    atomic!(r#fn = connect(), -> QueryResult<()>, {
        note(&log, 3);
        r#fn.pending();
        Ok(())
    })?;
    let pooled = &mut Box::new(connect());
    atomic!(pooled, -> QueryResult<()>, {
        note(&log, 4);
        Ok(())
    })?;
    assert_eq!(log.ran(), [1, 2, 3, 4]);
    Ok(())
}
