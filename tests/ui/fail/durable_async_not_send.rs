use std::rc::Rc;

use diesel_deferred::deferred_task;

#[deferred_task(durable)]
async fn send_welcome(user_id: i32) {
    let shared = Rc::new(user_id);
    tokio::task::yield_now().await;
    println!("{shared}");
}

fn main() {}
