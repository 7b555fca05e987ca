use std::fmt::Display;

use diesel_deferred::deferred_task;

#[deferred_task]
async fn print<P: Display + Send + Sync>(#[state] prefix: &P, user_id: i32) {
    println!("{prefix} {user_id}");
}

fn main() {}
