//! N13, the oracle that binds the rules: over random trees of everything that can happen in a block, a hook ran if and only
//! if its witness row is visible from a second connection; once, and in the order of registration.
//!
//! Every hook has a witness of the same number, numbers go up in the order of registration, and a hook's own block comes
//! directly behind the hook. So what the hooks wrote down must be *equal* to the rows that the second connection sees.
//!
//! `ORACLE_SEED=…` repeats a run, `ORACLE_TREES=…` sets the number of trees (500 by default).

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use diesel::result::Error;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};
use diesel_deferred_tests::{Database, Log, Scratch, note, note_failing, on_every_database};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

on_every_database!(n13_a_hook_ran_if_and_only_if_its_witness_is_committed);

/// What happens in a block, in order.
#[derive(Debug, Clone)]
enum Node {
    /// A witness, and the call of a task.
    Task(Outcome),
    /// A hook that opens a block of its own, with a task in it.
    HookWithBlock(End),
    /// A statement fails and its error is dropped.
    SwallowedError,
    /// A transaction in the transaction.
    Nested { how: How, body: Vec<Node>, end: End, swallow: bool },
}

/// What a task does after it has run.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    Succeeds,
    Fails,
    Panics,
}

/// How a transaction is opened.
#[derive(Debug, Clone, Copy)]
enum How {
    Atomic,
    /// By code that has never heard of us.
    Plain,
}

/// How a block ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Ok,
    /// `return Err(…)`.
    Err,
    Panic,
}

#[derive(Debug)]
#[allow(dead_code, reason = "shown in failures")]
enum BlockError {
    Diesel(Error),
    Own,
}

impl From<Error> for BlockError {
    fn from(error: Error) -> Self {
        Self::Diesel(error)
    }
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![6 => Just(End::Ok), 3 => Just(End::Err), 1 => Just(End::Panic)]
}

fn node() -> impl Strategy<Value = Node> {
    let outcome = prop_oneof![4 => Just(Outcome::Succeeds), 1 => Just(Outcome::Fails), 1 => Just(Outcome::Panics)];
    let leaf = prop_oneof![
        6 => outcome.prop_map(Node::Task),
        2 => end().prop_map(Node::HookWithBlock),
        1 => Just(Node::SwallowedError),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        let how = prop_oneof![2 => Just(How::Atomic), 1 => Just(How::Plain)];
        (how, prop::collection::vec(inner, 0..6), end(), prop::bool::weighted(0.7))
            .prop_map(|(how, body, end, swallow)| Node::Nested { how, body, end, swallow })
    })
}

/// What the blocks of one tree write down.
#[derive(Default)]
struct Record {
    next: Cell<i32>,
    committed: Log,
    rolled_back: Log,
    /// Registered while the tree ran, and by hooks behind its commit.
    registered: Log,
}

impl Record {
    /// Two numbers: a node may need one for itself and one for its hook's block.
    fn number(&self) -> i32 {
        self.next.set(self.next.get() + 2);
        self.next.get()
    }
}

/// Panics without a message: hundreds of them tell nobody anything.
fn bang() -> ! {
    resume_unwind(Box::new("bang"))
}

#[deferred_task]
fn note_and_panic(log: &Log, id: i32) {
    log.push(id);
    bang();
}

fn finish(end: End) -> Result<(), BlockError> {
    match end {
        End::Ok => Ok(()),
        End::Err => Err(BlockError::Own),
        End::Panic => bang(),
    }
}

fn block<C: Database>(
    conn: &mut DeferredConnection<C>,
    how: How,
    body: &[Node],
    end: End,
    record: &Record,
) -> Result<(), BlockError> {
    match how {
        How::Atomic => atomic!(conn, {
            for node in body {
                if let Node::Task(outcome) = node {
                    let id = record.number();
                    C::insert(conn, id)?;
                    record.registered.push(id);
                    note(&record.rolled_back, id).after_rollback(conn)?;
                    match outcome {
                        Outcome::Succeeds => note(&record.committed, id),
                        Outcome::Fails => note_failing(&record.committed, id),
                        Outcome::Panics => note_and_panic(&record.committed, id),
                    }
                } else {
                    step(conn, node, record)?;
                }
            }
            finish(end)
        }),
        How::Plain => diesel::Connection::transaction(conn, |conn| {
            for node in body {
                step(conn, node, record)?;
            }
            finish(end)
        }),
    }
}

