use diesel_deferred::deferred_task;

#[deferred_task]
async fn countdown(left: i32) {
    if left > 0 {
        countdown(left - 1).run().await;
    }
}

fn main() {}
