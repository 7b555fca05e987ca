//! What users call on a deferring connection of either kind, and its docs: written once.
//!
//! Must not know: whether the connection is asynchronous.

/// The methods that are the same on both kinds.
macro_rules! on_both_kinds {
    ($connection:ident where C: $deferrable:path) => {
        impl<C> $connection<C> {
            /// Wraps a connection.
            ///
            /// A transaction that is open on it already counts: hooks wait for its commit, if that
            /// goes through the wrapper.
            pub fn new(inner: C) -> Self {
                Self { inner, keeper: Keeper::new() }
            }

            /// Gives the wrapped connection back. What waits is dropped and never runs.
            pub fn into_inner(self) -> C {
                self.inner
            }

            /// The wrapped connection.
            ///
            /// Statements that run there are not seen by the wrapper, so the commit of the
            /// transaction around them is proven even where nothing waits.
            pub fn inner_mut(&mut self) -> &mut C {
                self.keeper.watch.suspect(Doubt::Unseen);
                &mut self.inner
            }

            /// What became of the hooks of the last outermost transaction. Tasks that a dispatcher
            /// runs count as soon as they are started or wait for their turn; its failure handler
            /// is told how they end.
            ///
            /// # Examples
            /// ```
            /// use diesel::prelude::*;
            /// use diesel_deferred::{DeferredConnection, atomic};
            ///
            /// # fn main() -> QueryResult<()> {
            /// let conn = &mut DeferredConnection::<SqliteConnection>::establish(":memory:").expect("in memory");
            /// atomic!(conn, {
            ///     conn.after_commit(|_| Err("the mail server is down"))?;
            ///     QueryResult::Ok(())
            /// })?; // committed: a failing hook changes nothing about that
            /// let [failure] = conn.last_report().failures() else { panic!("one failed") };
            /// assert_eq!(failure.cause.to_string(), "the mail server is down");
            /// # Ok(())
            /// # }
            /// ```
            pub fn last_report(&self) -> &Report {
                &self.keeper.report
            }

            /// Whether the hooks behind one that failed still run (`false`, the default) or are
            /// only [reported](Report::not_run) (`true`).
            pub fn stop_hooks_at_first_failure(&mut self, stop: bool) {
                self.keeper.stop_at_first_failure = stop;
            }

            /// What waits, in the order of registration: commit hooks, then rollback hooks, then
            /// before-commit hooks, then calls of durable tasks that are not stored yet.
            pub fn pending(&self) -> Vec<PendingHook> {
                self.keeper.pending()
            }

            /// Where `async` and `blocking` tasks of this connection run, in place of the
            /// [process's dispatcher](crate::Dispatcher::global).
            #[cfg(feature = "tokio")]
            pub fn set_dispatcher(&mut self, dispatcher: crate::Dispatcher) {
                self.keeper.route.0 = Some(dispatcher);
            }
        }

        impl<C: $deferrable> $connection<C> {
            /// Whether a transaction is open; a test transaction does not count. Sends no SQL.
            pub fn in_transaction(&mut self) -> bool {
                self.state().is_some_and(State::is_nested)
            }
        }

        impl<C> Sealed for $connection<C> {}

        impl<C: $deferrable> Deferring for $connection<C> {
            type Wrapped = C;
        }

        impl<C> fmt::Debug for $connection<C> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($connection)).field("hooks", &self.keeper).finish_non_exhaustive()
            }
        }
    };
}

pub(super) use on_both_kinds;
