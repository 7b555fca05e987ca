use diesel_deferred::deferred_task;

#[deferred_task]
fn send(user_id: i32) -> Result<i32, std::io::Error> {
    Ok(user_id)
}

fn main() {}
