//! The trees: what happens in a block, in order; and what is the same whoever runs them.

use std::any::Any;
use std::panic::resume_unwind;

use diesel::result::{Error, QueryResult};
use diesel_deferred::{AfterCommit, deferred_task};
use diesel_deferred_tests::Log;
use proptest::prelude::*;

use crate::verdict::Record;

#[derive(Debug, Clone)]
pub enum Node {
    /// A witness, and the call of a task.
    Task { kind: Kind, outcome: Outcome, told: Told },
    /// A witness, and a closure.
    Closure { pauses: u8, outcome: Outcome, own: Option<Own>, told: Told },
    /// A statement fails and its error is dropped.
    SwallowedError,
    /// A statement whose effects nobody can foresee. Only on asynchronous connections its future is
    /// dropped.
    RawSql(Option<Cut>),
    /// The block ends here.
    Return,
    /// `.await`, so many times; nothing on a synchronous connection.
    Pause(u8),
    /// A transaction in the transaction. Only on asynchronous connections it is cut.
    Nested { how: How, body: Vec<Node>, end: End, swallow: bool, cut: Option<Cut> },
}

/// Where a task runs.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Here,
    Spawned,
    Blocking,
    /// Nowhere: it is a row.
    Durable,
}

/// What a hook does after it has noted that it ran.
#[derive(Debug, Clone, Copy)]
pub enum Outcome {
    Succeeds,
    Fails,
    Panics,
}

/// Who hears of a rollback.
#[derive(Debug, Clone, Copy)]
pub enum Told {
    Task(Kind),
    Closure,
}

/// A block that a hook opens, with a witness and a task in it.
#[derive(Debug, Clone, Copy)]
pub struct Own {
    pub end: End,
    pub kind: Kind,
    pub cut: Option<Cut>,
}

/// How a transaction is opened.
#[derive(Debug, Clone, Copy)]
pub enum How {
    Atomic,
    /// By code that has never heard of us.
    Plain,
}

/// How a block ends.
#[derive(Debug, Clone, Copy)]
pub enum End {
    Ok,
    /// `return Err(…)`.
    Err,
    Panic,
}

/// A future is dropped when it was polled so many times; `late`, when what it waits for may have
/// come.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    pub polls: usize,
    pub late: bool,
}

/// What runs on one connection.
#[derive(Debug, Clone)]
pub struct Tree {
    pub body: Vec<Node>,
    pub end: End,
    pub cut: Option<Cut>,
}

/// Which trees there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    Blocking,
    Nonblocking,
}

#[derive(Debug)]
#[allow(dead_code, reason = "shown in failures")]
pub enum BlockError {
    Diesel(Error),
    Own,
}

impl From<Error> for BlockError {
    fn from(error: Error) -> Self {
        Self::Diesel(error)
    }
}

fn end() -> impl Strategy<Value = End> + Clone {
    prop_oneof![6 => Just(End::Ok), 3 => Just(End::Err), 1 => Just(End::Panic)]
}

/// Most transactions take some dozens of polls.
fn cut() -> impl Strategy<Value = Cut> + Clone {
    let polls = prop_oneof![1 => 0..4_usize, 2 => 0..20_usize, 2 => 0..100_usize];
    (polls, any::<bool>()).prop_map(|(polls, late)| Cut { polls, late })
}

/// Of so many of a hundred.
fn cut_of(percent: f64, flavor: Flavor) -> impl Strategy<Value = Option<Cut>> + Clone {
    prop::option::weighted(percent / 100.0, cut()).prop_map(move |cut| cut.filter(|_| flavor == Flavor::Nonblocking))
}

