#![deny(unused_must_use)]

use diesel_deferred::deferred_task;

#[deferred_task]
fn send(user_id: i32) {
    println!("{user_id}");
}

fn main() {
    send(1);
}
