use std::sync::Mutex;

use diesel_deferred::deferred_task;

#[deferred_task]
async fn count(#[state] counter: &Mutex<i32>) {
    let mut counter = counter.lock().unwrap();
    tokio::task::yield_now().await;
    *counter += 1;
}

fn main() {}
