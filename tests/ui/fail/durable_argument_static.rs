use diesel_deferred::deferred_task;

#[deferred_task(durable)]
fn send(template: &'static str, user_id: i32) {
    println!("{template} {user_id}");
}

fn main() {
    let _ = send("welcome", 1);
}
