//! The version that is deployed.

use diesel_deferred::deferred_task;
use diesel_deferred_tests::Notes;

#[deferred_task(durable, name = "deploy::same", max_attempts = 1)]
pub async fn same(#[state] notes: &Notes, id: i32) {
    notes.add(format!("same {id} next"));
}

#[deferred_task(durable, name = "deploy::added", max_attempts = 1)]
pub async fn added(#[state] notes: &Notes, id: i32) {
    notes.add(format!("added {id} next"));
}

/// It was called otherwise twice, and some of its calls still are.
#[deferred_task(durable, name = "deploy::new_name", was = "deploy::old_name", was = "deploy::older", max_attempts = 1)]
pub async fn new_name(#[state] notes: &Notes, id: i32) {
    let called = if id < 100 { "old_name" } else { "new_name" };
    notes.add(format!("{called} {id} next"));
}

#[deferred_task(durable, name = "deploy::argument_added", max_attempts = 1)]
pub async fn argument_added(#[state] notes: &Notes, id: i32, #[serde(default)] times: u8) {
    assert_eq!(times, if id < 100 { 0 } else { 3 });
    notes.add(format!("argument_added {id} next"));
}

#[deferred_task(durable, name = "deploy::argument_removed", max_attempts = 1)]
pub fn argument_removed(#[state] notes: &Notes, id: i32) {
    notes.add(format!("argument_removed {id} next"));
}

#[deferred_task(durable, name = "deploy::argument_optional", max_attempts = 1)]
pub async fn argument_optional(#[state] notes: &Notes, id: i32, times: Option<u8>) {
    assert_eq!(times, (id < 100).then_some(7));
    notes.add(format!("argument_optional {id} next"));
}

#[deferred_task(durable, name = "deploy::type_widened", max_attempts = 1)]
pub async fn type_widened(#[state] notes: &Notes, id: i32, number: u64) {
    assert_eq!(number, if id < 100 { 7 } else { 1 << 40 });
    notes.add(format!("type_widened {id} next"));
}

#[deferred_task(durable, name = "deploy::type_changed", max_attempts = 1)]
pub async fn type_changed(#[state] notes: &Notes, id: i32, number: String) {
    assert_eq!(number, "seven");
    notes.add(format!("type_changed {id} next"));
}
