//! The spans themselves: their names, kinds and attributes, as OpenTelemetry's conventions for
//! messaging have them. `guide/src/traces.md` has a table, and the suite `observability` compares the names
//! with the constants of those conventions.
//!
//! Must not know: when which of them begins.

use std::fmt::Display;

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use tracing::level_filters::LevelFilter;
use tracing::span::Id;
use tracing::{Span, field, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::origin::Origin;
use crate::panics::contain;

/// Whether anybody may be listening: by one load, so that it costs nothing where nobody is.
#[inline]
pub(crate) fn is_on() -> bool {
    LevelFilter::current() >= LevelFilter::INFO
}

/// The span that is current; `None`: none is.
pub(crate) fn current() -> Option<Id> {
    tracing::dispatcher::get_default(|dispatch| dispatch.current_span().id().cloned())
}

/// The span of an outermost transaction.
pub(super) fn transaction(around: Option<Id>) -> Span {
    info_span!(parent: around, "transaction", otel.kind = "internal")
}

/// Makes the span a part of that.
fn continues(span: &Span, origin: &Origin) {
    if let Some(context) = origin.context() {
        // Nobody listens, or not for OpenTelemetry.
        let _ = span.set_parent(Context::new().with_remote_span_context(context.clone()));
    }
}

/// A failure is an error of the span's.
fn fails(span: &Span, error: &dyn Display) {
    // It is a user's, and may panic.
    let text = contain(|| error.to_string()).unwrap_or_default();
    span.record("otel.status_code", "ERROR");
    span.record("otel.status_description", &*text);
    span.record("error.type", "_OTHER");
}

/// The span of the statement that stores calls.
#[derive(Debug)]
pub(crate) struct SendSpan(Span);

impl SendSpan {
    /// It begins, as a part of `parent`, or else of the span that is current. The calls are of that queue; `None`: of several.
    pub(crate) fn begin(parent: &Origin, queue: Option<&str>, calls: usize) -> Self {
        if !is_on() {
            return Self(Span::none());
        }
        let name = queue.map_or_else(|| "send".to_owned(), |queue| format!("send {queue}"));
        let span = info_span!(
            parent: if parent.is_none() { current() } else { None },
            "send",
            otel.name = name,
            otel.kind = "producer",
            otel.status_code = field::Empty,
            otel.status_description = field::Empty,
            error.r#type = field::Empty,
            messaging.system = SYSTEM,
            messaging.operation.name = "send",
            messaging.operation.r#type = "send",
            messaging.destination.name = queue,
            messaging.batch.message_count = i64::try_from(calls).unwrap_or(i64::MAX),
        );
        continues(&span, parent);
        Self(span)
    }

    /// It ends.
    pub(crate) fn end<T, E: Display>(self, result: &Result<T, E>) {
        if let Err(error) = result {
            fails(&self.0, error);
        }
    }
}

/// What stores and hands over our calls, as the conventions ask for.
const SYSTEM: &str = "diesel_deferred";

/// The span of a task's run: of an in-process task, of a hook, or of an attempt. In a box, because most
/// programs have none, and tasks move it several times.
#[derive(Debug)]
pub(crate) struct TaskSpan(Option<Box<Span>>);

impl TaskSpan {
    /// None.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// The one that is current.
    #[cfg(feature = "worker")]
    pub(crate) fn current() -> Self {
        Self(is_on().then(|| Box::new(Span::current())))
    }

    /// Of a hook or an in-process task, which is a part of what its call was.
    pub(crate) fn of_task(task: &'static str, origin: &Origin) -> Self {
        if origin.is_none() || !is_on() {
            return Self(None);
        }
        let span = info_span!(
            parent: None,
            "task",
            otel.name = task,
            otel.kind = "internal",
            otel.status_code = field::Empty,
            otel.status_description = field::Empty,
            error.r#type = field::Empty,
            code.function.name = task,
        );
        continues(&span, origin);
        Self(Some(Box::new(span)))
    }

    /// Of an attempt: the first is a part of what the call was, a retry is a trace of its own, with a
    /// link to that.
    #[cfg(feature = "worker")]
    pub(crate) fn of_attempt(
        task: &'static str,
        queue: &str,
        id: impl Display,
        attempt: u32,
        trace_parent: Option<&str>,
    ) -> Self {
        if !is_on() {
            return Self(None);
        }
        let span = info_span!(
            parent: None,
            "process",
            otel.name = format!("process {queue}"),
            otel.kind = "consumer",
            otel.status_code = field::Empty,
            otel.status_description = field::Empty,
            error.r#type = field::Empty,
            messaging.system = SYSTEM,
            messaging.operation.name = "process",
            messaging.operation.r#type = "process",
            messaging.destination.name = queue,
            messaging.message.id = %id,
            code.function.name = task,
            // Of an unsigned number tracing-opentelemetry makes a text.
            diesel_deferred.attempt = i64::from(attempt),
        );
        let origin = trace_parent.map_or_else(Origin::none, Origin::read);
        if attempt <= 1 {
            continues(&span, &origin);
        } else if let Some(context) = origin.context() {
            span.add_link(context.clone());
        }
        Self(Some(Box::new(span)))
    }

    /// Runs it in the span.
    pub(crate) fn run<R>(&self, run: impl FnOnce() -> R) -> R {
        match &self.0 {
            Some(span) => span.in_scope(run),
            None => run(),
        }
    }

    /// The span is current until this is dropped.
    #[cfg(feature = "tokio")]
    pub(crate) fn enter(&self) -> Option<tracing::span::Entered<'_>> {
        self.0.as_ref().map(|span| span.enter())
    }

    /// A future that is polled in the span.
    pub(crate) fn of_future<F: Future>(&self, future: F) -> tracing::instrument::Instrumented<F> {
        tracing::Instrument::instrument(future, self.0.as_ref().map_or_else(Span::none, |span| Span::clone(span)))
    }

    /// It failed.
    pub(crate) fn failed(&self, error: &dyn Display) {
        if let Some(span) = &self.0 {
            fails(span, error);
        }
    }
}
