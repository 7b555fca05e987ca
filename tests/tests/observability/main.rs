//! What a program sees of hooks, tasks and workers from outside: metrics and traces.

mod exported;
mod metrics;
mod recorded;
mod traces;
