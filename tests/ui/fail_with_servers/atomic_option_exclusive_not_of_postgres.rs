use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};

fn nothing(conn: &mut DeferredConnection<PgConnection>) -> QueryResult<()> {
    atomic!(conn, exclusive, { Ok(()) })
}

fn main() {}
