#[deferred_task]
async fn publish<E: Event>(event: E, #[state] broker: &Broker<E>)
where
    E: Send + 'static,
{
    broker.publish(event).await;
}
