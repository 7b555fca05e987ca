use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};

type Conn = DeferredConnection<SqliteConnection>;

struct Repository {
    conn: Conn,
}

impl Repository {
    fn nothing(&mut self) -> QueryResult<()> {
        atomic!(self.conn, { Ok(()) })
    }
}

fn main() {}
