use diesel_deferred::deferred_task;

#[deferred_task(name = 5)]
fn send_welcome(user_id: i32) {
    println!("{user_id}");
}

#[deferred_task(name)]
fn send_receipt(order_id: i64) {
    println!("{order_id}");
}

#[deferred_task(name = "")]
fn send_reminder(user_id: i32) {
    println!("{user_id}");
}

#[deferred_task(crate = "not a path")]
fn send_goodbye(user_id: i32) {
    println!("{user_id}");
}

#[deferred_task("mail.news")]
fn send_news(user_id: i32) {
    println!("{user_id}");
}

#[deferred_task(name = mail)]
fn send_mail(user_id: i32) {
    println!("{user_id}");
}

#[deferred_task(name("mail"))]
fn send_letter(user_id: i32) {
    println!("{user_id}");
}

fn main() {}
