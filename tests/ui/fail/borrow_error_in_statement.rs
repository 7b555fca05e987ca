use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};

type Conn = DeferredConnection<SqliteConnection>;

fn sign_up(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, {
        let names = vec!["ada"];
        drop(names);
        names.len();
        Ok(())
    })
}

fn main() {}
