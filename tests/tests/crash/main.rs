//! Processes that die at any moment, connections that are lost, servers that restart, and clocks
//! that are wrong: no committed task is lost, and none of a block that was rolled back runs.
//!
//! `CRASH_ROUNDS` is how often a process is killed on each database (70 otherwise), `CRASH_SEED`
//! repeats the kills of a run that printed it.

/// Prints something, also where the test does well and what it prints is captured.
macro_rules! say {
    ($($argument:tt)*) => {{
        let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{}\n", format_args!($($argument)*)).as_bytes());
    }};
}
use say;

mod child;
mod enqueue;
mod journal;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod lost;
mod memory;
mod poison;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod restart;
mod rounds;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod server;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod skew;
mod spans;
mod tasks;
mod verdict;
mod workers;
