use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, Pool};
use diesel_deferred::{DeferredConnection, atomic};

type Conn = DeferredConnection<SqliteConnection>;

fn sign_up(pool: &mut Pool<ConnectionManager<Conn>>) -> QueryResult<()> {
    atomic!(conn = pool, { Ok(()) })
}

fn main() {}
