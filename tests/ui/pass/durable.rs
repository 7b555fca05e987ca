//! Durable tasks: what may be written, and that it comes back as it went.

use std::path::PathBuf;
use std::time::Duration;

use diesel::prelude::*;
use diesel_deferred::{TaskId, atomic, deferred_task};

#[deferred_task(durable, queue = "mail", max_attempts = 5, priority = -1, timeout = "30s", backoff = "10s", unique, key = "receipt-{order_id}")]
async fn send_receipt(
    #[state] mailer: &String,
    order_id: i64,
    email: &str,
    #[state] count: u8,
) -> Result<(), std::fmt::Error> {
    println!("{mailer} {order_id} {email} {count}");
    Ok(())
}

#[deferred_task(durable)]
fn archive(path: PathBuf, r#type: Option<i32>, #[serde(default)] age: Duration, #[serde(rename = "x")] text: &str) {
    println!("{path:?} {type:?} {age:?} {text}");
}

#[test]
fn durable_calls_are_stored() {
    let conn = &mut super::super::connect();
    let result: QueryResult<()> = atomic!(conn, {
        send_receipt(1, "a@b").delay(Duration::from_secs(5)).key("k");
        let id: TaskId = archive(PathBuf::new(), None, Duration::ZERO, "t").after_commit(conn)?;
        let _ = id;
        Ok(())
    });
    result.unwrap_err();
    archive(PathBuf::new(), None, Duration::ZERO, "t").run();
}
