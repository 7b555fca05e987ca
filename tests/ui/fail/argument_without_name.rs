use diesel_deferred::deferred_task;

#[deferred_task]
fn ignore(_: i32) {}

fn main() {}
