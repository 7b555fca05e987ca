use diesel_deferred::deferred_task;

mod send {
    pub fn now() {}
}

#[deferred_task]
fn send(user_id: i32) {
    println!("{user_id}");
}

fn main() {
    send::now();
}
