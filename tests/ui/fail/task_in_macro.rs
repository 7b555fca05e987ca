#![allow(dead_code)]

use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};

type Conn = DeferredConnection<SqliteConnection>;

#[deferred_task]
fn send(user_id: i32) {
    println!("{user_id}");
}

macro_rules! twice {
    ($statement:expr) => {
        $statement;
        $statement;
    };
}

fn sign_up(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, {
        twice!(send(1));
        Ok(())
    })
}

fn main() {}
