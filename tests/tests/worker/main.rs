//! Durable tasks: what a worker does with the rows.

mod basics;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod given_up;
mod history;
mod keys;
mod late;
mod layers;
mod leases;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod locked;
mod operations;
mod order;
mod panics;
#[cfg(feature = "postgres")]
mod plans;
#[cfg(feature = "postgres")]
mod pooler;
mod retries;
mod schema;
mod secrets;
mod states;
mod stop;
mod strange_rows;
mod support;
mod times;
mod told;
mod unique;
mod until_empty;
mod wake;
