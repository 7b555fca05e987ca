//! Durable tasks: what a worker does with the rows.

mod basics;
