//! RULES, chapter "Nesting", and T1 of "Test support".

mod foreign;
mod leftovers;
mod rollback_hooks;
mod test_transactions;
mod tree;
