//! What the service says of itself: events on stderr, and with `TRACES=on` spans on stdout, where an
//! exporter to a collector would send them. `guide/src/events.md` and `guide/src/traces.md` say what
//! there is.

use axum::extract::Request;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing::{Span, info_span};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Listens from now on. Dropped at the end of the program it sends what is left.
#[must_use = "spans that are not exported yet are lost with it"]
pub struct Telemetry(Option<SdkTracerProvider>);

impl Telemetry {
    /// To be called once, before all else.
    pub fn listen(traces: bool) -> Self {
        let provider = traces.then(|| {
            SdkTracerProvider::builder().with_batch_exporter(opentelemetry_stdout::SpanExporter::default()).build()
        });
        let spans = provider.as_ref().map(|provider| {
            tracing_opentelemetry::layer().with_tracer(provider.tracer("service")).with_filter(LevelFilter::INFO)
        });
        let events = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_filter(LevelFilter::INFO);
        tracing_subscriber::registry().with(spans).with(events).init();
        Self(provider)
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(|provider| provider.shutdown()) {
            eprintln!("the last spans were not exported: {error}");
        }
    }
}

/// The span of a request: all that it does is a part of it, and what runs of its tasks later.
pub(crate) fn request(request: &Request) -> Span {
    let (method, path) = (request.method(), request.uri().path());
    info_span!("request", otel.name = format!("{method} {path}"), otel.kind = "server", http.request.method = %method)
}
