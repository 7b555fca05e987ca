use diesel_deferred::deferred_task;

#[deferred_task(blocking = true)]
fn resize(user_id: i32) {
    println!("{user_id}");
}

#[deferred_task(blocking(true))]
fn shrink(user_id: i32) {
    println!("{user_id}");
}

#[deferred_task(blocking, blocking)]
fn crop(user_id: i32) {
    println!("{user_id}");
}

fn main() {}
