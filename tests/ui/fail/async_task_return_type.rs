use diesel_deferred::deferred_task;

#[deferred_task]
async fn count(user_id: i32) -> i32 {
    user_id + 1
}

fn main() {}
