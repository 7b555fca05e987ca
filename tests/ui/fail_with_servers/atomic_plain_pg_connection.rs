use diesel::prelude::*;
use diesel_deferred::atomic;

fn nothing(conn: &mut PgConnection) -> QueryResult<()> {
    atomic!(conn, { Ok(()) })
}

fn main() {}
