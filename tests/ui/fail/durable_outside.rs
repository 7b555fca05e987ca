#![deny(unused_must_use)]

use std::time::Duration;

use diesel_deferred::deferred_task;

#[deferred_task(durable)]
fn send(user_id: i32) {
    println!("{user_id}");
}

fn main() {
    send(1);
    send(2).delay(Duration::from_secs(60));
}
