use std::collections::HashMap;

use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};

type Conn = DeferredConnection<SqliteConnection>;

#[deferred_task]
fn send(user_id: i32) {
    println!("{user_id}");
}

struct User {
    id: i32,
}

fn result(conn: &mut Conn, user: Option<User>) -> QueryResult<()> {
    atomic!(conn, {
        user.ok_or(diesel::NotFound).map(|user| send(user.id));
        Ok(())
    })
}

fn map(conn: &mut Conn, users: &[User]) -> QueryResult<()> {
    atomic!(conn, {
        users.iter().map(|user| (user.id, send(user.id))).collect::<HashMap<_, _>>();
        Ok(())
    })
}

fn beside_something_else(conn: &mut Conn, user: Option<User>) -> QueryResult<()> {
    atomic!(conn, {
        user.map(|user| (send(user.id), user));
        Ok(())
    })
}

fn main() {}
