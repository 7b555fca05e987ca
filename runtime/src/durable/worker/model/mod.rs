//! The table's protocol in memory: what each statement does, as short and readable as can be. It is
//! the definition; the three databases do the same.
//!
//! `table` is the definition, and `examples` has a rule each. `sequence` runs random operations on
//! it and on a database, and compares answers and rows.
//!
//! Must not know: any SQL.

mod calls;
mod examples;
mod sequence;
#[cfg(feature = "async-sqlite")]
mod simulation;
mod table;
