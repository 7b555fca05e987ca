use diesel_deferred::deferred_task;

#[deferred_task]
#[tracing::instrument]
fn change_password(user_id: i32, #[secret] password: &str) {
    println!("{user_id} {}", password.len());
}

#[deferred_task]
#[tracing::instrument(skip(password), level = "debug")]
fn skipped(user_id: i32, #[secret] password: &str) {
    println!("{user_id} {}", password.len());
}

fn main() {}
