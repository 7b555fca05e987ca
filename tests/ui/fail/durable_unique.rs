use diesel_deferred::deferred_task;

#[deferred_task(durable, unique = "drop")]
fn send_welcome(user_id: i32) {
    println!("{user_id}");
}

#[deferred_task(durable, unique = true)]
fn send_receipt(order_id: i64) {
    println!("{order_id}");
}

#[deferred_task(durable, unique, unique = "keep")]
fn send_reminder(user_id: i32) {
    println!("{user_id}");
}

fn main() {}
