use diesel_deferred::deferred_task;

#[deferred_task(durable, blocking)]
fn send_welcome(user_id: i32) {
    println!("{user_id}");
}

fn main() {}
