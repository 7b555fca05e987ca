use diesel_deferred::deferred_task;

#[deferred_task(durable, key = "order-{id}")]
fn send_receipt(order_id: i64) {
    println!("{order_id}");
}

fn main() {}
