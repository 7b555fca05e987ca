//! A real deadlock on MariaDB, with a second connection in a thread of its own.

use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel_deferred::DeferredConnection;

use crate::Scratch;

/// The other side of a deadlock: it holds row 2 and goes for row 1 when told to.
pub struct Opponent {
    meet: Arc<Barrier>,
    thread: JoinHandle<()>,
}

impl Opponent {
    /// Writes rows 1 and 2 if they are not there, and locks row 2.
    pub fn new(db: &Scratch<MysqlConnection>) -> Self {
        let mut conn = db.observer();
        conn.batch_execute("INSERT IGNORE INTO witness VALUES (1), (2)").expect("the rows to lock");
        let meet = Arc::new(Barrier::new(2));
        let inner = Arc::clone(&meet);
        // The server gives up on the transaction that has written less.
        let weight = (-100..0).map(|id| format!("({id})")).collect::<Vec<_>>().join(",");
        let prepare = format!("BEGIN; INSERT INTO witness VALUES {weight}; {}", lock(2));
        conn.batch_execute(&prepare).expect("lock row 2");
        let thread = std::thread::spawn(move || {
            inner.wait();
            conn.batch_execute(&lock(1)).expect("the other side loses");
            conn.batch_execute("ROLLBACK").expect("leave no trace");
        });
        Self { meet, thread }
    }

    /// It goes for row 1, which the connection under test has locked by now.
    pub fn meet(&self) {
        self.meet.wait();
    }

    /// The connection under test has lost.
    pub fn won(self) {
        self.thread.join().expect("the other side wins");
    }

    /// Makes `conn` lose a deadlock with `statement`, which gets the SQL to run.
    pub fn beat(
        self,
        conn: &mut DeferredConnection<MysqlConnection>,
        statement: impl FnOnce(&mut DeferredConnection<MysqlConnection>, &str) -> QueryResult<()>,
    ) -> diesel::result::Error {
        conn.batch_execute(&lock(1)).expect("lock row 1");
        self.meet();
        let error = statement(conn, &lock(2)).expect_err("a deadlock");
        self.won();
        assert!(error.to_string().contains("Deadlock found"), "{error}");
        error
    }
}

fn lock(id: i32) -> String {
    format!("UPDATE witness SET id = id WHERE id = {id}")
}
