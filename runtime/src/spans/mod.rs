//! Spans of transactions, tasks and attempts, which are one trace with the code that made the calls:
//! also where a task runs later, on another thread, or in another process.
//!
//! What a call is part of is kept as OpenTelemetry names it, and not as a `tracing` span: a span is
//! open for as long as somebody holds it, and the request would seem to take as long as its tasks.
//!
//! Must not know: connections, or what a task is.

mod handed;
mod origin;
mod span;
mod transaction;

pub(crate) use self::handed::hand_over;
#[cfg(feature = "tokio")]
pub(crate) use self::handed::handed_over;
pub(crate) use self::origin::Origin;
pub(crate) use self::span::{SendSpan, TaskSpan, current, is_on};
pub(crate) use self::transaction::{Around, Begun, Origins, Started};
