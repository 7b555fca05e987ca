use std::cell::Cell;

use diesel_deferred::deferred_task;

#[deferred_task(durable)]
async fn count(#[state] seen: &Cell<i32>, by: i32) {
    seen.set(seen.get() + by);
}

fn main() {}
