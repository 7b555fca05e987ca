//! A durable call on its way to its row: what the task says of all its calls, what this one says of
//! itself, and the two together.
//!
//! Must not know: the table's SQL, or when the rows are written.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use super::id::TaskId;
use super::payload::{Decoder, Encoder, Undecodable};
use super::row::{NewTask, Schedule};
use super::running::Running;
use crate::dispatch::States;
use crate::error::CannotStore;
use crate::spans::Origin;
use crate::task::{Taken, Task};

/// A task whose calls are stored in rows.
#[doc(hidden)]
pub trait Durable: Task {
    /// What its attribute says.
    const DEFAULTS: Defaults;

    /// What it was called in older versions of the program.
    const WAS: &'static [&'static str] = &[];

    /// How its calls are written, read and run.
    ///
    /// Where an argument can't be stored this does not compile, on the argument's type. It is the
    /// only place. What `Any` is for says [`Argument`](crate::task::expansion::Argument); it may be
    /// anything.
    fn stored<Any>() -> Stored<Self>;

    /// The row of a call, or why there cannot be one.
    ///
    /// # Errors
    /// What is wrong with its arguments or options.
    fn call(self) -> Result<NewTask, CannotStore> {
        NewTask::of(self)
    }
}

/// How the calls of a task are written, read and run.
#[derive(Debug)]
pub struct Stored<T: Task> {
    /// Writes the arguments, and hands back the options of the call.
    pub encode: fn(T, &mut Encoder) -> CallOptions,
    /// Reads a call; fails where an argument is missing, or of another type.
    pub decode: fn(&Decoder<'_>) -> Result<T, Undecodable>,
    /// The body of a call, to be run by a worker; `None` where it lacks a state.
    pub start: fn(Taken<T>, &States) -> Option<Running>,
}

/// What a task's attribute says of all its calls.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    /// The queue.
    pub queue: &'static str,
    /// What runs first: the lower number.
    pub priority: i16,
    /// How often a call is tried, with the first time.
    pub max_attempts: u16,
    /// How long an attempt may take.
    pub timeout: Option<Duration>,
    /// How long the second attempt waits; each further one waits twice as long.
    pub backoff: Duration,
    /// What becomes of a call while one of the same key waits.
    pub unique: Option<Unique>,
}

impl Defaults {
    /// Those of a task that says nothing. Twenty attempts take two to three days: time to repair
    /// what a task depends on.
    pub const STANDARD: Self = Self {
        queue: "default",
        priority: 0,
        max_attempts: 20,
        timeout: None,
        backoff: Duration::from_secs(10),
        unique: None,
    };
}

/// What becomes of a call while another one of the same task and key waits to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unique {
    /// The one that waits stays, the new one is dropped.
    Keep,
    /// The new one takes its place.
    Replace,
}

/// What one call says of itself.
#[derive(Default)]
pub struct CallOptions(Option<Box<Given>>);

/// Without the key, which may be made of arguments.
impl fmt::Debug for CallOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut options = f.debug_struct("CallOptions");
        if let Some(given) = &self.0 {
            let Given { schedule, key: _, queue, priority, max_attempts } = &**given;
            options.field("schedule", schedule).field("queue", queue);
            options.field("priority", priority).field("max_attempts", max_attempts);
        }
        options.finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Given {
    schedule: Schedule,
    key: Option<String>,
    queue: Option<Cow<'static, str>>,
    priority: Option<i16>,
    max_attempts: Option<u16>,
}

impl CallOptions {
    /// Nothing: the task's defaults count.
    pub const fn new() -> Self {
        Self(None)
    }

    /// What it is about, and nothing else.
    pub fn keyed(key: String) -> Self {
        let mut options = Self::new();
        options.key(key);
        options
    }

    fn given(&mut self) -> &mut Given {
        self.0.get_or_insert_default()
    }

    /// Not before this time has passed since the commit.
    pub fn delay(&mut self, delay: Duration) {
        self.given().schedule = Schedule::AfterMs(milliseconds(delay));
    }

    /// Not before this time.
    pub fn run_at(&mut self, time: SystemTime) {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.given().schedule = Schedule::AtMs(milliseconds(since_epoch));
    }

    /// What it is about.
    pub fn key(&mut self, key: impl Into<String>) {
        self.given().key = Some(key.into());
    }

    /// Another queue than the task's.
    pub fn queue(&mut self, queue: impl Into<Cow<'static, str>>) {
        self.given().queue = Some(queue.into());
    }

    /// Another priority than the task's.
    pub fn priority(&mut self, priority: i16) {
        self.given().priority = Some(priority);
    }

    /// How often it is tried.
    pub fn max_attempts(&mut self, attempts: u16) {
        self.given().max_attempts = Some(attempts);
    }
}

/// A thousand years and more: what is beyond is never.
const FOREVER_MS: i64 = i64::MAX / 1_000;

/// As the columns have it.
pub(crate) fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).map_or(FOREVER_MS, |ms| ms.min(FOREVER_MS))
}

/// How many characters the name of a queue or task, and a key, may have: what MySQL can index, and
/// one can read.
pub(crate) const MAX_NAME_CHARS: usize = 255;

impl NewTask {
    /// The row of a call.
    fn of<T: Durable>(task: T) -> Result<Self, CannotStore> {
        let call_site = task.call_site();
        let mut encoder = Encoder::default();
        let options = (T::stored::<()>().encode)(task, &mut encoder).0.map_or_else(Given::default, |given| *given);
        let refuse = |reason: String| CannotStore { task: T::NAME, call_site, reason };
        let payload = encoder.finish().map_err(refuse)?;
        let defaults = T::DEFAULTS;
        let queue = options.queue.unwrap_or(Cow::Borrowed(defaults.queue));
        for (what, name) in
            [("its name", T::NAME), ("its queue", &queue), ("its key", options.key.as_deref().unwrap_or("-"))]
        {
            check_name(what, name).map_err(refuse)?;
        }
        let unique_key = defaults.unique.map(|_| match &options.key {
            // MySQL does not compare blanks at the end.
            Some(key) if key.ends_with(' ') => digest(key),
            Some(key) => key.clone(),
            // Of a call without a key it is the arguments that make it the same.
            None => digest(payload.json()),
        });
        Ok(Self {
            id: TaskId::new(),
            task: T::NAME,
            queue,
            payload,
            priority: options.priority.unwrap_or(defaults.priority),
            max_attempts: options.max_attempts.unwrap_or(defaults.max_attempts).max(1),
            schedule: options.schedule,
            key: options.key,
            unique_key,
            replaces: defaults.unique == Some(Unique::Replace),
            origin: Origin::none(),
            call_site,
        })
    }
}

fn digest(text: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).to_string()
}

/// What all three databases can store and index. PostgreSQL knows no NUL.
fn check_name(what: &str, name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err(format!("{what} is empty"));
    }
    if name.contains('\0') {
        return Err(format!("{what} holds a NUL character, which not all databases can store"));
    }
    match name.chars().count() {
        count if count > MAX_NAME_CHARS => {
            Err(format!("{what} has {count} characters, and {MAX_NAME_CHARS} are allowed"))
        }
        _ => Ok(()),
    }
}
