//! Tasks and blocks under every lint that a careful library turns on: none of them may fire because of an expansion.
//!
//! `cargo clippy` has the last word here. Both editions compile this file.

#![deny(warnings, nonstandard_style, rust_2018_idioms, unused)]
#![deny(missing_docs, missing_debug_implementations, missing_copy_implementations, unreachable_pub)]
#![deny(clippy::all, clippy::pedantic, clippy::nursery)]
// Not forbidden: serde's derives, which an argument with `#[serde(…)]` gets, allow it on what they write.
#![deny(unused_qualifications)]
#![forbid(unsafe_code, unused_must_use, unused_imports, unused_lifetimes, unused_results)]

use std::path::Path;

use diesel::prelude::*;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_deferred::{AsyncDeferredConnection, DeferredConnection, atomic, deferred_task};

/// A connection.
pub type Conn = DeferredConnection<SqliteConnection>;

/// An asynchronous connection.
pub type AsyncConn = AsyncDeferredConnection<SyncConnectionWrapper<SqliteConnection>>;

/// Sends a mail.
#[deferred_task]
pub fn send_welcome(user_id: i32, email: &str) {
    println!("{user_id} {email}");
}

/// Fails.
///
/// # Errors
/// Always.
#[deferred_task]
pub fn resize(path: &Path, sizes: &[u32]) -> Result<(), std::fmt::Error> {
    println!("{} {sizes:?}", path.display());
    Err(std::fmt::Error)
}

/// Is generic.
#[deferred_task]
pub fn print<T: std::fmt::Debug + Clone + Send + 'static>(value: &T, often: u32) {
    for _ in 0..often {
        println!("{value:?}");
    }
}

#[deferred_task]
fn private(flag: bool) {
    println!("{flag}");
}

#[deferred_task]
pub(crate) fn crate_wide() {}

/// Registers a task of each kind.
///
/// # Errors
/// What the database returns.
pub fn sign_up(conn: &mut Conn, users: &[(i32, String)]) -> QueryResult<usize> {
    atomic!(conn, {
        for (id, email) in users {
            send_welcome(*id, email);
            if email.is_empty() {
                private(true);
            } else {
                private(false);
            }
            match id {
                1 => crate_wide(),
                2 => print(id, 1),
                _ => {}
            }
        }
        resize(Path::new("avatar.png"), &[16, 32]);
        let committed = atomic!(conn, outermost, -> QueryResult<()>, {
            private(true);
            Ok(())
        });
        committed?;
        Ok(users.len())
    })
}

/// Sends mails.
#[derive(Debug, Clone)]
pub struct Mailer {
    from: String,
}

/// Is spawned.
///
/// # Errors
/// Where there is no sender.
#[deferred_task]
pub async fn send_receipt(#[state] mailer: &Mailer, order_id: i64, to: &str) -> Result<(), std::fmt::Error> {
    std::future::ready(()).await;
    println!("{order_id} {to} {}", mailer.from);
    if mailer.from.is_empty() { Err(std::fmt::Error) } else { Ok(()) }
}

/// Blocks.
#[deferred_task(blocking)]
pub fn archive(path: &Path, #[state] mailer: Mailer) {
    let from = mailer.from.into_boxed_str();
    println!("{} {from}", path.display());
}

/// Is stored.
#[deferred_task(durable, queue = "mail", unique, key = "reminder-{user_id}")]
pub async fn send_reminder(#[state] mailer: &Mailer, user_id: i32, email: &str, #[serde(default)] late: Option<bool>) {
    std::future::ready(()).await;
    println!("{user_id} {email} {late:?} {}", mailer.from);
}

/// Is stored, and blocks.
///
/// # Errors
/// Where there is nothing to delete.
#[deferred_task(
    durable,
    queue = "files",
    max_attempts = 3,
    priority = -1,
    backoff = "1s",
    unique = "replace",
    key = "files"
)]
pub fn delete(path: &Path, sizes: &[u32], names: &[String]) -> Result<(), std::fmt::Error> {
    println!("{} {sizes:?} {names:?}", path.display());
    Err(std::fmt::Error)
}

#[deferred_task(durable)]
fn never_called_with_options() {}

#[deferred_task]
async fn print_later<T: std::fmt::Debug + Clone + Send + Sync + 'static>(value: &T) {
    std::future::ready(()).await;
    println!("{value:?}");
}

/// Registers a task of each kind, on an asynchronous connection.
///
/// # Errors
/// What the database returns.
pub async fn order(conn: &mut AsyncConn, orders: &[(i64, String)], attempts: u32) -> QueryResult<usize> {
    atomic!(conn, retries = attempts, async {
        for (id, to) in orders {
            send_receipt(*id, to);
            if to.is_empty() {
                print_later(id);
            } else {
                std::future::ready(()).await;
            }
            send_reminder(1, to, None).delay(std::time::Duration::from_secs(5)).priority(2);
            never_called_with_options();
            match id {
                1 => crate_wide(),
                3 => delete(Path::new("order.pdf"), &[1], &[]),
                2 => archive(Path::new("order.pdf")),
                _ => {}
            }
        }
        let committed = atomic!(conn, outermost, -> QueryResult<()>, async {
            private(true);
            Ok(())
        });
        committed.await?;
        atomic!(conn, -> QueryResult<()>, async move { Ok(()) }).await?;
        Ok(orders.len())
    })
    .await
}
