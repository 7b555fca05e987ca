//! The test kit: what is called, without running it; what is stored; and running it here and now.
//!
//! It is for `[dev-dependencies]`:
//!
//! ```toml
//! [dev-dependencies]
//! diesel-deferred = { version = "0.1", features = ["testing"] }
//! ```
//!
//! | to | use |
//! |---|---|
//! | see which calls a block made, without running them | [`capture`], [`capture_async`] |
//! | assert a call, with `_` for what may be anything | [`assert_deferred!`](crate::assert_deferred), [`refute_deferred!`](crate::refute_deferred) |
//! | assert a row of a durable task | [`assert_enqueued!`](crate::assert_enqueued), [`refute_enqueued!`](crate::refute_enqueued) |
//! | run the durable tasks that are stored | [`drain`] |
//! | run one durable task, without a database | [`perform`] |
//! | call a task's body that takes an `Attempt` | [`Attempt::for_test`](crate::Attempt::for_test) |
//! | have all calls held back, or run to their end at once | [`set_mode`], [`take_held`] |
//! | have a pool of one connection in a test transaction | [`TestPool`] |
//! | fail a test that has lost calls | [`no_lost_calls`] |
//! | let time pass | [`advance`] |
//! | know that the rows of earlier releases can still be read | [`payloads!`](crate::payloads) |
//!
//! On a synchronous connection the functions return a value, on an asynchronous one a future of it.
//! Nothing of the kit is of the whole process: tests may run at the same time.
//!
//! Must not know: how a transaction ends, or how a worker works.

mod capture;
mod check;
mod drain;
mod enqueued;
mod expected;
mod found;
mod kind;
mod lends;
mod on_connection;
#[doc(hidden)]
pub mod payloads;
mod perform;
mod pool;
mod rows;
mod seen;

use std::panic::Location;
use std::time::Duration;

pub use self::capture::{BlockResult, Captured, capture, capture_async};
pub use self::check::{LostCalls, NoLostCalls, no_lost_calls};
pub use self::drain::{Drain, Drained, drain, set_mode};
pub use self::enqueued::Enqueued;
pub use self::expected::{Comparison, Expectable, Expected, HasRows};
pub use self::kind::Kind;
pub use self::lends::{Lending, Lends};
pub use self::perform::{Perform, perform};
pub use self::pool::{TestPool, TestablePool};
pub use self::rows::TaskRows;
use self::rows::no_rows;
pub use crate::connection::Mode;
use crate::durable::by_hand;

/// What the expansions of tasks name.
#[doc(hidden)]
pub mod expansion {
    pub use super::expected::{Comparison, Expectable, Expected, Incomparable, Read, Same, Text, Unshown, read};
}

/// Takes the calls that the connection holds back in [`Mode::Manual`]: to look at them, or to run them.
pub fn take_held<W: TaskRows + Kind>(conn: &mut W) -> Captured<W, ()> {
    Captured::new((), conn.keeper().held().take_calls())
}

/// Lets time pass for the durable tasks that are stored: what waits is due so much earlier, and leases
/// end so much earlier. All their times go back, so that a call that was to run at a time is due
/// earlier than that by the clock. It is awaited on an asynchronous connection.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use diesel::prelude::*;
/// use diesel_deferred::testing::{advance, drain};
/// use diesel_deferred::{DeferredConnection, atomic, deferred_task};
/// use diesel_migrations::MigrationHarness;
///
/// #[deferred_task(durable)]
/// fn remind(user_id: i32) {
///     println!("user {user_id}");
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let conn = &mut DeferredConnection::<SqliteConnection>::establish(":memory:")?;
/// conn.run_pending_migrations(diesel_deferred::migrations())?;
/// atomic!(conn, -> QueryResult<()>, {
///     remind(7).delay(Duration::from_secs(24 * 60 * 60)).after_commit(conn)?;
///     Ok(())
/// })?;
/// assert_eq!(drain(conn).run().ran(), 0, "it is due tomorrow");
/// advance(conn, Duration::from_secs(24 * 60 * 60));
/// assert_eq!(drain(conn).run().ran(), 1);
/// # Ok(())
/// # }
/// ```
///
/// # Panics
/// Where the rows cannot be changed.
#[track_caller]
pub fn advance<W: TaskRows + Kind>(conn: &mut W, by: Duration) -> W::Done<'_, ()> {
    let caller = Location::caller();
    W::done(async move {
        let by_ms = i64::try_from(by.as_millis()).unwrap_or(LONGEST_MS).min(LONGEST_MS);
        for statement in by_hand::advance(by_ms) {
            if let Err(error) = conn.change(statement).await {
                no_rows(caller, &error);
            }
        }
    })
}

