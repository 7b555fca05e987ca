use diesel_deferred::deferred_task;

#[deferred_task]
fn count(user_id: i32) -> usize {
    user_id as usize
}

fn main() {}
