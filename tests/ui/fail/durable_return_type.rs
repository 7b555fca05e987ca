use diesel_deferred::deferred_task;

#[deferred_task(durable)]
fn total(user_id: i32) -> i32 {
    user_id
}

#[deferred_task(durable)]
async fn total_later(user_id: i32) -> i32 {
    user_id
}

fn main() {}
