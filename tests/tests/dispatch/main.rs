//! Tasks that do not run on the committing thread: where they run, how many at a time, what becomes
//! of them when the dispatcher or its runtime shuts down, what they are given, and what is told of
//! those that fail.
//!
//! Connections have dispatchers of their own here: the process's one belongs to a single test
//! (`process`).

mod dead_runtimes;
mod drops;
mod failures;
mod idle;
mod nonblocking;
mod places;
mod process;
mod races;
mod shutdown;
mod slots;
mod states;
mod support;
