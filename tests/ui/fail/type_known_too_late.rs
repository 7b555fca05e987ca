use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};

type Conn = DeferredConnection<SqliteConnection>;

#[deferred_task]
fn send(user_id: i32) {
    println!("{user_id}");
}

struct User;

fn sign_up(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, {
        let mut users = Vec::new();
        users.swap_remove(0);
        users.push(User);
        send(1);
        Ok(())
    })
}

fn in_a_closure(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, {
        let mut cache = std::collections::HashMap::new();
        (0..3).for_each(|id| {
            cache.insert(id, Vec::new());
        });
        cache.entry(1).or_default().push(User);
        Ok(())
    })
}

fn main() {}
