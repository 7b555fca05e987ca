//! What a test expects of a call, and whether one is as expected: argument by argument.
//!
//! Must not know: where calls are looked for.

use std::any::type_name;
use std::borrow::Cow;
use std::fmt::{self, Debug};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::seen::{Row, Seen, Value};
use crate::durable::{Decoder, Durable};
use crate::report::SECRET;
use crate::task::{Taken, Task};

/// A task that calls can be expected of: `#[deferred_task]` implements it where the feature
/// `testing` is on.
pub trait Expectable: Task {
    /// Reads a call from its row; `None`: it has none.
    fn read(_: &str) -> Option<Read<Self>> {
        None
    }
}

/// A task whose calls are rows.
#[diagnostic::on_unimplemented(
    message = "only a durable task has rows",
    label = "the calls of `{Self}` run in this process, and are stored nowhere",
    note = "write `assert_deferred!`, or `#[deferred_task(durable)]` on the function"
)]
pub trait HasRows {}

#[diagnostic::do_not_recommend]
impl<T: Durable> HasRows for T {}

/// A call that was read, or why it could not be.
pub type Read<T> = Result<Taken<T>, String>;

/// Reads the call of a durable task.
///
/// # Errors
/// Where these are not its arguments.
pub fn read<T: Durable>(payload: &str) -> Read<T> {
    let decoder = Decoder::new(payload).map_err(|error| error.to_string())?;
    (T::stored::<()>().decode)(&decoder).map(Taken::new).map_err(|error| error.to_string())
}

/// What is expected of a task's calls: what the assertions make of `task(argument, _)`.
///
/// What is not said may be anything: an argument that is `_`, and each option of the call.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use diesel::prelude::*;
/// use diesel_deferred::{DeferredConnection, assert_deferred, atomic, deferred_task};
///
/// #[deferred_task(durable)]
/// fn remind(user_id: i32, text: &str) {
///     println!("user {user_id}: {text}");
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// # use diesel_migrations::MigrationHarness;
/// let conn = &mut DeferredConnection::<SqliteConnection>::establish(":memory:")?;
/// # conn.run_pending_migrations(diesel_deferred::migrations())?;
/// atomic!(conn, -> QueryResult<()>, {
///     remind(7, "pay").queue("mail").delay(Duration::from_secs(3600)).after_commit(conn)?;
///     assert_deferred!(conn, remind(7, _).queue("mail").delay(Duration::from_secs(3600)).times(1));
///     Ok(())
/// })?;
/// # Ok(())
/// # }
/// ```
pub struct Expected<T: Expectable> {
    /// Compares the arguments with those of a call; shows them only, where there is none.
    compare: Box<Compare<T>>,
    options: Options,
    times: Option<usize>,
}

type Compare<T> = dyn Fn(Option<&T>, &mut Comparison) + Send;

/// What is expected of how a call is stored.
#[derive(Debug, Clone)]
struct Options {
    queue: Option<Cow<'static, str>>,
    key: Option<String>,
    priority: Option<i16>,
    max_attempts: Option<u16>,
    due: Option<Due>,
    tolerance: Duration,
}

/// When a call is expected to be due.
#[derive(Debug, Clone, Copy)]
enum Due {
    After(Duration),
    At(SystemTime),
}

impl<T: Expectable> Expected<T> {
    #[doc(hidden)]
    pub fn new(compare: impl Fn(Option<&T>, &mut Comparison) + Send + 'static) -> Self {
        let options = Options {
            queue: None,
            key: None,
            priority: None,
            max_attempts: None,
            due: None,
            tolerance: Duration::from_secs(1),
        };
        Self { compare: Box::new(compare), options, times: None }
    }

