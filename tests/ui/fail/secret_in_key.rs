use diesel_deferred::deferred_task;

#[deferred_task(durable, key = "user-{email:?}")]
fn reset_password(user_id: i64, #[secret] email: &str) {
    println!("{user_id} {email}");
}

#[deferred_task(durable, key = "{user_id:>width$}")]
fn call(user_id: i64, #[secret] width: usize) {
    println!("{user_id} {width}");
}

fn main() {}
