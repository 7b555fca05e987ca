//! The statements that a connection sends, as Diesel's instrumentation sees them.

use std::sync::{Arc, Mutex, PoisonError};

use diesel::connection::{Connection, Instrumentation, InstrumentationEvent};
use diesel_async::AsyncConnection;
use diesel_deferred::{Deferrable, DeferredConnection};

/// The messages that were sent, in order. One message may hold several statements.
#[derive(Debug, Clone, Default)]
pub struct Statements(Arc<Mutex<Vec<String>>>);

impl Statements {
    /// Takes what was recorded so far.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn recorder(&self) -> impl Instrumentation + use<> {
        let sink = self.clone();
        move |event: InstrumentationEvent<'_>| {
            if let InstrumentationEvent::StartQuery { query, .. } = event {
                let text = query.to_string();
                sink.push(text.split(" -- binds").next().unwrap_or_default());
            }
        }
    }

    fn push(&self, text: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
    }
}

/// Records what `conn` sends from now on.
pub fn record<C: Deferrable>(conn: &mut DeferredConnection<C>) -> Statements {
    let statements = Statements::default();
    conn.set_instrumentation(statements.recorder());
    statements
}

/// Records which statements `conn` prepares from now on, and keeps prepared.
pub fn record_kept<C: Deferrable>(conn: &mut DeferredConnection<C>) -> Statements {
    let statements = Statements::default();
    let sink = statements.clone();
    conn.set_instrumentation(move |event: InstrumentationEvent<'_>| {
        if let InstrumentationEvent::CacheQuery { sql, .. } = event {
            sink.push(sql);
        }
    });
    statements
}

/// [`record`], of an asynchronous connection of any kind.
pub fn record_async<C: AsyncConnection>(conn: &mut C) -> Statements {
    let statements = Statements::default();
    conn.set_instrumentation(statements.recorder());
    statements
}

/// Whether it is a COMMIT with a notification behind it, which few of a process's are.
pub fn notifies(sql: &str) -> bool {
    sql.ends_with("; NOTIFY deferred_tasks")
}

/// A COMMIT without its notification; any other message as it is.
pub fn without_notification(sql: &str) -> &str {
    let (_, commit) = sql.split_once("SET diesel_deferred.committed = ").unwrap_or(("", sql));
    let Some((commit, _)) = commit.split_once("; SET LOCAL lock_timeout") else { return sql };
    commit.split_once("; ").map_or(sql, |(_, commit)| commit)
}
