#[deferred_task(blocking)]
async fn count(#[state] seen: &Counter, by: u64) {
    seen.add(by).await;
}
