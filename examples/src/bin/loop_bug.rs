//! One loop, three times: a task is called for each user that a transaction inserts, and a worker
//! with a connection of its own carries it out.
//!
//! `cargo run --bin loop_bug` at the root of the repository.

use std::error::Error;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};

diesel::table! { users { id -> Integer, name -> Text, } }

type Conn = DeferredConnection<SqliteConnection>;

const USERS: [(i32, &str); 3] = [(1, "Ada"), (2, "Bob"), (3, "Cem")];

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let database = dir.path().join("loop_bug.db").display().to_string();
    let conn = &mut Conn::establish(&database)?;
    conn.batch_execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")?;
    let worker = Worker::start(SqliteConnection::establish(&database)?);

    println!("act 1: the task is called inside the transaction");
    called_before_commit(conn, &worker)?;
    curtain(conn)?;

    println!("act 2: a callback for after the commit, which looks its user up when it runs");
    late_binding(conn, &worker)?;
    curtain(conn)?;

    println!("act 3: `atomic!`");
    deferred(conn, &worker)?;
    curtain(conn)
}

/// The worker may be faster than COMMIT, and then it finds no row. Here it always is: `welcome`
/// waits for it.
fn called_before_commit(conn: &mut Conn, worker: &Worker) -> QueryResult<()> {
    conn.transaction(|conn| {
        for (id, name) in USERS {
            insert(conn, id, name)?;
            worker.welcome(id);
        }
        Ok(())
    })
}

/// In Python, or in JavaScript with `var`, a closure keeps the loop's *variable*, and after the
/// loop that is the last user.
///
/// Rust does not let that happen by mistake: a hook that borrows `id` does not compile, because it
/// outlives the loop, and one that moves `id` has its own. So the shared variable of those
/// languages is built by hand here.
fn late_binding(conn: &mut Conn, worker: &Worker) -> QueryResult<()> {
    let current = Arc::new(AtomicI32::new(0));
    conn.transaction(|conn| {
        for (id, name) in USERS {
            insert(conn, id, name)?;
            current.store(id, Ordering::Relaxed);
            let (current, worker) = (Arc::clone(&current), worker.clone());
            conn.after_commit(move |_| worker.welcome(current.load(Ordering::Relaxed)))?;
        }
        Ok(())
    })
}

/// A plain call: its arguments are captured there and then, it runs after COMMIT.
fn deferred(conn: &mut Conn, worker: &Worker) -> QueryResult<()> {
    atomic!(conn, {
        for (id, name) in USERS {
            insert(conn, id, name)?;
            send_welcome(worker, id);
        }
        Ok(())
    })
}

#[deferred_task]
fn send_welcome(worker: &Worker, user_id: i32) {
    worker.welcome(user_id);
}

fn insert(conn: &mut Conn, id: i32, name: &str) -> QueryResult<()> {
    println!("  insert user {id}, {name}");
    diesel::insert_into(users::table).values((users::id.eq(id), users::name.eq(name))).execute(conn)?;
    Ok(())
}

/// Shows what was committed after all, and clears the stage.
fn curtain(conn: &mut Conn) -> Result<(), Box<dyn Error>> {
    let names: Vec<String> = users::table.order(users::id).select(users::name).load(conn)?;
    println!("  committed: {}\n", names.join(", "));
    diesel::delete(users::table).execute(conn)?;
    Ok(())
}

/// A thread with a second connection, which sees what any other process would see.
#[derive(Debug, Clone)]
struct Worker(mpsc::Sender<Job>);

#[derive(Debug)]
struct Job {
    user_id: i32,
    done: mpsc::Sender<()>,
}

impl Worker {
    fn start(mut conn: SqliteConnection) -> Self {
        let (sender, jobs) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for Job { user_id, done } in jobs {
                match users::table.find(user_id).select(users::name).first::<String>(&mut conn).optional() {
                    Ok(Some(name)) => println!("    worker: user {user_id}: Welcome, {name}!"),
                    Ok(None) => println!("    worker: user {user_id}: no such row"),
                    Err(error) => println!("    worker: user {user_id}: {error}"),
                }
                done.send(()).expect("somebody waits for it");
            }
        });
        Self(sender)
    }

    /// Hands a job over and waits until it is done, so that every run prints the same.
    fn welcome(&self, user_id: i32) {
        let (done, wait) = mpsc::channel();
        self.0.send(Job { user_id, done }).expect("the worker lives as long as its sender");
        wait.recv().expect("it answers every job");
    }
}
