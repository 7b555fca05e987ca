use diesel_deferred::deferred_task;

#[deferred_task(queue = "mail", unique)]
fn send_welcome(user_id: i32) {
    println!("{user_id}");
}

fn main() {
    let _ = send_welcome(1).priority(2);
}
