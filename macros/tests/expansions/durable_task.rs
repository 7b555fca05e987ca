#[deferred_task(durable, queue = "mail", max_attempts = 5, timeout = "30s", unique, key = "receipt-{order_id}")]
pub async fn send_receipt(#[state] mailer: &Mailer, order_id: i64, email: &str) -> Result<(), MailError> {
    mailer.receipt(order_id, email).await
}