    /// So many calls, and no more. Without it, one at least.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = Some(times);
        self
    }

    pub(super) fn expected_times(&self) -> Option<usize> {
        self.times
    }

    /// How it compares with a call; `None`: that is of another task.
    pub(super) fn compare(&self, seen: &Seen<'_>) -> Option<Comparison>
    where
        T: 'static,
    {
        let mut comparison = Comparison::default();
        match seen.value {
            Value::Call(call) => (self.compare)(Some(call.downcast_ref::<T>()?), &mut comparison),
            Value::Row(Row { payload, .. }) if seen.task == T::NAME => match T::read(payload)? {
                Ok(call) => (self.compare)(call.peek(), &mut comparison),
                Err(error) => comparison.unreadable = Some(error),
            },
            Value::Row(_) | Value::Closure => return None,
        }
        if let Value::Row(row) = &seen.value {
            self.options.compare(row, &mut comparison);
        }
        Some(comparison)
    }
}

/// How the call of a durable task is stored.
impl<T: Expectable> Expected<T> {
    /// In this queue.
    #[must_use]
    pub fn queue(mut self, queue: impl Into<Cow<'static, str>>) -> Self
    where
        T: HasRows,
    {
        self.options.queue = Some(queue.into());
        self
    }

    /// With this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self
    where
        T: HasRows,
    {
        self.options.key = Some(key.into());
        self
    }

    /// With this priority.
    #[must_use]
    pub fn priority(mut self, priority: i16) -> Self
    where
        T: HasRows,
    {
        self.options.priority = Some(priority);
        self
    }

    /// With so many attempts.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u16) -> Self
    where
        T: HasRows,
    {
        self.options.max_attempts = Some(attempts);
        self
    }

    /// Due so long after it was called; `Duration::ZERO` is at once.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self
    where
        T: HasRows,
    {
        self.options.due = Some(Due::After(delay));
        self
    }

    /// Due at this time.
    #[must_use]
    pub fn run_at(mut self, time: SystemTime) -> Self
    where
        T: HasRows,
    {
        self.options.due = Some(Due::At(time));
        self
    }

    /// How far the time when it is due may be from the one that is expected: a second, where nothing
    /// is said.
    #[must_use]
    pub fn within(mut self, tolerance: Duration) -> Self
    where
        T: HasRows,
    {
        self.options.tolerance = tolerance;
        self
    }
}

/// As the call that was written.
impl<T: Expectable> fmt::Display for Expected<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comparison = Comparison::default();
        (self.compare)(None, &mut comparison);
        write!(f, "{}(", T::NAME)?;
        for (at, argument) in comparison.arguments.iter().enumerate() {
            let Compared { name, expected, .. } = argument;
            write!(f, "{}{name}: {}", if at == 0 { "" } else { ", " }, expected.as_deref().unwrap_or("_"))?;
        }
        f.write_str(")")?;
        let Options { queue, key, priority, max_attempts, due, tolerance: _ } = &self.options;
        queue.iter().try_for_each(|queue| write!(f, ".queue({queue:?})"))?;
        key.iter().try_for_each(|key| write!(f, ".key({key:?})"))?;
        priority.iter().try_for_each(|priority| write!(f, ".priority({priority})"))?;
        max_attempts.iter().try_for_each(|attempts| write!(f, ".max_attempts({attempts})"))?;
        match due {
            Some(Due::After(delay)) => write!(f, ".delay({delay:?})"),
            Some(Due::At(time)) => write!(f, ".run_at({} ms)", since_epoch_ms(*time)),
            None => Ok(()),
        }
    }
}

impl<T: Expectable> Debug for Expected<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn since_epoch_ms(time: SystemTime) -> i128 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i128::try_from(after.as_millis()).unwrap_or(i128::MAX),
        Err(before) => -i128::try_from(before.duration().as_millis()).unwrap_or(i128::MAX),
    }
}