/// Ten years: times are not to be before 1970.
const LONGEST_MS: i64 = 10 * 365 * 24 * 60 * 60 * 1_000;

/// Asserts that a call waits, or was captured: `assert_deferred!(conn, send_welcome(7, _))`.
///
/// It looks on a connection: at what waits for the COMMIT of a transaction that is open, and at what it
/// holds back ([`Mode::Manual`](crate::testing::Mode::Manual)); or at what was
/// [captured](crate::testing::capture()); or, awaited where its connections are asynchronous, by a
/// [`TestPool`](crate::testing::TestPool). `_` is for an argument that may be anything, and what
/// the call's options are to be is said behind it: see [`Expected`](crate::testing::Expected). Where
/// there is no such call the test fails, with what there is instead, as a diff.
///
/// Arguments are compared as their `PartialEq` does, and as their `Debug` shows them where they have
/// none. An example is on [`capture`](crate::testing::capture()).
#[macro_export]
macro_rules! assert_deferred {
    ($($call:tt)*) => {
        $crate::__private_0_1_0::assertion!(assert_deferred, $($call)*)
    };
}

/// Asserts that no such call waits, or was captured: the opposite of
/// [`assert_deferred!`].
#[macro_export]
macro_rules! refute_deferred {
    ($($call:tt)*) => {
        $crate::__private_0_1_0::assertion!(refute_deferred, $($call)*)
    };
}

/// Asserts that a call of a durable task is stored, and waits or runs:
/// `assert_enqueued!(conn, send_receipt(7, _).queue("mail"))`.
///
/// It looks by a connection: at its rows, also those of the transaction that is open, and at the calls
/// that are about to become rows; or by a [`TestPool`](crate::testing::TestPool). On an asynchronous
/// connection it is awaited. For the rest see [`assert_deferred!`]; an example is on
/// [`drain`](crate::testing::drain()).
#[macro_export]
macro_rules! assert_enqueued {
    ($($call:tt)*) => {{
        #[allow(unused_imports)]
        use $crate::testing::Enqueued as _;
        $crate::__private_0_1_0::assertion!(assert_enqueued, $($call)*)
    }};
}

/// Asserts that no such call of a durable task is stored: the opposite of
/// [`assert_enqueued!`].
#[macro_export]
macro_rules! refute_enqueued {
    ($($call:tt)*) => {{
        #[allow(unused_imports)]
        use $crate::testing::Enqueued as _;
        $crate::__private_0_1_0::assertion!(refute_enqueued, $($call)*)
    }};
}

/// Compares the payloads of durable tasks with a golden file: `payloads!("payloads.json", [send_receipt(7,
/// "ada@example.org")])`.
///
/// The file is beside the `Cargo.toml`, and has what each release writes for a call of each task. The
/// test fails
/// * where this program cannot read what an earlier release wrote: it says which release, and why;
/// * where a payload is new: `UPDATE_PAYLOADS=1 cargo test` adds it, as one of this release, and takes
///   nothing out (`UPDATE_PAYLOADS=replace` takes out what this release had written otherwise);
/// * where a durable task of the crate is not in the list, unless it has a `name = "…"`.
///
/// Keep the arguments of the samples as they are: another value is another payload. Of a `HashSet` or
/// `HashMap` take one element: more have another order each time.
///
/// # Examples
/// ```standalone_crate
/// use diesel_deferred::{deferred_task, payloads};
///
/// #[deferred_task(durable)]
/// fn send_receipt(order_id: i32, email: &str) {
///     println!("order {order_id}: {email}");
/// }
///
/// # let file = std::env::temp_dir().join(format!("payloads-{}.json", std::process::id()));
/// # let file = file.to_str().unwrap();
/// # let (task, payload) = (concat!(module_path!(), "::send_receipt"), r#"{"email":"ada@example.org","order_id":7}"#);
/// # std::fs::write(file, format!(r#"{{"{task}": [{{"release": "0.1.0", "payload": {payload}}}]}}"#)).unwrap();
/// # struct Removed<'f>(&'f str);
/// # impl Drop for Removed<'_> { fn drop(&mut self) { let _ = std::fs::remove_file(self.0); } }
/// # let _removed = Removed(file);
/// payloads!(file, [send_receipt(7, "ada@example.org")]);
/// ```
#[macro_export]
macro_rules! payloads {
    ($file:expr, [$($call:expr),* $(,)?]) => {
        $crate::testing::payloads::check(
            $crate::testing::payloads::Program {
                folder: ::core::env!("CARGO_MANIFEST_DIR"),
                release: ::core::env!("CARGO_PKG_VERSION"),
                module: ::core::module_path!(),
            },
            $file,
            &[$($crate::testing::payloads::sample($call)),*],
        )
    };
}
