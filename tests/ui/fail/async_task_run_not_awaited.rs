#![deny(unused_must_use)]

use diesel_deferred::deferred_task;

#[deferred_task]
async fn send(user_id: i32) {
    println!("{user_id}");
}

async fn resend() {
    send(1).run();
}

async fn forget() {
    send(1);
}

fn main() {}
