//! The expansions are free of lints: what is compiled here is the whole test.

#[path = "../ui/lints.rs"]
pub mod lints;
