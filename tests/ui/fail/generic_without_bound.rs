use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, deferred_task};

#[deferred_task]
fn publish(_id: i32) {}

fn audit<C: Connection>(conn: &mut DeferredConnection<C>) -> QueryResult<()> {
    publish(1).after_commit(conn)
}

fn main() {}
