use diesel_deferred::deferred_task;

struct MailError;

#[deferred_task]
fn send(user_id: i32) -> Result<(), MailError> {
    println!("{user_id}");
    Err(MailError)
}

fn main() {}
