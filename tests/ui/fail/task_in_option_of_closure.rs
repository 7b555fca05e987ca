use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};

#[deferred_task]
fn send(_id: i32) {}

fn remind(conn: &mut DeferredConnection<SqliteConnection>, ids: &[Option<i32>]) -> QueryResult<()> {
    atomic!(conn, {
        ids.iter().for_each(|id| {
            id.map(|id| send(id));
        });
        Ok(())
    })
}

fn main() {}
