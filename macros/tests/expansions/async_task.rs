#[deferred_task]
#[tracing::instrument]
pub async fn send_welcome(user_id: i32, email: &str) -> Result<(), MailError> {
    deliver(user_id, email).await
}
