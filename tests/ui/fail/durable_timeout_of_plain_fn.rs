use diesel_deferred::deferred_task;

#[deferred_task(durable, timeout = "30s")]
fn resize(picture_id: i32) {
    let _ = picture_id;
}

fn main() {}
