use std::borrow::Cow;

use diesel_deferred::deferred_task;

#[deferred_task]
async fn print(#[state] prefix: &Cow<'_, str>, user_id: i32) {
    println!("{prefix} {user_id}");
}

fn main() {}
