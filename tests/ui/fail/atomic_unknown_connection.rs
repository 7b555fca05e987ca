use diesel::prelude::*;
use diesel_deferred::atomic;

fn nothing() -> QueryResult<()> {
    atomic!(conn, { Ok(()) })
}

fn main() {}
