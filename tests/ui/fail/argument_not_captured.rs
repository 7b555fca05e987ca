use diesel_deferred::deferred_task;

#[deferred_task]
fn greet(user_id: i32, name: &str) {
    println!("{user_id} {name}");
}

fn main() {
    let _ = greet("ada", 1);
}
