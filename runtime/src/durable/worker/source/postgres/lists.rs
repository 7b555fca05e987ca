//! Lists of values as one text each.
//!
//! Must not know: which statements take them.

use serde::Serialize;

use crate::durable::id::TaskId;

/// Identifiers as PostgreSQL writes an array.
pub(super) fn ids(tasks: &[TaskId]) -> String {
    let mut text = String::from("{");
    for (at, id) in tasks.iter().enumerate() {
        text.push_str(if at == 0 { "" } else { "," });
        text.push_str(&id.to_string());
    }
    text.push('}');
    text
}

/// Values as a JSON array. Those of this crate all have a JSON form; a text without one would be an
/// error of the statement that takes it.
pub(super) fn json<T: Serialize>(values: &[T]) -> String {
    serde_json::to_string(values).unwrap_or_default()
}