fn node(flavor: Flavor) -> impl Strategy<Value = Node> {
    let outcome = prop_oneof![4 => Just(Outcome::Succeeds), 1 => Just(Outcome::Fails), 1 => Just(Outcome::Panics)];
    let kind = prop_oneof![
        3 => Just(Kind::Here),
        1 => Just(Kind::Spawned),
        1 => Just(Kind::Blocking),
        2 => Just(Kind::Durable),
    ];
    let told = prop_oneof![4 => kind.clone().prop_map(Told::Task), 1 => Just(Told::Closure)];
    let own = (end(), kind.clone(), cut_of(10.0, flavor)).prop_map(|(end, kind, cut)| Own { end, kind, cut });
    let task = (kind, outcome.clone(), told.clone());
    let closure = (0..4_u8, outcome, prop::option::weighted(0.6, own), told);
    let leaf = prop_oneof![
        12 => task.prop_map(|(kind, outcome, told)| Node::Task { kind, outcome, told }),
        6 => closure.prop_map(|(pauses, outcome, own, told)| Node::Closure { pauses, outcome, own, told }),
        2 => Just(Node::SwallowedError),
        2 => cut_of(25.0, flavor).prop_map(Node::RawSql),
        1 => Just(Node::Return),
        2 => (1..4_u8).prop_map(Node::Pause),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        let how = prop_oneof![2 => Just(How::Atomic), 1 => Just(How::Plain)];
        (how, prop::collection::vec(inner, 0..6), end(), prop::bool::weighted(0.7), cut_of(8.0, flavor))
            .prop_map(|(how, body, end, swallow, cut)| Node::Nested { how, body, end, swallow, cut })
    })
}

pub fn tree(flavor: Flavor) -> impl Strategy<Value = Tree> {
    (prop::collection::vec(node(flavor), 0..8), end(), cut_of(50.0, flavor)).prop_map(|(body, end, cut)| Tree {
        body,
        end,
        cut,
    })
}

const BANG: &str = "bang";

/// Panics without a message: hundreds of them tell nobody anything.
pub fn bang() -> ! {
    resume_unwind(Box::new(BANG))
}

/// Whether it was a tree that panicked, and not what is tested.
pub fn is_bang(panic: &(dyn Any + Send)) -> bool {
    panic.downcast_ref() == Some(&BANG)
}

pub fn finish(end: End) -> Result<(), BlockError> {
    match end {
        End::Ok => Ok(()),
        End::Err => Err(BlockError::Own),
        End::Panic => bang(),
    }
}

pub fn conclude(outcome: Outcome) -> Result<(), String> {
    match outcome {
        Outcome::Succeeds => Ok(()),
        Outcome::Fails => Err("fails".to_owned()),
        Outcome::Panics => bang(),
    }
}

#[deferred_task]
pub fn note_here(log: &Log, id: i32, outcome: Outcome) -> Result<(), String> {
    log.push(id);
    conclude(outcome)
}

#[deferred_task]
pub async fn note_spawned(log: Log, id: i32, outcome: Outcome) -> Result<(), String> {
    tokio::task::yield_now().await;
    log.push(id);
    tokio::task::yield_now().await;
    conclude(outcome)
}

#[deferred_task(blocking)]
pub fn note_blocking(log: &Log, id: i32, outcome: Outcome) -> Result<(), String> {
    log.push(id);
    conclude(outcome)
}

#[deferred_task(durable, name = "stored")]
pub fn note_stored(id: i32) {
    let _ = id;
}

/// Has a task run after the commit, as code does that is not in `atomic!`.
pub fn defer<A: AfterCommit>(conn: &mut A, kind: Kind, record: &Record, id: i32, outcome: Outcome) -> QueryResult<()> {
    match kind {
        Kind::Here => note_here(&record.here, id, outcome).after_commit(conn),
        Kind::Spawned => note_spawned(record.elsewhere.clone(), id, outcome).after_commit(conn),
        Kind::Blocking => note_blocking(&record.elsewhere, id, outcome).after_commit(conn),
        Kind::Durable => note_stored(record.durable(id)).after_commit(conn).map(drop),
    }
}

/// Has a task hear of a rollback.
pub fn compensate<A: AfterCommit>(conn: &mut A, kind: Kind, record: &Record, id: i32) -> QueryResult<()> {
    let (log, outcome) = (&record.rolled_back, Outcome::Succeeds);
    match kind {
        // There is no durable compensation.
        Kind::Here | Kind::Durable => note_here(log, id, outcome).after_rollback(conn),
        Kind::Spawned => note_spawned(log.clone(), id, outcome).after_rollback(conn),
        Kind::Blocking => note_blocking(log, id, outcome).after_rollback(conn),
    }
}
