use diesel_deferred::deferred_task;

#[deferred_task(durable, queue = "", key = "")]
fn send_welcome(user_id: i32) {
    println!("{user_id}");
}

#[deferred_task(durable = true, queue = mail)]
fn send_receipt(order_id: i64) {
    println!("{order_id}");
}

fn main() {}
