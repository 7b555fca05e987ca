//! The tasks of these tests, and how a message is compared with the one that is written down.

use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use diesel_deferred::{Attempt, BoxError, DeferredConnection, Discard, Snooze, deferred_task};
use diesel_deferred_tests::{Database, Notes, Scratch};
use std::time::Duration;

/// In this process, on the committing thread.
#[deferred_task]
pub(crate) fn plain(notes: Notes, id: i32, text: &str) {
    notes.add(format!("plain {id} {text}"));
}

/// In this process, on tokio.
#[deferred_task]
pub(crate) async fn spawned(notes: Notes, id: i32) -> Result<(), String> {
    tokio::task::yield_now().await;
    notes.add(format!("spawned {id}"));
    if id < 0 { Err(format!("{id} is negative")) } else { Ok(()) }
}

/// In this process, on a thread that may block.
#[deferred_task(blocking)]
pub(crate) fn blocking(notes: Notes, id: i32) {
    notes.add(format!("blocking {id}"));
}

/// A value that can only be shown.
#[derive(Debug, Clone)]
pub(crate) struct Shown(#[allow(dead_code, reason = "shown")] pub(crate) i32);

/// A value that nobody can compare or show.
#[derive(Clone)]
pub(crate) struct Opaque;

/// Arguments of all kinds.
#[deferred_task]
pub(crate) fn odd(shown: Shown, opaque: Opaque, #[secret] password: String) {
    let _ = (shown, opaque, password);
}

/// A task that needs the runtime whose thread it has.
#[deferred_task(blocking)]
pub(crate) fn blocking_on_its_runtime(notes: Notes) {
    tokio::runtime::Handle::current().block_on(async { notes.add("its runtime") });
}

/// A value that is written, and cannot be read.
#[derive(serde::Serialize)]
pub(crate) struct Picky(pub(crate) i32);

impl<'de> serde::Deserialize<'de> for Picky {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("not this one"))
    }
}

/// Its rows cannot be read.
#[deferred_task(durable, name = "picky")]
pub(crate) fn picky(value: Picky) {
    let _ = value;
}

/// An argument whose type is less public than the task.
#[allow(unreachable_pub, reason = "it is what is tested")]
#[deferred_task]
pub fn less_public(value: LessPublic) {
    let _ = value;
}

#[derive(Debug, PartialEq)]
pub(crate) struct LessPublic;

/// Arguments whose names the expansion might use itself.
#[deferred_task]
pub(crate) fn names(call: i32, comparison: i32, expected: i32, found: i32, value: i32, f: i32) {
    let _ = (call, comparison, expected, found, value, f);
}

/// A generic task.
#[deferred_task]
pub(crate) fn generic<T: Clone + Send + 'static, const N: usize>(values: [T; N], slice: &[T]) {
    let _ = (values, slice);
}

/// A row, whose end is as asked.
#[deferred_task(durable, queue = "mail", max_attempts = 3)]
pub(crate) async fn stored(
    #[state] notes: Notes,
    #[state] attempt: Attempt,
    id: i32,
    text: &str,
) -> Result<(), BoxError> {
    notes.add(format!("stored {id} {text} {}", attempt.number()));
    match text {
        "fails" => Err("it failed".into()),
        "snoozes" => Err(Snooze::new(Duration::from_secs(60)).into()),
        "gives up" => Err(Discard::new("no use").into()),
        "panics" => panic!("it panicked"),
        _ => Ok(()),
    }
}

/// A row that is run by a thread.
#[deferred_task(durable, key = "key-{key}")]
pub(crate) fn keyed(#[state] notes: &Notes, key: i32, id: i32) {
    notes.add(format!("keyed {key} {id}"));
}

/// A connection to a database with the tables, in a test transaction.
pub(crate) fn begun<C: Database>(db: &Scratch<C>) -> DeferredConnection<C> {
    let mut conn = db.observer();
    C::migrate(&mut conn);
    let mut conn = DeferredConnection::new(conn);
    diesel::Connection::begin_test_transaction(&mut conn).expect("begin");
    conn
}

/// What an assertion says that fails.
pub(crate) fn message_of(assertion: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(assertion)).expect_err("it must fail");
    let message = panic.downcast_ref::<String>().cloned();
    message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).expect("a text")
}

/// Compares a message with `messages/NAME.txt`, without line numbers: `UPDATE_MESSAGES=1` writes it.
#[track_caller]
pub(crate) fn assert_says(name: &str, message: &str) {
    let message = without_lines(message);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kit/messages").join(format!("{name}.txt"));
    if env::var_os("UPDATE_MESSAGES").is_some() {
        fs::write(&path, message + "\n").expect("write the message");
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(message.trim_end(), expected.trim_end(), "see {}", path.display());
}

/// `file.rs:12:5` as `file.rs:LINE`.
fn without_lines(message: &str) -> String {
    let mut text = String::new();
    for (at, part) in message.split(".rs:").enumerate() {
        match at {
            0 => text.push_str(part),
            _ => {
                text.push_str(".rs:LINE");
                text.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':'));
            }
        }
    }
    text
}
