use diesel_deferred::deferred_task;

async fn deliver(user_id: i32) -> Result<(), Box<dyn std::error::Error>> {
    Err(format!("{user_id}").into())
}

#[deferred_task]
async fn send_welcome(user_id: i32) -> Result<(), String> {
    let sent = deliver(user_id).await;
    tokio::task::yield_now().await;
    sent.map_err(|error| error.to_string())
}

fn main() {}
