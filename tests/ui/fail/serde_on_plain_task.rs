use diesel_deferred::deferred_task;

struct Mailer;

#[deferred_task]
fn send_welcome(#[serde(default)] user_id: i32) {
    println!("{user_id}");
}

#[deferred_task(durable)]
fn send_receipt(#[state] #[serde(skip)] mailer: &Mailer, order_id: i64) {
    let _ = mailer;
    println!("{order_id}");
}

fn main() {}
