use diesel_deferred::deferred_task;

#[deferred_task(durable, max_attempts = 0)]
fn never() {}

#[deferred_task(durable, max_attempts = 65536)]
fn too_often() {}

#[deferred_task(durable, max_attempts = "5")]
fn a_string() {}

#[deferred_task(durable, priority = 40000)]
fn too_late() {}

#[deferred_task(durable, priority = "high")]
fn in_words() {}

fn main() {}
