//! The tasks that the tests call, and what the tests say in the same words.

use diesel::result::QueryResult;
use diesel_deferred::{AsyncDeferredConnection, DeferredConnection, deferred_task};
use diesel_deferred_tests::{AsyncDatabase, Database, Scratch, without_notification};

#[deferred_task(durable, name = "first")]
pub fn first(id: i32) {
    let _ = id;
}

#[deferred_task(durable, name = "second")]
pub async fn second(text: &str) {
    let _ = text;
}

#[deferred_task(durable, name = "third", queue = "thirds", priority = 3, max_attempts = 7)]
pub fn third(id: i64, flag: bool) {
    let _ = (id, flag);
}

/// The one that waits stays.
#[deferred_task(durable, name = "keep", unique, key = "{id}")]
pub fn keep(id: i32, text: &str) {
    let _ = (id, text);
}

/// The new one takes its place.
#[deferred_task(durable, name = "replace", unique = "replace", key = "{id}")]
pub fn replace(id: i32, text: &str) {
    let _ = (id, text);
}

/// A deferring connection to a database with the table of durable tasks in it.
pub fn ready<C: Database>(db: &Scratch<C>) -> DeferredConnection<C> {
    C::migrate(&mut db.observer());
    db.connect()
}

/// The same by diesel-async.
pub async fn ready_async<A: AsyncDatabase>(db: &Scratch<A::Blocking>) -> AsyncDeferredConnection<A> {
    A::Blocking::migrate(&mut db.observer());
    db.connect_async::<A>().await
}

/// The rows, as `task payload`.
pub fn stored<C: Database>(db: &Scratch<C>) -> Vec<String> {
    db.tasks().into_iter().map(|row| format!("{} {}", row.task, row.payload)).collect()
}

/// C12
pub fn assert_not_in_transaction<T: std::fmt::Debug>(result: QueryResult<T>) {
    assert!(matches!(&result, Err(error) if diesel_deferred::CommitError::is_not_in_transaction(error)), "{result:?}");
}

/// How many rows there are.
pub fn count<C: Database>(db: &Scratch<C>) -> i64 {
    C::number(&mut db.observer(), "SELECT COUNT(*) AS number FROM deferred_tasks")
}

/// What to expect of calls of `first`.
pub fn firsts(ids: impl IntoIterator<Item = i32>) -> Vec<String> {
    ids.into_iter().map(|id| format!("first {{\"id\":{id}}}")).collect()
}

/// An array in an array, and so on, this many.
pub fn nested(levels: usize) -> serde_json::Value {
    (1..levels).fold(serde_json::json!([]), |inner, _| serde_json::Value::Array(vec![inner]))
}

/// Whether it is the statement that writes rows.
pub fn is_insert(sql: &str) -> bool {
    sql.contains("INSERT INTO deferred_tasks")
}

/// The messages with those that write rows cut short.
pub fn in_short(sent: Vec<String>) -> Vec<String> {
    sent.into_iter()
        .map(|sql| if is_insert(&sql) { "INSERT".to_owned() } else { without_notification(&sql).to_owned() })
        .collect()
}

/// The next block commits, with its own row and no other.
pub fn assert_usable<C: Database>(db: &Scratch<C>, conn: &mut DeferredConnection<C>) {
    assert!(!conn.in_transaction(), "a transaction is open");
    assert_eq!(conn.pending(), [], "calls were left");
    let before = stored(db);
    diesel_deferred::atomic!(conn, -> QueryResult<()>, {
        first(-1);
        Ok(())
    })
    .expect("the next block commits");
    assert_eq!(stored(db), [before, firsts([-1])].concat(), "the next block stores its own call only");
    db.run_sql("DELETE FROM deferred_tasks WHERE payload = '{\"id\":-1}'");
}

/// The same of an asynchronous connection.
pub async fn assert_usable_async<A: AsyncDatabase>(db: &Scratch<A::Blocking>, conn: &mut AsyncDeferredConnection<A>) {
    assert!(!conn.in_transaction(), "a transaction is open");
    assert_eq!(conn.pending(), [], "calls were left");
    let before = stored(db);
    diesel_deferred::atomic!(conn, -> QueryResult<()>, async {
        first(-1);
        Ok(())
    })
    .await
    .expect("the next block commits");
    assert_eq!(stored(db), [before, firsts([-1])].concat(), "the next block stores its own call only");
    db.run_sql("DELETE FROM deferred_tasks WHERE payload = '{\"id\":-1}'");
}
