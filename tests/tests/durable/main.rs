//! Durable tasks on their way into the table: calls become rows in the transaction that they are made in, and in no other.

mod calls;
mod ended;
mod failing;
mod payload;
mod spill;
mod statements;
mod tasks;
mod unique;
