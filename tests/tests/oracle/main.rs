//! N13, the oracle that binds the rules: over random trees of everything that can happen in a
//! block, a hook ran if and only if its witness row is visible from a second connection; and the
//! call of a durable task is a row if and only if that is so (D1).
//!
//! The trees ([`tree`]), what their hooks write down and the verdict on that ([`verdict`]) are the
//! same for synchronous ([`blocking`]) and asynchronous ([`nonblocking`], [`connections`]) ones;
//! only who runs the trees differs. On asynchronous ones trees are also dropped in the middle, as a
//! whole or a block of them (A2, A3), and several run at a time (A4).
//!
//! `ORACLE_SEED=…` repeats a run, `ORACLE_TREES=…` sets the number of trees.

mod blocking;
mod connections;
mod nonblocking;
mod tree;
mod verdict;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

/// A row that is always there, to run into.
const TAKEN: i32 = 0;

/// Checks `default` random cases, or as many as the environment says.
fn run<S: Strategy>(database: &str, default: u64, cases: &S, check: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let trees = from_environment("ORACLE_TREES").unwrap_or(default);
    let seed = from_environment("ORACLE_SEED").unwrap_or_else(random);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases: trees as u32, failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    if let Err(error) = runner.run(cases, check) {
        panic!("{database}: {error}\nORACLE_SEED={seed} repeats it");
    }
}

fn from_environment(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}
