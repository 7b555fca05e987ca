use std::ops::{Deref, DerefMut};

use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, deferred_task};

#[deferred_task]
fn send(user_id: i32) {
    println!("{user_id}");
}

/// Like those of a pool that no feature is on for.
struct Guard(DeferredConnection<SqliteConnection>);

impl Deref for Guard {
    type Target = DeferredConnection<SqliteConnection>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Guard {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

fn handler(mut conn: Guard) -> QueryResult<()> {
    send(1).after_commit(&mut conn)
}

fn main() {}
