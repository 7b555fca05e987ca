//! What the assertions call on a deferring connection.
//!
//! Must not know: how calls are compared.

use std::panic::Location;

use diesel::result::QueryResult;

use super::expected::{Expectable, Expected};
use super::found::{Found, fail};
use super::rows::{StoredTask, TaskRows, no_rows};
use super::seen::Seen;
use crate::connection::{AsyncDeferredConnection, DeferredConnection};
use crate::durable::by_hand;

/// How many rows of other tasks are shown where the one that is looked for is not there.
const OTHERS: i64 = 20;

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
    let hint = "a call of a durable task is a row when it is committed: look for that with `assert_enqueued!`";
    Found::look(expected, "on the connection", show).or_else(T::read("").is_some().then_some(hint))
}

/// Looks for rows, and for calls that are about to become some.
pub(super) async fn look_at_rows<W, T>(caller: &Location<'_>, conn: &mut W, expected: Expected<T>) -> Found
where
    W: TaskRows,
    T: Expectable + 'static,
{
    let of_task: QueryResult<Vec<StoredTask>> = conn.load(by_hand::live(T::NAME)).await;
    let mut rows = of_task.unwrap_or_else(|error| no_rows(caller, &error));
    rows.extend(conn.load(by_hand::others(T::NAME, OTHERS)).await.unwrap_or_else(|error| no_rows(caller, &error)));
    Found::look(&expected, "among the rows of durable tasks", |see| {
        rows.iter().for_each(|row| see(Seen::row(row)));
        conn.keeper().show_waiting_rows(&mut |call| see(Seen::waiting(call)));
    })
}