fn step<C: Database>(conn: &mut DeferredConnection<C>, node: &Node, record: &Record) -> Result<(), BlockError> {
    match node {
        Node::Task(outcome) => {
            let id = record.number();
            C::insert(conn, id)?;
            record.registered.push(id);
            note(&record.rolled_back, id).after_rollback(conn)?;
            match outcome {
                Outcome::Succeeds => note(&record.committed, id).after_commit(conn)?,
                Outcome::Fails => note_failing(&record.committed, id).after_commit(conn)?,
                Outcome::Panics => note_and_panic(&record.committed, id).after_commit(conn)?,
            }
        }
        Node::HookWithBlock(end) => {
            let (id, end) = (record.number(), *end);
            C::insert(conn, id)?;
            record.registered.push(id);
            note(&record.rolled_back, id).after_rollback(conn)?;
            let (committed, rolled_back) = (record.committed.clone(), record.rolled_back.clone());
            let registered = record.registered.clone();
            conn.after_commit(move |conn| {
                committed.push(id);
                let own: Result<(), BlockError> = atomic!(conn, outermost, {
                    C::insert(conn, id + 1)?;
                    registered.push(id + 1);
                    note(&rolled_back, id + 1).after_rollback(conn)?;
                    note(&committed, id + 1);
                    finish(end)
                });
                own.map_err(|error| format!("{error:?}"))
            })?;
        }
        Node::SwallowedError => {
            let failed = C::insert(conn, TAKEN);
            assert!(failed.is_err(), "number {TAKEN} is taken");
        }
        Node::Nested { how, body, end, swallow } => {
            let result = catch_unwind(AssertUnwindSafe(|| block(conn, *how, body, *end, record)));
            match result {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) if *swallow => {}
                Ok(Err(error)) => return Err(error),
                Err(panic) => resume_unwind(panic),
            }
        }
    }
    Ok(())
}

/// A row that is always there, to run into.
const TAKEN: i32 = 0;

fn n13_a_hook_ran_if_and_only_if_its_witness_is_committed<C: Database>(db: &Scratch<C>) {
    let trees = from_environment("ORACLE_TREES").unwrap_or(500);
    let seed = from_environment("ORACLE_SEED").unwrap_or_else(random);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases: trees as u32, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));

    let conn = RefCell::new(db.connect());
    let observer = RefCell::new(db.observer());
    C::insert(&mut conn.borrow_mut(), TAKEN).expect("the row to run into");
    let tree = (prop::collection::vec(node(), 0..8), end());
    let result =
        runner.run(&tree, |(body, end)| check::<C>(&mut conn.borrow_mut(), &mut observer.borrow_mut(), &body, end));
    if let Err(error) = result {
        panic!("{}: {error}\nORACLE_SEED={seed} repeats it", C::NAME);
    }
}

fn check<C: Database>(
    conn: &mut DeferredConnection<C>,
    observer: &mut C,
    body: &[Node],
    end: End,
) -> Result<(), TestCaseError> {
    observer.batch_execute(&format!("DELETE FROM witness WHERE id <> {TAKEN}")).expect("clear the table");
    let record = Record::default();
    let result = catch_unwind(AssertUnwindSafe(|| block(conn, How::Atomic, body, end, &record)));

    let mut visible = C::witnesses(observer);
    visible.retain(|id| *id != TAKEN);
    let ran = record.committed.ran();
    prop_assert_eq!(&ran, &visible, "the hooks that ran are not the witnesses that are visible; {:?}", result.is_ok());

    // N12 by the same oracle: whatever was registered either committed or was rolled back, and heard of it once.
    let (mut heard, mut registered) = (record.rolled_back.ran(), record.registered.ran());
    heard.extend(&ran);
    heard.sort_unstable();
    registered.sort_unstable();
    prop_assert_eq!(heard, registered, "a hook heard of neither a commit nor a rollback, or of both");

    if !matches!(result, Ok(Ok(()))) {
        prop_assert_eq!(visible, Vec::<i32>::new(), "a block that returned an error left something");
    }
    prop_assert!(!conn.in_transaction(), "a transaction was left open");
    prop_assert_eq!(conn.pending(), Vec::new(), "a hook was left behind");
    atomic!(conn, -> Result<(), Error>, { C::insert(conn, 1) }).expect("the next block");
    prop_assert!(C::witnesses(observer).contains(&1), "the connection's next block did not commit");
    Ok(())
}

fn from_environment(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}
