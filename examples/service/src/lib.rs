//! A sign-up service with axum, and a worker for its durable tasks: what the two binaries `service`
//! and `worker` share.
//!
//! The tasks are here, so that both are linked with them.

pub mod cache;
pub mod database;
pub mod errors;
pub mod faults;
pub mod mail;
pub mod metrics;
pub mod orders;
pub mod settings;
pub mod telemetry;
#[cfg(test)]
mod tests;
pub mod users;
pub mod work;
