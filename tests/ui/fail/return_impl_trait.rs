use diesel_deferred::deferred_task;

#[deferred_task]
fn send(user_id: i32) -> impl Sized {
    println!("{user_id}");
}

fn main() {}
