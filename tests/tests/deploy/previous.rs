//! The version that is at work.

use diesel_deferred::deferred_task;
use diesel_deferred_tests::Notes;

#[deferred_task(durable, name = "deploy::same", max_attempts = 1)]
pub async fn same(#[state] notes: &Notes, id: i32) {
    notes.add(format!("same {id} previous"));
}

#[deferred_task(durable, name = "deploy::removed", max_attempts = 1)]
pub async fn removed(#[state] notes: &Notes, id: i32) {
    notes.add(format!("removed {id} previous"));
}

#[deferred_task(durable, name = "deploy::old_name", max_attempts = 1)]
pub async fn old_name(#[state] notes: &Notes, id: i32) {
    notes.add(format!("old_name {id} previous"));
}

#[deferred_task(durable, name = "deploy::argument_added", max_attempts = 1)]
pub async fn argument_added(#[state] notes: &Notes, id: i32) {
    notes.add(format!("argument_added {id} previous"));
}

#[deferred_task(durable, name = "deploy::argument_removed", max_attempts = 1)]
pub fn argument_removed(#[state] notes: &Notes, id: i32, text: String) {
    assert_eq!(text, "gone");
    notes.add(format!("argument_removed {id} previous"));
}

#[deferred_task(durable, name = "deploy::argument_optional", max_attempts = 1)]
pub async fn argument_optional(#[state] notes: &Notes, id: i32, times: u8) {
    assert_eq!(times, 7);
    notes.add(format!("argument_optional {id} previous"));
}

#[deferred_task(durable, name = "deploy::type_widened", max_attempts = 1)]
pub async fn type_widened(#[state] notes: &Notes, id: i32, number: u8) {
    assert_eq!(number, 7);
    notes.add(format!("type_widened {id} previous"));
}

#[deferred_task(durable, name = "deploy::type_changed", max_attempts = 1)]
pub async fn type_changed(#[state] notes: &Notes, id: i32, number: u8) {
    assert_eq!(number, 7);
    notes.add(format!("type_changed {id} previous"));
}
