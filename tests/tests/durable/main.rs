//! Durable tasks on their way into the table: calls become rows in the transaction that they are
//! made in, and in no other.

mod calls;
mod cancelled;
mod commit_failures;
mod ended;
mod failing;
mod lost;
mod migrations;
mod mistakes;
mod nonblocking;
#[cfg(feature = "postgres")]
mod notified;
mod page;
mod payload;
mod pools;
mod spill;
mod spill_async;
mod statements;
mod tasks;
mod unique;
