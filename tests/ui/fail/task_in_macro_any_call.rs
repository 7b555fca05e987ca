#![allow(dead_code)]

use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};

type Conn = DeferredConnection<SqliteConnection>;

#[deferred_task]
fn send(user_id: i32) {
    println!("{user_id}");
}

struct Shop;

impl Shop {
    fn task(&self, user_id: i32) -> send {
        send(user_id)
    }
}

fn nth<const N: i32>(user_id: i32) -> send {
    send(N * user_id)
}

macro_rules! stmt {
    ($statement:expr) => {
        $statement;
    };
}

fn turbofish(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, {
        stmt!(nth::<3>(1));
        Ok(())
    })
}

fn parentheses(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, {
        stmt!((send)(1));
        Ok(())
    })
}

fn method(conn: &mut Conn, shop: &Shop) -> QueryResult<()> {
    atomic!(conn, {
        stmt!(shop.task(1));
        Ok(())
    })
}

fn main() {}
