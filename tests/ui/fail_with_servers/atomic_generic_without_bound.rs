use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};

fn audit<C: Connection>(conn: &mut DeferredConnection<C>) -> QueryResult<()> {
    atomic!(conn, { Ok(()) })
}

fn main() {}
