use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, deferred_task};

type Conn = DeferredConnection<SqliteConnection>;

#[deferred_task]
fn refresh(conn: &mut Conn, user_id: i32) {
    let _ = (conn, user_id);
}

#[deferred_task]
fn count(user_id: i32, db: &SqliteConnection) {
    let _ = (db, user_id);
}

fn main() {}
