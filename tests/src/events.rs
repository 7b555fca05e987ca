//! The `tracing` events that the crate under test emits.
//!
//! One subscriber for the whole process, installed before the first connection is made: `tracing`
//! remembers for each place in the code whether anybody listens, and a subscriber that comes while
//! another thread gets there first may miss it.

use std::cell::RefCell;
use std::fmt::{Debug, Write};
use std::sync::{Mutex, Once, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

thread_local! {
    static EVENTS: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Those of all threads: tasks of a dispatcher run on others.
static EVERYWHERE: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The fields of the events with this text in them, of any thread.
pub fn events_with(text: &str) -> Vec<String> {
    let events = EVERYWHERE.lock().unwrap_or_else(PoisonError::into_inner);
    events.iter().filter(|event| event.contains(text)).cloned().collect()
}

/// Runs `run` and returns the fields of the events that it emitted on this thread, a line each.
pub fn traced<R>(run: impl FnOnce() -> R) -> (R, String) {
    EVENTS.take();
    let result = run();
    (result, EVENTS.take())
}

pub(crate) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| tracing::subscriber::set_global_default(Listener).expect("no other subscriber"));
}

struct Listener;

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        writeln!(self.0, "{}={value:?}", field.name()).expect("write to a string");
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("diesel_deferred") && *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        // Gone where a thread's other values are dropped at its end.
        let _ = EVENTS.try_with(|events| events.borrow_mut().push_str(&fields.0));
        EVERYWHERE.lock().unwrap_or_else(PoisonError::into_inner).push(fields.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
