//! Calls that a test looks at: those that wait on a connection, were captured, or are rows.
//!
//! Must not know: what is expected of them.

use std::any::Any;
use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use super::rows::StoredTask;
use crate::connection::{HeldCall, Waits};
use crate::durable::{NewTask, Schedule};
use crate::hook::Hook;
use crate::report::{HookKind, PendingHook};

/// A call.
pub(crate) struct Seen<'a> {
    pub(crate) task: Cow<'a, str>,
    /// As it was captured; of a row these are not shown, which may be `#[secret]`.
    pub(crate) arguments: String,
    /// When it runs, and where it was called or is stored.
    pub(crate) place: String,
    pub(crate) value: Value<'a>,
}

/// What it is.
pub(crate) enum Value<'a> {
    /// The captured call of a task.
    Call(&'a dyn Any),
    /// The row of a durable task.
    Row(Row<'a>),
    /// A closure.
    Closure,
}

/// What is stored of a call.
pub(crate) struct Row<'a> {
    pub(crate) payload: &'a str,
    pub(crate) queue: &'a str,
    pub(crate) key: Option<&'a str>,
    pub(crate) priority: i16,
    pub(crate) max_attempts: i32,
    pub(crate) due: WhenDue,
}

/// When it is due, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WhenDue {
    /// Since the call.
    pub(crate) after_ms: i64,
    /// Since 1970.
    pub(crate) at_ms: i64,
}

impl<'a> Seen<'a> {
    fn hook<W>(hook: &'a Hook<W>, kind: HookKind, depth: usize) -> Self {
        let value = hook.call().map_or(Value::Closure, Value::Call);
        Self::described(hook.describe(kind, depth), value)
    }

    fn stored(call: &'a NewTask, depth: usize) -> Self {
        let now_ms = now_ms();
        let due = match call.schedule {
            Schedule::Now => WhenDue { after_ms: 0, at_ms: now_ms },
            Schedule::AfterMs(after_ms) => WhenDue { after_ms, at_ms: now_ms.saturating_add(after_ms) },
            Schedule::AtMs(at_ms) => WhenDue { after_ms: at_ms.saturating_sub(now_ms), at_ms },
        };
        let row = Row {
            payload: call.payload(),
            queue: &call.queue,
            key: call.key.as_deref(),
            priority: call.priority,
            max_attempts: call.max_attempts.into(),
            due,
        };
        Self::described(call.describe(depth), Value::Row(row))
    }

    fn described(hook: PendingHook, value: Value<'a>) -> Self {
        let PendingHook { task, arguments, call_site, kind, .. } = hook;
        Self { task: task.into(), arguments, place: format!("{kind}, called at {call_site}"), value }
    }

    /// One that is stored.
    pub(super) fn row(row: &'a StoredTask) -> Self {
        let StoredTask { task, queue, state, .. } = row;
        let value = Value::Row(Row {
            payload: &row.payload,
            queue,
            key: row.key.as_deref(),
            priority: row.priority,
            max_attempts: row.max_attempts,
            due: WhenDue { after_ms: row.run_at_ms.saturating_sub(row.enqueued_at_ms), at_ms: row.run_at_ms },
        });
        let place = format!("by a worker: a row of the queue {queue:?}, {state}");
        Self { task: task.as_str().into(), arguments: "…".to_owned(), place, value }
    }

    /// One that waits.
    pub(super) fn waiting<W>(waits: Waits<'a, W>) -> Self {
        match waits {
            Waits::Hook(hook, kind, depth) => Self::hook(hook, kind, depth),
            Waits::Stored(call, depth) => Self::stored(call, depth),
        }
    }

    /// One that was captured.
    pub(super) fn held<W>(call: &'a HeldCall<W>) -> Self {
        match call {
            HeldCall::Hook(hook, kind) => Self::hook(hook, *kind, 0),
            HeldCall::Stored(call) => Self::stored(call, 0),
        }
    }
}

/// By the clock of this machine: what waits has no other time yet.
fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}
