//! Asynchronous connections: registration, nesting, what a commit is worth, and what diesel-async offers besides.

mod cost;
mod fixture;
mod in_hooks;
mod library;
mod options;
mod pools;
mod registration;
mod retries;
mod shapes;
mod test_transactions;
mod tree;
mod when;
