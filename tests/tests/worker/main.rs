//! Durable tasks: what a worker does with the rows.

mod basics;
mod keys;
mod order;
mod panics;
mod retries;
mod strange_rows;
mod support;
mod times;
mod unique;
