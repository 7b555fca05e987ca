use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel_deferred::*;
diesel::table! { users { id -> Integer, email -> Text, } }

#[deferred_task]
fn send_welcome(user_id: i32, email: &str) -> Result<(), String> {
    println!("welcome {user_id} {email}");
    if user_id == 2 {
        return Err("two".into());
    }
    Ok(())
}
#[deferred_task]
fn show<T: std::fmt::Display + Send + 'static>(x: T, y: &[u8]) {
    println!("{x} {y:?}");
}

fn main() {
    let conn = &mut DeferredConnection::<SqliteConnection>::establish(":memory:").unwrap();
    conn.batch_execute("CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT NOT NULL)").unwrap();
    let r: QueryResult<()> = atomic!(conn, {
        for i in 1..4 {
            let email = format!("u{i}@x");
            diesel::insert_into(users::table).values((users::id.eq(i), users::email.eq(&email))).execute(conn)?;
            send_welcome(i, &email);
            if i == 3 {
                show("abc", &[1, 2])
            }
            let _: QueryResult<()> = atomic!(conn, {
                send_welcome(i * 10, "nested");
                if i == 2 {
                    return Err(diesel::result::Error::RollbackTransaction);
                }
                Ok(())
            });
        }
        for p in conn.pending() {
            println!("pending {p}");
        }
        Ok(())
    });
    println!("{r:?} {}", conn.last_report());
}
