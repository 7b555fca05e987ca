use diesel::prelude::*;
use diesel_deferred::deferred_task;

#[deferred_task]
fn send(user_id: i32) {
    println!("{user_id}");
}

fn helper(url: &mut [u8; 4]) -> QueryResult<()> {
    send(1).after_commit(url)
}

fn main() {}
