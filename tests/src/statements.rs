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
                let text = text.split(" -- binds").next().unwrap_or_default().to_owned();
                sink.0.lock().unwrap_or_else(PoisonError::into_inner).push(text);
            }
        }
    }
}

/// Records what `conn` sends from now on.
pub fn record<C: Deferrable>(conn: &mut DeferredConnection<C>) -> Statements {
    let statements = Statements::default();
    conn.set_instrumentation(statements.recorder());
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
