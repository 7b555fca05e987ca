//! The test kit, tested: chapter T of the rules.

mod capture;
mod drain;
mod enqueued;
mod lost;
mod messages;
mod modes;
mod nonblocking;
mod payloads;
mod perform;
mod pools;
mod tasks;
mod ui;
