use diesel::prelude::*;
use diesel_deferred::atomic;

fn nothing(conn: &mut SqliteConnection) -> QueryResult<()> {
    atomic!(conn, { Ok(()) })
}

fn main() {}
