use diesel::SqliteConnection;
use diesel_deferred::{DeferredConnection, Worker};

fn main() {
    let _ = Worker::<SqliteConnection>::builder("app.db");
    let _ = Worker::<DeferredConnection<SqliteConnection>>::builder("app.db");
}
