use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic};

type Conn = DeferredConnection<SqliteConnection>;

fn first(conn: &mut Conn, ids: &[i32]) -> QueryResult<()> {
    for id in ids {
        atomic!(conn, -> QueryResult<()>, {
            if *id > 5 {
                break;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn main() {}
