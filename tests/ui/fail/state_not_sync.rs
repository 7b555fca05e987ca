use std::cell::Cell;

use diesel_deferred::deferred_task;

#[deferred_task]
async fn count(#[state] counter: &Cell<i32>, by: i32) {
    counter.set(counter.get() + by);
}

fn main() {}
