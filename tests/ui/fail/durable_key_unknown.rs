use diesel_deferred::deferred_task;

#[deferred_task(durable, key = "order-{id}")]
fn send_receipt(order_id: i64) {
    println!("{order_id}");
}

#[deferred_task(durable, key = "{customer}-{order_id:>width$}-{ORDERS}")]
fn send_invoice(customer_id: i64, order_id: i64, #[secret] token: &str) {
    println!("{customer_id} {order_id} {token}");
}

#[deferred_task(durable, key = "{day}")]
fn send_report() {}

fn main() {}
