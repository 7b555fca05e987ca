//! A task that became two, both of which claim its calls.

use diesel_deferred::deferred_task;

#[deferred_task(durable, was = "deploy::split")]
pub async fn one() {}

#[deferred_task(durable, was = "deploy::split")]
pub async fn other() {}
