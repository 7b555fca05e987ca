//! Asynchronous connections: registration, nesting, what a commit is worth, and what diesel-async
//! offers besides.

mod arguments;
mod cost;
mod deep;
mod ends;
mod fixture;
mod in_hooks;
mod leftovers;
mod library;
mod options;
mod pools;
#[cfg(feature = "postgres")]
mod postgres_only;
mod registration;
mod retries;
mod shapes;
mod shared;
mod swallowed;
mod test_transactions;
mod tree;
mod when;
