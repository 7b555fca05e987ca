#![allow(dead_code)]

use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};

type Conn = DeferredConnection<SqliteConnection>;

#[deferred_task]
fn send(user_id: i32) {
    println!("{user_id}");
}

fn on_tokio(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, {
        tokio::spawn(async move { send(1) });
        Ok(())
    })
}

fn on_a_thread(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, {
        std::thread::spawn(|| send(2));
        Ok(())
    })
}

fn on_the_blocking_pool(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, {
        tokio::task::spawn_blocking(|| {
            println!("a task is its value");
            send(3)
        });
        Ok(())
    })
}

fn main() {}
