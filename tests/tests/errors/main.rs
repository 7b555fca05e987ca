//! RULES, chapter "Errors, panics, lost connections", and what DIESEL.md 3.2 says about commits
//! that did not commit.

mod commit_failures;
mod ended_early;
mod hooks;
mod lost;
mod panics;
mod retries;
mod swallowed;
