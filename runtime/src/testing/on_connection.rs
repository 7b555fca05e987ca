//! What the assertions call on a deferring connection.
//!
//! Must not know: how calls are compared.

use diesel::result::QueryResult;

use super::expected::{Expectable, Expected};
use super::found::{Found, fail};
use super::rows::{StoredTask, TaskRows};
use super::seen::Seen;
use crate::connection::{AsyncDeferredConnection, DeferredConnection};
use crate::durable::by_hand;

/// How many rows are looked at: a test has few.
const ROWS: i64 = 10_000;

macro_rules! on_both_kinds {
    ($connection:ident) => {
        impl<C> $connection<C> {
            /// For [`assert_deferred!`](crate::assert_deferred).
            ///
            /// # Panics
            /// Where there is no such call.
            #[doc(hidden)]
            #[track_caller]
            #[allow(clippy::needless_pass_by_value, reason = "the macro writes it as a value")]
            pub fn assert_deferred<T: Expectable + 'static>(&self, expected: Expected<T>) {
                let found = look(&expected, |see| self.keeper.show_calls(&mut |call| see(Seen::waiting(call))));
                fail(found.missing());
            }

            /// For [`refute_deferred!`](crate::refute_deferred).
            ///
            /// # Panics
            /// Where there is such a call.
            #[doc(hidden)]
            #[track_caller]
            #[allow(clippy::needless_pass_by_value, reason = "the macro writes it as a value")]
            pub fn refute_deferred<T: Expectable + 'static>(&self, expected: Expected<T>) {
                let found = look(&expected, |see| self.keeper.show_calls(&mut |call| see(Seen::waiting(call))));
                fail(found.unwanted());
            }
        }
    };
}

on_both_kinds!(DeferredConnection);
on_both_kinds!(AsyncDeferredConnection);

pub(super) fn look<T: Expectable + 'static>(
    expected: &Expected<T>,
    show: impl FnOnce(&mut dyn FnMut(Seen<'_>)),
) -> Found {
    Found::look(expected, "on the connection", show)
}

/// Looks for rows, and for calls that are about to become some.
pub(super) async fn look_at_rows<W, T>(conn: &mut W, expected: Expected<T>) -> Found
where
    W: TaskRows,
    T: Expectable + 'static,
{
    let rows: QueryResult<Vec<StoredTask>> = conn.load(by_hand::live(ROWS)).await;
    let rows = rows.unwrap_or_else(|error| panic!("the rows of durable tasks cannot be read: {error}"));
    Found::look(&expected, "among the rows of durable tasks", |see| {
        rows.iter().for_each(|row| see(Seen::row(row)));
        conn.keeper().show_waiting_rows(&mut |call| see(Seen::waiting(call)));
    })
}
