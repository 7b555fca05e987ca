//! Lists of values as one text each.
//!
//! Must not know: which statements take them.

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

/// Words as a JSON array.
pub(super) fn words(words: &[&str]) -> String {
    serde_json::to_string(words).unwrap_or_default()
}
