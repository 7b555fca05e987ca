use diesel_deferred::deferred_task;

#[deferred_task(durable, timeout = "30")]
async fn without_unit() {}

#[deferred_task(durable, timeout = 30)]
async fn a_number() {}

#[deferred_task(durable, backoff = "1 hour")]
async fn in_words() {}

#[deferred_task(durable, backoff = "0s")]
async fn zero() {}

#[deferred_task(durable, timeout = "1.5s", backoff = "-1s")]
async fn neither_whole_nor_positive() {}

#[deferred_task(durable, timeout)]
async fn without_a_value() {}

fn main() {}
