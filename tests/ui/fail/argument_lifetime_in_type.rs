use std::borrow::Cow;

use diesel_deferred::deferred_task;

#[deferred_task]
fn greet(user_id: i32, nickname: Cow<'_, str>) {
    println!("{user_id} {nickname}");
}

fn main() {}
