//! `assert_enqueued!`: looks for the rows of durable tasks, by a connection or by a pool.
//!
//! Must not know: how rows are compared.

use std::panic::Location;

use super::expected::{Expectable, Expected, HasRows};
use super::found::fail_at;
use super::kind::Kind;
use super::on_connection::look_at_rows;
use super::rows::TaskRows;

/// What rows can be looked for by: a deferring connection. Behind one that is asynchronous the
/// assertion is awaited.
pub trait Enqueued: TaskRows + Kind {
    /// For [`assert_enqueued!`](crate::assert_enqueued).
    ///
    /// # Panics
    /// Where there is no such row.
    #[doc(hidden)]
    #[track_caller]
    fn assert_enqueued<'c, T>(&'c mut self, expected: Expected<T>) -> Self::Done<'c, ()>
    where
        T: Expectable + HasRows + 'static,
    {
        let caller = Location::caller();
        Self::done(async move { fail_at(caller, look_at_rows(caller, self, expected).await.missing()) })
    }

    /// For [`refute_enqueued!`](crate::refute_enqueued).
    ///
    /// # Panics
    /// Where there is such a row.
    #[doc(hidden)]
    #[track_caller]
    fn refute_enqueued<'c, T>(&'c mut self, expected: Expected<T>) -> Self::Done<'c, ()>
    where
        T: Expectable + HasRows + 'static,
    {
        let caller = Location::caller();
        Self::done(async move { fail_at(caller, look_at_rows(caller, self, expected).await.unwanted()) })
    }
}

impl<W: TaskRows + Kind> Enqueued for W {}
