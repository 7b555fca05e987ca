//! What a call is part of: a place in a trace, by which other processes know it, too.
//!
//! Must not know: which spans there are.

use std::fmt;
use std::sync::Arc;

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// What a call is part of, if anything. One word; the calls of one span share what is behind it.
#[derive(Clone, Default)]
pub(crate) struct Origin(Option<Arc<Place>>);

struct Place {
    context: SpanContext,
    /// As a row has it.
    trace_parent: String,
}

impl Origin {
    /// Nothing.
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    /// This span.
    pub(super) fn of(span: &Span) -> Self {
        let context = span.context();
        Self::at(context.span().span_context().clone())
    }

    fn at(context: SpanContext) -> Self {
        if !context.is_valid() {
            return Self::none();
        }
        // The `traceparent` of the W3C.
        let trace_parent = format!(
            "00-{}-{}-{:02x}",
            context.trace_id(),
            context.span_id(),
            (context.trace_flags() & TraceFlags::SAMPLED).to_u8()
        );
        Self(Some(Arc::new(Place { context, trace_parent })))
    }

    /// As a row has it; what is none, or none of this version, is nothing.
    pub(crate) fn read(trace_parent: &str) -> Self {
        let parts: Vec<_> = trace_parent.split('-').collect();
        let &[version, trace, span, flags] = &parts[..] else { return Self::none() };
        let is_right = (version.len(), trace.len(), span.len(), flags.len()) == (2, 32, 16, 2) && version == "00";
        match (TraceId::from_hex(trace), SpanId::from_hex(span), u8::from_str_radix(flags, 16)) {
            (Ok(trace), Ok(span), Ok(flags)) if is_right => {
                let flags = TraceFlags::new(flags) & TraceFlags::SAMPLED;
                Self::at(SpanContext::new(trace, span, flags, true, TraceState::NONE))
            }
            _ => Self::none(),
        }
    }

    /// What a row has.
    pub(crate) fn trace_parent(&self) -> Option<&str> {
        self.0.as_ref().map(|place| &*place.trace_parent)
    }

    pub(crate) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn context(&self) -> Option<&SpanContext> {
        self.0.as_ref().map(|place| &place.context)
    }
}

impl PartialEq for Origin {
    fn eq(&self, other: &Self) -> bool {
        self.trace_parent() == other.trace_parent()
    }
}

impl Eq for Origin {}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.trace_parent().unwrap_or("-"))
    }
}

#[cfg(test)]
mod tests {
    use super::Origin;

    /// "Into the row and out of it in another process."
    #[test]
    fn what_a_row_has_is_read_as_it_was_written() {
        let written = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(Origin::read(written).trace_parent(), Some(written));
        for other in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333x-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert!(Origin::read(other).is_none(), "{other}");
        }
    }
}
