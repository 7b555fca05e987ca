use diesel_deferred::deferred_task;

#[deferred_task(durable, timeout = "30")]
fn without_unit() {}

#[deferred_task(durable, timeout = 30)]
fn a_number() {}

#[deferred_task(durable, backoff = "1 hour")]
fn in_words() {}

#[deferred_task(durable, backoff = "0s")]
fn zero() {}

#[deferred_task(durable, timeout = "1.5s", backoff = "-1s")]
fn neither_whole_nor_positive() {}

#[deferred_task(durable, timeout)]
fn without_a_value() {}

fn main() {}
