use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};

type Conn = DeferredConnection<SqliteConnection>;

fn take(conn: &mut Conn, names: Vec<&str>) -> QueryResult<usize> {
    atomic!(conn, retries = 3, {
        diesel::sql_query("SELECT 1").execute(conn)?;
        let owned = names;
        Ok(owned.len())
    })
}

fn main() {}
