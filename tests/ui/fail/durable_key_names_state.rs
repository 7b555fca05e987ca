use diesel_deferred::deferred_task;

struct Mailer;

#[deferred_task(durable, key = "{mailer}-{order_id}")]
fn send_receipt(#[state] mailer: &Mailer, order_id: i64) {
    let _ = mailer;
    println!("{order_id}");
}

fn main() {
    let _ = send_receipt(1);
}
