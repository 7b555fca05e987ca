//! What an assertion has found, and what it says where that is not what was expected.
//!
//! Must not know: where calls were looked for.

use std::fmt::{self, Write};
use std::panic::Location;

use super::expected::{Compared, Comparison, Expectable, Expected};
use super::seen::Seen;

/// What is among the calls that were looked at.
pub(super) struct Found {
    expected: String,
    times: Option<usize>,
    task: &'static str,
    /// Where they were looked for.
    place: &'static str,
    as_expected: Vec<String>,
    /// Of the same task.
    different: Vec<String>,
    others: Vec<String>,
    /// Where it may be instead.
    hint: Option<&'static str>,
}

impl Found {
    /// Looks through the calls that `show` shows.
    pub(super) fn look<T: Expectable + 'static>(
        expected: &Expected<T>,
        place: &'static str,
        show: impl FnOnce(&mut dyn FnMut(Seen<'_>)),
    ) -> Self {
        let mut found = Self {
            expected: expected.to_string(),
            times: expected.expected_times(),
            task: T::NAME,
            place,
            as_expected: Vec::new(),
            different: Vec::new(),
            others: Vec::new(),
            hint: None,
        };
        show(&mut |seen| match expected.compare(&seen) {
            Some(comparison) if comparison.matches() => found.as_expected.push(shown(&seen, Some(&comparison))),
            Some(comparison) => found.different.push(shown(&seen, Some(&comparison)) + &differences(&comparison)),
            None => found.others.push(shown(&seen, None)),
        });
        found
    }

    /// Says where it may be instead.
    pub(super) fn or_else(self, hint: Option<&'static str>) -> Self {
        Self { hint, ..self }
    }

    /// What is wrong where there is no such call, or not as many as were expected.
    pub(super) fn missing(&self) -> Option<String> {
        let enough = match self.times {
            Some(times) => self.as_expected.len() == times,
            None => !self.as_expected.is_empty(),
        };
        (!enough).then(|| self.to_string())
    }

    /// What is wrong where there is such a call.
    pub(super) fn unwanted(&self) -> Option<String> {
        let Self { expected, place, as_expected, times, .. } = self;
        if times.is_some() {
            return Some(format!(
                "it is refuted that there is any such call, so that `.times(…)` means nothing: {expected}"
            ));
        }
        let mut text = format!("a call was found {place} that should not be there: {expected}");
        as_expected.iter().for_each(|call| text.extend(["\n  ", call]));
        (!as_expected.is_empty()).then_some(text)
    }
}

/// Panics with what is wrong, if anything is.
#[track_caller]
pub(super) fn fail(wrong: Option<String>) {
    if let Some(wrong) = wrong {
        panic!("{wrong}");
    }
}

/// The same of an assertion that stands there, and was awaited.
pub(super) fn fail_at(caller: &Location<'_>, wrong: Option<String>) {
    if let Some(wrong) = wrong {
        panic!("at {caller}: {wrong}");
    }
}

/// How many calls are shown of each list.
const SHOWN: usize = 10;

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expected, times, task, place, as_expected, different, others, hint } = self;
        match (times, as_expected.len()) {
            (Some(times), count) => write!(f, "expected {times} of this call {place}, and found {count}:")?,
            (None, _) => write!(f, "expected this call {place}, and did not find it:")?,
        }
        write!(f, "\n  {expected}")?;
        if !as_expected.is_empty() {
            f.write_str("\nas expected:")?;
            list(f, as_expected)?;
        }
        if different.is_empty() {
            write!(f, "\nother calls of `{task}`: none")?;
        } else {
            write!(f, "\nother calls of `{task}`:")?;
            list(f, different)?;
        }
        if !others.is_empty() {
            f.write_str("\ncalls of other tasks:")?;
            list(f, others)?;
        }
        if let Some(hint) = hint {
            write!(f, "\n{hint}")?;
        }
        Ok(())
    }
}

fn list(f: &mut fmt::Formatter<'_>, calls: &[String]) -> fmt::Result {
    calls.iter().take(SHOWN).try_for_each(|call| write!(f, "\n  {call}"))?;
    match calls.len().saturating_sub(SHOWN) {
        0 => Ok(()),
        more => write!(f, "\n  … and {more} more"),
    }
}

/// How many characters are shown of a value that is not what differs, and of all those of a call of
/// another task.
const VALUE: usize = 60;
const ARGUMENTS: usize = 120;

fn short(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A call, with its arguments as its task has them.
fn shown(seen: &Seen<'_>, comparison: Option<&Comparison>) -> String {
    let Seen { task, arguments, place, .. } = seen;
    let arguments = match comparison {
        Some(Comparison { arguments, unreadable: None }) => {
            let of_call = arguments.iter().filter(|argument| !argument.is_option);
            let found = |argument: &Compared| short(argument.found.as_deref().unwrap_or("?"), VALUE);
            let shown = of_call.map(|argument| format!("{}: {}", argument.name, found(argument)));
            shown.collect::<Vec<_>>().join(", ")
        }
        _ => short(arguments, ARGUMENTS),
    };
    format!("{task}({arguments}) {place}")
}

/// What is not as expected, as a diff.
fn differences(comparison: &Comparison) -> String {
    let mut text = String::new();
    if let Some(error) = &comparison.unreadable {
        let _ = write!(text, "\n    cannot be read: {error}");
    }
    for Compared { name, expected, found, same, is_secret, .. } in &comparison.arguments {
        let (Some(expected), Some(found)) = (expected, found) else { continue };
        match same {
            Some(true) => {}
            Some(false) => {
                let _ = match is_secret {
                    true => write!(text, "\n    - {name}: another one, which is secret"),
                    false => write!(text, "\n    - {name}: {expected}\n    + {name}: {found}"),
                };
            }
            None => {
                let _ = write!(
                    text,
                    "\n    ? {name}: {found} can be neither compared nor shown; write `_` for it, or derive `PartialEq` or `Debug`"
                );
            }
        }
    }
    text
}
