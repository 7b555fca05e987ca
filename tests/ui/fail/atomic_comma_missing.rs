use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};

fn nothing(conn: &mut DeferredConnection<SqliteConnection>) -> QueryResult<()> {
    atomic!(conn { Ok(()) })
}

fn main() {}
