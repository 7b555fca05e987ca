//! What the wrapper sees of the statements that pass through it: enough to know when a commit needs
//! proof and when a failed block is worth another attempt.
//!
//! Must not know: hooks.

use std::sync::Arc;
#[cfg(feature = "async")]
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use diesel::query_builder::QueryId;
use diesel::result::{Error, QueryResult};

use super::ending::Doubt;
use super::proof::{ends_transaction, is_conflict};

/// What was seen in the current outermost transaction. A clone is another handle to the same: rows
/// tell of their errors without borrowing the connection, which may send other queries while they
/// are read.
///
/// Relaxed throughout: whoever decides by it has the connection by `&mut`, so was synchronised with
/// by other means.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch(Arc<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// A [`Doubt`].
    doubt: AtomicU8,
    conflict: AtomicBool,
    lost: AtomicBool,
    /// How many results are being read.
    #[cfg(feature = "async")]
    reading: AtomicUsize,
}

impl Watch {
    #[inline]
    pub(crate) fn doubt(&self) -> Doubt {
        #[cfg(feature = "async")]
        if self.0.reading.load(Ordering::Relaxed) > 0 {
            // The server may have met an error that nobody has read yet.
            return Doubt::Unseen;
        }
        let doubt = self.0.doubt.load(Ordering::Relaxed);
        [Doubt::None, Doubt::Failed, Doubt::RawSql]
            .into_iter()
            .find(|known| *known as u8 == doubt)
            .unwrap_or(Doubt::Unseen)
    }

    /// Whether a statement failed because of another transaction, so that the block may succeed
    /// when it is run again.
    pub(crate) fn saw_conflict(&self) -> bool {
        self.0.conflict.load(Ordering::Relaxed)
    }

    /// Whether a statement failed with an error that ends the whole transaction on the server,
    /// unannounced.
    pub(crate) fn lost_transaction(&self) -> bool {
        self.0.lost.load(Ordering::Relaxed)
    }

    pub(crate) fn set_conflict(&self, conflict: bool) {
        self.0.conflict.store(conflict, Ordering::Relaxed);
    }

    /// Another transaction begins. What is being read stays so.
    #[inline]
    pub(crate) fn reset(&self) {
        self.0.doubt.store(Doubt::None as u8, Ordering::Relaxed);
        self.0.conflict.store(false, Ordering::Relaxed);
        self.0.lost.store(false, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn suspect(&self, doubt: Doubt) {
        // Mostly it is known already, and reading costs less.
        if self.0.doubt.load(Ordering::Relaxed) < doubt as u8 {
            self.0.doubt.fetch_max(doubt as u8, Ordering::Relaxed);
        }
    }

    /// Notes what kind of query is about to run. One without a static identity is raw SQL, or may
    /// hold some.
    #[inline]
    pub(crate) fn query<T: QueryId>(&self) {
        if !T::HAS_STATIC_QUERY_ID {
            self.suspect(Doubt::RawSql);
        }
    }

    pub(crate) fn result<T>(&self, result: QueryResult<T>) -> QueryResult<T> {
        if let Err(error) = &result {
            self.error(error);
        }
        result
    }

    #[cold]
    pub(crate) fn error(&self, error: &Error) {
        self.suspect(Doubt::Failed);
        if is_conflict(error) {
            self.set_conflict(true);
        }
        if ends_transaction(error) {
            self.0.lost.store(true, Ordering::Relaxed);
        }
    }

    /// Rows are to be read, whose errors are seen only then.
    #[cfg(feature = "async")]
    pub(crate) fn read(self) -> Reading {
        self.0.reading.fetch_add(1, Ordering::Relaxed);
        Reading(Some(self))
    }
}

/// A result that is being read. Dropped before its end, an error in it may not have been seen.
#[cfg(feature = "async")]
pub(crate) struct Reading(Option<Watch>);

#[cfg(feature = "async")]
impl Reading {
    pub(crate) fn saw(&self, error: Option<&Error>) {
        if let (Some(watch), Some(error)) = (&self.0, error) {
            watch.error(error);
        }
    }

    /// There is nothing left to be read.
    pub(crate) fn end(&mut self) {
        if let Some(watch) = self.0.take() {
            watch.0.reading.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(feature = "async")]
impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(watch) = &self.0 {
            watch.suspect(Doubt::Unseen);
        }
        self.end();
    }
}

/// A cursor whose errors are seen: SQLite reports a statement's failure at its first row only.
#[allow(missing_debug_implementations, reason = "cursors of Diesel's have none")]
pub struct Watched<I> {
    pub(super) rows: I,
    pub(super) watch: Watch,
}

impl<I, T> Iterator for Watched<I>
where
    I: Iterator<Item = QueryResult<T>>,
{
    type Item = QueryResult<T>;

    fn next(&mut self) -> Option<Self::Item> {
        self.rows.next().map(|row| self.watch.result(row))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.rows.size_hint()
    }
}

impl<I, T> ExactSizeIterator for Watched<I>
where
    I: ExactSizeIterator<Item = QueryResult<T>>,
{
    fn len(&self) -> usize {
        self.rows.len()
    }
}
