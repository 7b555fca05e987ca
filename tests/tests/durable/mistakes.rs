//! D5, D23: calls that cannot become rows: what is said of them, and when.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use diesel::prelude::*;
use diesel_deferred::{CannotStore, CommitError, atomic, deferred_task};
use diesel_deferred_tests::{Database, NOTHING, Scratch, on_every_database, refusal, rolled_back};
use serde::{Deserialize, Serialize};

use crate::tasks::{assert_usable, first, firsts, nested, ready, stored};

on_every_database! {
    d05_what_cannot_be_written_is_refused_at_commit,
    d05_and_at_once_by_after_commit,
    d05_what_was_rolled_back_is_no_mistake,
}

#[deferred_task(durable)]
fn second(text: &str) {
    let _ = text;
}

#[deferred_task(durable)]
fn amount(value: f64) {
    let _ = value;
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Measured {
    at: Vec<(String, Place)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Place {
    At { longitude: f32, latitude: Option<f32> },
}

#[deferred_task(durable)]
fn measured(id: i32, measured: Measured) {
    let _ = (id, measured);
}

#[deferred_task(durable)]
fn rated(#[serde(default)] rate: Option<f64>) {
    let _ = rate;
}

#[deferred_task(durable)]
fn maybe(value: Option<Option<i32>>) {
    let _ = value;
}

#[deferred_task(durable)]
fn tree(value: serde_json::Value) {
    let _ = value;
}

#[deferred_task(durable)]
fn flat(id: i32, #[serde(flatten)] more: BTreeMap<String, i32>) {
    let _ = (id, more);
}

#[deferred_task(durable)]
fn paired(pairs: BTreeMap<(i32, i32), i32>) {
    let _ = pairs;
}

#[deferred_task(durable)]
fn at_path(path: &Path) {
    let _ = path;
}

fn place(longitude: f32, latitude: Option<f32>) -> Measured {
    Measured { at: vec![("here".into(), Place::At { longitude, latitude })] }
}

/// The mistakes: what is called, and what is said of it.
macro_rules! for_each_mistake {
    (|$task:ident, $name:ident, $says:ident| $check:block) => {{
        for_each_mistake!(@ $task $name $says $check
            "amount", "its argument `value` could not be written as JSON: JSON has no number for NaN" => amount(f64::NAN);
            "amount", "its argument `value` could not be written as JSON: JSON has no number for -inf" => amount(f64::NEG_INFINITY);
            "measured", "its argument `measured` could not be written as JSON: JSON has no number for NaN (at `.at[0][1].latitude`)" => measured(1, place(1.0, Some(f32::NAN)));
            "measured", "its argument `measured` could not be written as JSON: JSON has no number for inf (at `.at[0][1].longitude`)" => measured(1, place(f32::INFINITY, None));
            "rated", "its argument `rate` could not be written as JSON: JSON has no number for NaN" => rated(Some(f64::NAN));
            "maybe", "its argument `value` could not be written as JSON: a `Some` of what is `null` in JSON would be read as `None`; make it an enum with a name for each case" => maybe(Some(None));
            "tree", "its argument `value` could not be written as JSON: it nests more than 126 levels deep, which nobody could read; store it in a table, and pass its key (at `[0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0]…`)" => tree(nested(200));
            "flat", "two of its arguments have one name in JSON, so that not both could be read; rename one of them, or do without `#[serde(flatten)]`" => flat(1, BTreeMap::from([("id".into(), 2)]));
            "paired", "its argument `pairs` could not be written as JSON: key must be a string" => paired(BTreeMap::from([((1, 2), 3)]));
            "at_path", "its argument `path` could not be written as JSON: path contains invalid UTF-8 characters" => at_path(Path::new(OsStr::from_bytes(b"\xff")));
            "second", "its arguments take 1048587 bytes as JSON, and 1048576 are allowed; store what is large in a table, and pass its key" => second(&"x".repeat(1 << 20));
            "first", "its queue is empty" => first(1).queue("");
            "first", "its key is empty" => first(1).key("");
            "first", "its queue holds a NUL character, which not all databases can store" => first(1).queue("a\0b");
            "first", "its key holds a NUL character, which not all databases can store" => first(1).key("\0");
            "first", "its key has 256 characters, and 255 are allowed" => first(1).key("ä".repeat(256));
            "first", "its queue has 300 characters, and 255 are allowed" => first(1).queue("q".repeat(300));
        );
    }};
    (@ $task:ident $name:ident $says:ident $check:block $($of:literal, $text:literal => $call:expr;)*) => {
        $({
            macro_rules! $task {
                () => {
                    $call
                };
            }
            let ($name, $says) = ($of, $text);
            $check
        })*
    };
}

fn assert_refused(error: &diesel::result::Error, name: &str, says: &str, line: Option<u32>) {
    let Some(CommitError::TaskCannotBeStored(cannot_store @ CannotStore { task, call_site, reason, .. })) =
        CommitError::of(error)
    else {
        panic!("{error:?}")
    };
    assert!(task.rsplit("::").next() == Some(name), "{task}");
    assert_eq!(reason, says);
    assert!(call_site.file().ends_with("mistakes.rs"), "{call_site}");
    assert!(line.is_none_or(|line| line == call_site.line()), "{call_site}");
    let text = error.to_string();
    assert_eq!(
        text,
        format!("the transaction was rolled back, nothing was committed: the durable task {cannot_store}")
    );
    assert!(text.contains(&format!("`{task}` (called at {call_site}) could not be stored: {says}")), "{text}");
}

/// D5: as a statement, the block goes on to its end, and fails there.
fn d05_what_cannot_be_written_is_refused_at_commit<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    for_each_mistake!(|task, name, says| {
        let mut reached = false;
        let result = atomic!(conn, -> QueryResult<()>, {
            C::insert(conn, 1)?;
            first(0);
            let call = task!();
            call;
            first(2);
            reached = true;
            Ok(())
        });
        assert!(reached);
        assert_refused(&result.unwrap_err(), name, says, None);
        assert_eq!((db.committed(), stored(db)), (NOTHING.to_vec(), vec![]));
    });
    assert_usable(db, conn);
}

/// D5, C17: where it is asked for its identity, it has none.
fn d05_and_at_once_by_after_commit<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    for_each_mistake!(|task, name, says| {
        atomic!(conn, -> QueryResult<()>, {
            let error = task!().after_commit(conn).unwrap_err();
            assert_refused(&error, name, says, None);
            assert_eq!(conn.pending(), [], "the block may go on without it");
            Ok(())
        })
        .unwrap();
    });
    let line = line!() + 1;
    let result = atomic!(conn, -> QueryResult<_>, { first(1).key("").after_commit(conn) });
    assert_refused(&result.unwrap_err(), "first", "its key is empty", Some(line));
    assert_eq!(stored(db).len(), 0);
    assert_usable(db, conn);
}

/// D3: a nested block that is rolled back takes its mistakes along.
fn d05_what_was_rolled_back_is_no_mistake<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    for inner_commits in [true, false] {
        let result = atomic!(conn, -> QueryResult<()>, {
            first(1);
            let _ = atomic!(conn, -> QueryResult<()>, {
                amount(f64::NAN);
                if inner_commits { Ok(()) } else { rolled_back() }
            });
            Ok(())
        });
        if inner_commits {
            assert_eq!(refusal(&result), "TaskCannotBeStored");
        } else {
            assert_eq!(result, Ok(()));
        }
    }
    assert_eq!(stored(db), firsts([1]));
}
