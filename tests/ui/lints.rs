//! Tasks and blocks under every lint that a careful library turns on: none of them may fire because of an expansion.
//!
//! `cargo clippy` has the last word here. Both editions compile this file.

#![deny(warnings, nonstandard_style, rust_2018_idioms, unused)]
#![deny(missing_docs, missing_debug_implementations, missing_copy_implementations, unreachable_pub)]
#![deny(clippy::all, clippy::pedantic, clippy::nursery)]
#![forbid(unsafe_code, unused_must_use, unused_imports, unused_qualifications, unused_lifetimes, unused_results)]

use std::path::Path;

use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};

/// A connection.
pub type Conn = DeferredConnection<SqliteConnection>;

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