impl Options {
    fn compare(&self, row: &Row<'_>, comparison: &mut Comparison) {
        let mut option = |name, expected: Option<String>, found: String| {
            if let Some(expected) = expected {
                let same = expected == found;
                comparison.arguments.push(Compared::option(name, expected, found, same));
            }
        };
        let shown = |text: &str| format!("{text:?}");
        option("queue", self.queue.as_deref().map(shown), shown(row.queue));
        option("key", self.key.as_deref().map(shown), row.key.map_or_else(|| "none".to_owned(), shown));
        option("priority", self.priority.map(|priority| priority.to_string()), row.priority.to_string());
        option("max_attempts", self.max_attempts.map(|most| most.to_string()), row.max_attempts.to_string());
        let Some(due) = self.due else { return };
        let (name, expected, found) = match due {
            Due::After(delay) => ("delay", i128::try_from(delay.as_millis()).unwrap_or(i128::MAX), row.due.after_ms),
            Due::At(time) => ("run_at", since_epoch_ms(time), row.due.at_ms),
        };
        let same = expected.abs_diff(found.into()) <= self.tolerance.as_millis();
        comparison.arguments.push(Compared::option(name, format!("{expected} ms"), format!("{found} ms"), same));
    }
}

/// How a call compares with what is expected.
#[derive(Debug, Default)]
pub struct Comparison {
    pub(super) arguments: Vec<Compared>,
    /// Why its row could not be read.
    pub(super) unreadable: Option<String>,
}

/// How an argument does.
#[derive(Debug)]
pub(super) struct Compared {
    pub(super) name: &'static str,
    /// `None`: it may be anything.
    pub(super) expected: Option<String>,
    pub(super) found: Option<String>,
    /// `None`: nobody can say.
    pub(super) same: Option<bool>,
    /// Whether it is an option of the call, and no argument.
    pub(super) is_option: bool,
    pub(super) is_secret: bool,
}

impl Compared {
    fn option(name: &'static str, expected: String, found: String, same: bool) -> Self {
        Self { name, expected: Some(expected), found: Some(found), same: Some(same), is_option: true, is_secret: false }
    }
}

impl Comparison {
    /// Adds an argument.
    #[doc(hidden)]
    pub fn argument<T>(
        &mut self,
        name: &'static str,
        is_secret: bool,
        expected: Option<&T>,
        found: Option<&T>,
        same: fn(&T, &T) -> Option<bool>,
        text: fn(&T) -> Option<String>,
    ) {
        let same = match (expected, found) {
            (Some(expected), Some(found)) => same(expected, found).or_else(|| Some(text(expected)? == text(found)?)),
            _ => Some(true),
        };
        let shown = |value: &T| match is_secret {
            true => SECRET.to_owned(),
            false => text(value).unwrap_or_else(|| format!("<{}>", type_name::<T>())),
        };
        let (expected, found) = (expected.map(shown), found.map(shown));
        self.arguments.push(Compared { name, expected, found, same, is_option: false, is_secret });
    }

    /// Whether the call is as expected.
    pub(super) fn matches(&self) -> bool {
        self.unreadable.is_none() && self.arguments.iter().all(|argument| argument.same == Some(true))
    }
}

/// Two values of an argument: `Same(a, b).test()` finds [`Same::test`] where they can be compared,
/// [`Incomparable::test`] where they cannot.
#[doc(hidden)]
#[derive(Debug)]
pub struct Same<'a, T>(pub &'a T, pub &'a T);

impl<T: PartialEq> Same<'_, T> {
    /// Whether they are the same.
    pub fn test(&self) -> Option<bool> {
        Some(self.0 == self.1)
    }
}

/// Values that cannot be compared.
#[doc(hidden)]
pub trait Incomparable {
    /// Nobody can say.
    fn test(&self) -> Option<bool>;
}

impl<T> Incomparable for Same<'_, T> {
    fn test(&self) -> Option<bool> {
        None
    }
}

/// A value of an argument as text: as [`Same`] does.
#[doc(hidden)]
#[derive(Debug)]
pub struct Text<'a, T>(pub &'a T);

impl<T: Debug> Text<'_, T> {
    /// As its `Debug` has it.
    pub fn text(&self) -> Option<String> {
        Some(format!("{:?}", self.0))
    }
}

/// Values that nobody can show.
#[doc(hidden)]
pub trait Unshown {
    /// No text.
    fn text(&self) -> Option<String>;
}

impl<T> Unshown for Text<'_, T> {
    fn text(&self) -> Option<String> {
        None
    }
}
