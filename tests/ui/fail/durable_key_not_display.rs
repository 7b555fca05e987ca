use diesel_deferred::deferred_task;

#[deferred_task(durable, key = "orders-{order_ids}")]
fn send_receipts(order_ids: Vec<i64>) {
    println!("{order_ids:?}");
}

fn main() {}
