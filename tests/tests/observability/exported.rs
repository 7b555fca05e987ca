//! The spans that `tracing-opentelemetry` hands to an exporter.

use std::collections::BTreeMap;
use std::fmt::Write;

use opentelemetry::trace::{SpanId, SpanKind, Status, TracerProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tracing::Dispatch;
use tracing::dispatcher::DefaultGuard;
use tracing_subscriber::layer::SubscriberExt;

/// Listens on this thread, for as long as it lives.
pub(crate) struct Listening {
    provider: SdkTracerProvider,
    exporter: InMemorySpanExporter,
    /// For threads, which have no subscriber of their own.
    pub(crate) dispatch: Dispatch,
    _here: DefaultGuard,
}

impl Listening {
    pub(crate) fn begin() -> Self {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("tests"));
        let dispatch = Dispatch::new(tracing_subscriber::registry().with(layer));
        let here = tracing::dispatcher::set_default(&dispatch);
        Self { provider, exporter, dispatch, _here: here }
    }

    /// All spans that have ended.
    pub(crate) fn spans(&self) -> Vec<SpanData> {
        self.provider.force_flush().expect("exported");
        self.exporter.get_finished_spans().expect("exported")
    }

    /// The same as a tree for each trace, in the order in which they began: a line each, with the kind
    /// and what failed. Links name the span that they lead to.
    pub(crate) fn trees(&self) -> String {
        let mut spans = self.spans();
        spans.sort_by_key(|span| span.start_time);
        let names: BTreeMap<_, _> =
            spans.iter().map(|span| (span.span_context.span_id().to_bytes(), span.name.to_string())).collect();
        let mut text = String::new();
        for root in spans.iter().filter(|span| span.parent_span_id == SpanId::INVALID) {
            tree(root, &spans, &names, 0, &mut text);
        }
        assert_eq!(text.lines().count(), spans.len(), "some have no parent: {spans:#?}");
        text
    }
}

fn tree(span: &SpanData, spans: &[SpanData], names: &BTreeMap<[u8; 8], String>, depth: usize, text: &mut String) {
    let kind = match span.span_kind {
        SpanKind::Internal => "",
        SpanKind::Producer => " (producer)",
        SpanKind::Consumer => " (consumer)",
        SpanKind::Client | SpanKind::Server => " (another kind)",
    };
    write!(text, "{}{}{kind}", "  ".repeat(depth), span.name).expect("a string");
    if let Status::Error { description } = &span.status {
        write!(text, " failed: {description}").expect("a string");
    }
    for link in span.links.iter() {
        let to = names.get(&link.span_context.span_id().to_bytes()).map_or("?", |name| name);
        write!(text, " -> {to}").expect("a string");
    }
    text.push('\n');
    for below in spans.iter().filter(|other| other.parent_span_id == span.span_context.span_id()) {
        assert_eq!(below.span_context.trace_id(), span.span_context.trace_id(), "{} and {}", span.name, below.name);
        tree(below, spans, names, depth + 1, text);
    }
}
