use diesel_deferred::deferred_task;

#[deferred_task]
fn count(user_id: i32, seen: &mut u64) {
    *seen += user_id as u64;
}

fn main() {}
