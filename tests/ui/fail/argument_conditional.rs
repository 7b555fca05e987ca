use diesel_deferred::deferred_task;

#[deferred_task]
fn greet(user_id: i32, #[cfg(unix)] socket: String) {
    println!("{user_id}");
}

fn main() {}
