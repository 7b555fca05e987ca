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

/// Lints about a function's own signature: `expect` and `allow` on the function reach all that they are about, and nothing
/// else is said of what the function becomes.
pub mod signatures {
    use std::path::PathBuf;
    use std::sync::Arc;

    use diesel_deferred::deferred_task;

    /// The macro's own advice for an argument that is not needed.
    #[deferred_task]
    pub fn ping(_unused: i32) {}

    /// The same of a state, and of one that is stored.
    #[deferred_task(durable)]
    pub fn ping_with(#[state] _pool: &String, _unused: i32) {}

    /// The same of one that is spawned.
    #[deferred_task]
    pub async fn ping_later(#[state] __pool: String, _unused: i32, _text: &str) {
        std::future::ready(()).await;
    }

    /// Has flags.
    #[deferred_task]
    #[expect(clippy::fn_params_excessive_bools, reason = "it has flags")]
    pub fn flags(a: bool, b: bool, c: bool, d: bool) {
        println!("{a} {b} {c} {d}");
    }

    /// Has flags, and is stored.
    #[deferred_task(durable)]
    #[allow(clippy::fn_params_excessive_bools)]
    pub fn stored_flags(a: bool, b: bool, c: bool, d: bool) {
        println!("{a} {b} {c} {d}");
    }

    /// Has many arguments.
    #[deferred_task]
    #[expect(clippy::too_many_arguments)]
    pub fn many(a1: i32, a2: i32, a3: i32, a4: i32, a5: i32, a6: i32, a7: i32, a8: i32) {
        println!("{}", a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8);
    }

    /// Takes what it does not need.
    #[deferred_task]
    #[expect(clippy::needless_pass_by_value)]
    pub fn by_value(path: PathBuf) {
        println!("{}", path.display());
    }

    /// Takes a list by reference.
    #[deferred_task]
    #[expect(clippy::ptr_arg, dead_code)]
    fn list(path: &PathBuf, list: &Vec<i32>, text: &String) {
        println!("{list:?} {text} {}", path.display());
    }

    /// Takes a small value by reference.
    #[deferred_task]
    #[expect(clippy::trivially_copy_pass_by_ref, dead_code, reason = "a test")]
    fn small(number: &i32) {
        println!("{number}");
    }

    /// Takes options of options, in boxes.
    #[deferred_task]
    #[expect(clippy::option_option, clippy::box_collection, clippy::vec_box, clippy::redundant_allocation)]
    pub fn odd(one: Option<Option<i32>>, two: Box<Vec<i32>>, three: Vec<Box<i32>>, four: Box<Arc<i32>>) {
        drop((one, two, three, four));
    }

    /// Takes a complex type.
    #[deferred_task]
    #[expect(clippy::type_complexity)]
    pub fn complex(
        value: Vec<Vec<Box<(u32, u32, u32, u32)>>>,
        other: Option<Vec<Result<(i32, Vec<String>), Box<[Option<u8>]>>>>,
    ) {
        drop((value, other));
    }

    /// Is not named as Rust names functions.
    #[deferred_task]
    #[expect(non_snake_case)]
    pub fn Shout(loudLy: i32) {
        println!("{loudLy}");
    }

    /// Is not used.
    #[deferred_task]
    #[expect(dead_code)]
    fn unused(id: i32) {
        println!("{id}");
    }

    #[deferred_task]
    #[allow(dead_code)]
    fn unused_too(id: i32) {
        println!("{id}");
    }

    #[deferred_task]
    #[allow(missing_docs)]
    pub fn undocumented(id: i32) {
        println!("{id}");
    }

    #[deferred_task]
    #[expect(missing_docs)]
    pub fn undocumented_too(id: i32) {
        println!("{id}");
    }

    /// Has an argument that it does not use.
    #[deferred_task]
    #[expect(unused_variables)]
    pub fn unused_argument(id: i32) {}

    /// Changes its argument.
    #[deferred_task]
    pub fn mutable(mut id: i32) {
        id += 1;
        println!("{id}");
    }

    /// Old.
    #[deprecated]
    #[derive(Debug, Clone, Copy)]
    pub struct Old;

    /// Takes what is deprecated.
    #[deferred_task]
    #[expect(deprecated)]
    pub fn takes_old(old: Old) {
        println!("{old:?}");
    }

    /// Is deprecated.
    #[deferred_task]
    #[deprecated]
    pub fn is_old(id: i32) {
        println!("{id}");
    }

    /// Panics.
    ///
    /// # Panics
    /// Always.
    #[deferred_task]
    pub fn panics(id: i32) {
        panic!("{id}");
    }

    /// Its arguments have the names of many things.
    #[deferred_task]
    pub fn names(send: i32, f: i32, call: i32, states: i32, receiver: i32, conn: i32) {
        println!("{}", send + f + call + states + receiver + conn);
    }

    /// All of its fields end alike.
    #[deferred_task]
    pub fn fields(user_id: i32, order_id: i32, shop_id: i32, mail_id: i32) {
        println!("{}", user_id + order_id + shop_id + mail_id);
    }

    /// All lists of the standard library, by reference.
    #[deferred_task]
    #[expect(clippy::implicit_hasher, clippy::ref_option)]
    pub fn hashed(map: &std::collections::HashMap<String, i32>, option: &Option<String>) {
        println!("{map:?} {option:?}");
    }
}

/// Behind a `forbid` an `allow` of the expansion's would itself be an error.
#[forbid(dead_code, non_snake_case, missing_docs, clippy::all, clippy::pedantic)]
pub mod forbidden {
    use diesel_deferred::deferred_task;

    /// Runs here.
    #[deferred_task]
    pub fn here(id: i32, text: &str, flag: bool) {
        println!("{id} {text} {flag}");
    }

    /// Is stored.
    #[deferred_task(durable)]
    pub async fn stored(id: i32, text: &str, flag: bool) {
        std::future::ready(()).await;
        println!("{id} {text} {flag}");
    }
}
