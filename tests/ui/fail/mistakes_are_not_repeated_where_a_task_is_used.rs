use std::rc::Rc;

use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};

type Conn = DeferredConnection<SqliteConnection>;

#[deferred_task]
fn count(seen: &mut u64) {
    *seen += 1;
}

#[deferred_task]
fn print(value: Rc<i32>) {
    println!("{value}");
}

#[deferred_task]
fn total(user_id: i32) -> i32 {
    user_id
}

#[deferred_task(name = 5)]
fn named() {}

fn use_them(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, {
        count(&mut 1);
        print(Rc::new(1));
        total(1);
        named();
        count(&mut 1).after_commit(conn)?;
        print(Rc::new(1)).after_commit(conn)?;
        total(1).after_rollback(conn)?;
        named().run();
        Ok(())
    })
}

fn main() {}
