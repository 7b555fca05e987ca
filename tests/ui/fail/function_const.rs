use diesel_deferred::deferred_task;

#[deferred_task]
const fn nothing() {}

fn main() {}
