#[deferred_task]
async fn send_receipt(#[state] mailer: Mailer, order: i64, #[state] config: &Config) -> Result<(), MailError> {
    mailer.receipt(order, config).await
}

#[deferred_task]
fn evict(key: &str, #[state] mut cache: Cache, #[state] config: &Config) {
    cache.remove(key, config);
}
