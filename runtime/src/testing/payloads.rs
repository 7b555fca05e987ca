//! The golden file of payloads: whether this program can still read the rows that its releases have
//! written.
//!
//! Must not know: any database.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::{env, fs};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::expected::{Read, read};
use crate::durable::{Durable, Registered};

/// One call of a durable task, as its row would have it.
#[derive(Debug)]
pub struct Sample {
    task: &'static str,
    was: &'static [&'static str],
    payload: Result<String, String>,
    read: fn(&str) -> Result<(), String>,
}

/// Makes one of a call.
pub fn sample<T: Durable>(call: T) -> Sample {
    let payload = call.call().map(|call| call.payload().to_owned()).map_err(|error| error.to_string());
    let read = |payload: &str| {
        let call: Read<T> = read(payload);
        call.map(drop)
    };
    Sample { task: T::NAME, was: T::WAS, payload, read }
}

/// The payloads that a release has written.
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    release: String,
    /// As it stands there: read and written again, a large number would be another one.
    payload: Box<RawValue>,
}

/// By the tasks' names.
type Golden = BTreeMap<String, Vec<Written>>;

/// Which program asks.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// The folder of its `Cargo.toml`.
    pub folder: &'static str,
    /// Its version.
    pub release: &'static str,
    /// The path of the module that asks.
    pub module: &'static str,
}

/// What is to be done with the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// It is compared.
    No,
    /// What is new is added.
    Add,
    /// And takes the place of what the same release has written.
    Replace,
}

impl Update {
    fn asked() -> Self {
        match env::var("UPDATE_PAYLOADS").as_deref() {
            Ok("1") => Self::Add,
            Ok("replace") => Self::Replace,
            _ => Self::No,
        }
    }
}

/// See [`payloads!`](crate::payloads).
///
/// # Panics
/// Where a row could not be read, a payload is new, or a task has no sample.
#[track_caller]
pub fn check(program: Program, file: &str, samples: &[Sample]) {
    check_and_update(program, file, samples, Update::asked());
}

/// The same, with what the environment asks for.
///
/// # Panics
/// As [`check`] does.
#[track_caller]
pub fn check_and_update(program: Program, file: &str, samples: &[Sample], update: Update) {
    let path = Path::new(program.folder).join(file);
    let mut golden = match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str::<Golden>(&text).unwrap_or_else(|error| {
            panic!(
                "the golden file {} is broken: {error}; restore it from your version control, which has what earlier releases \
                 have written",
                path.display()
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Golden::new(),
        Err(error) => panic!("the golden file {} cannot be read: {error}", path.display()),
    };
    let mut wrong = Vec::new();
    let mut new = Vec::new();
    if update == Update::Replace {
        samples.iter().for_each(|sample| make_room(sample, program.release, &mut golden));
    }
    for sample in samples {
        compare(sample, program.release, &mut golden, &mut wrong, &mut new);
    }
    // A test beside the sources is of another crate than the tasks.
    let root = |path: &'static str| path.split("::").next().unwrap_or_default();
    let roots: HashSet<_> = samples.iter().map(|sample| sample.task).chain([program.module]).map(root).collect();
    for name in golden.keys() {
        if !samples.iter().any(|sample| sample.task == name || sample.was.contains(&&**name)) {
            wrong.push(format!(
                "the golden file has rows of `{name}`, of which there is no sample: add a call of it to the list; write `was = \"{name}\"` \
                 on the task that it has become; or take it out of the file when none of its rows waits any more"
            ));
        }
    }
    for task in inventory::iter::<Registered> {
        let ours = task.name.contains("::") && roots.contains(root(task.name));
        if ours && !samples.iter().any(|sample| sample.task == task.name) {
            wrong.push(format!("the task `{}` has no sample: add a call of it to the list", task.name));
        }
    }
    if update != Update::No {
        let text = serde_json::to_string_pretty(&golden).unwrap_or_default() + "\n";
        if let Err(error) = fs::write(&path, text) {
            panic!("the golden file {} cannot be written: {error}", path.display());
        }
    } else {
        wrong.extend(new);
    }
    let mut text = format!("this is wrong with the payloads of {}:", path.display());
    wrong.iter().for_each(|wrong| text.extend(["\n  ", wrong]));
    assert!(wrong.is_empty(), "{text}");
}

/// Whether all that was written of a task can be read, and its sample was written.
fn compare(sample: &Sample, release: &str, golden: &mut Golden, wrong: &mut Vec<String>, new: &mut Vec<String>) {
    let Sample { task, was, payload, read } = sample;
    let of_sample = match payload {
        Ok(payload) => payload,
        Err(error) => return wrong.push(format!("the sample of `{task}` cannot be stored: {error}")),
    };
    let mut is_read = true;
    for name in was.iter().chain([task]) {
        for Written { release, payload } in golden.get(*name).into_iter().flatten() {
            if let Err(error) = read(payload.get()) {
                is_read = false;
                wrong.push(format!(
                    "rows of `{name}` that release {release} has written cannot be read any more, and would wait until they are dead \
                     letters: {error}.{} For an argument of another type give the task another name, and keep the old one until its rows \
                     are gone. If no database has such a row yet, run the test with UPDATE_PAYLOADS=replace",
                    if error.to_string().contains("missing") { renamed(payload.get(), of_sample) } else { String::new() }
                ));
            }
        }
    }
    let written = golden.entry((*task).to_owned()).or_default();
    if is_read && !written.iter().any(|written| fields(written.payload.get()) == fields(of_sample)) {
        new.push(format!(
            "the payload of `{task}` is new: {of_sample}; run the test with UPDATE_PAYLOADS=1, which adds it as one of release {release}"
        ));
        if let Ok(payload) = RawValue::from_string(of_sample.clone()) {
            written.push(Written { release: release.to_owned(), payload });
        }
    }
}

/// Forgets what this release has written of a task otherwise than the sample is, also by its old names.
fn make_room(sample: &Sample, release: &str, golden: &mut Golden) {
    let Sample { task, was, payload: Ok(payload), .. } = sample else { return };
    for name in was.iter().chain([task]) {
        if let Some(written) = golden.get_mut(*name) {
            written.retain(|written| written.release != release || fields(written.payload.get()) == fields(payload));
        }
    }
}

/// What is said of arguments that were written, and that the sample does not have.
fn renamed(written: &str, sample: &str) -> String {
    let (written, sample) = (fields(written).unwrap_or_default(), fields(sample).unwrap_or_default());
    let gone = written.keys().filter(|name| !sample.contains_key(*name));
    gone.map(|name| {
        format!(" The row has `{name}`: if the argument was renamed, write `#[serde(alias = \"{name}\")]` on it.")
    })
    .collect()
}

/// The arguments, in no order.
fn fields(json: &str) -> Option<BTreeMap<String, String>> {
    let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(json).ok()?;
    Some(fields.into_iter().map(|(name, value)| (name, compact(value.get()))).collect())
}

/// Without the blanks between its parts.
fn compact(json: &str) -> String {
    let (mut compact, mut in_text, mut escaped) = (String::with_capacity(json.len()), false, false);
    for character in json.chars() {
        if in_text || !character.is_ascii_whitespace() {
            compact.push(character);
        }
        in_text ^= character == '"' && !escaped;
        escaped = in_text && character == '\\' && !escaped;
    }
    compact
}
