//! Durable tasks on their way into the table: calls become rows in the transaction that they are made in, and in no other.

mod calls;
mod cancelled;
mod ended;
mod failing;
mod migrations;
mod nonblocking;
mod payload;
mod pools;
mod spill;
mod spill_async;
mod statements;
mod tasks;
mod unique;
