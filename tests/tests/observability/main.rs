//! What a program sees of hooks, tasks and workers from outside: metrics.

mod metrics;
mod recorded;
