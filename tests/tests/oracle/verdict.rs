//! What the hooks of a tree write down, and what that must have to do with the rows that a second
//! connection sees.
//!
//! Every hook has a witness of the same number, numbers go up in the order of registration, and a
//! hook's own block comes directly behind the hook.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use diesel::result::Error;
use diesel_deferred::{FailureCause, HookKind, PendingHook, Report};
use diesel_deferred_tests::{Log, TaskRow};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::tree::BlockError;

/// What the blocks of one tree write down. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Record {
    next: Arc<AtomicI32>,
    /// Commit hooks that ran where the commit was, in order.
    pub here: Log,
    /// Those that a dispatcher ran.
    pub elsewhere: Log,
    pub rolled_back: Log,
    /// Registered while the tree ran, and by hooks behind its commit.
    pub registered: Log,
    /// Those of them that are calls of durable tasks.
    durable: Log,
    /// Whether a block of the tree was dropped before it ended.
    pub cut: Arc<AtomicBool>,
    /// Whether a deadlock was swallowed: MySQL and MariaDB commit what follows one statement by
    /// statement.
    deadlock: Arc<AtomicBool>,
}

impl Record {
    /// One whose numbers are above `base`.
    pub fn above(base: i32) -> Self {
        Self {
            next: Arc::new(AtomicI32::new(base)),
            here: Log::new(),
            elsewhere: Log::new(),
            rolled_back: Log::new(),
            registered: Log::new(),
            durable: Log::new(),
            cut: Arc::default(),
            deadlock: Arc::default(),
        }
    }

    /// Two numbers: a node may need one for itself and one for its hook's block.
    pub fn number(&self) -> i32 {
        self.next.fetch_add(2, Ordering::Relaxed) + 2
    }

    /// The call of a durable task with that number is being made.
    pub fn durable(&self, id: i32) -> i32 {
        self.durable.push(id);
        id
    }

    /// Looks at an error that nobody else will see.
    pub fn swallow(&self, error: &BlockError) {
        if let BlockError::Diesel(Error::DatabaseError(_, about)) = error
            && about.message().contains("Deadlock found")
        {
            self.deadlock.store(true, Ordering::Relaxed);
        }
    }
}

/// The hooks that a connection says did not run: tasks by their number, closures by how many there
/// are.
#[derive(Debug, Default)]
pub struct Lost {
    commit: Vec<i32>,
    rollback: Vec<i32>,
    durable: Vec<i32>,
    pub commit_closures: usize,
    pub rollback_closures: usize,
}

impl Lost {
    /// Adds what a report says; what failed there must have failed the way that trees do.
    pub fn add(&mut self, report: &Report) -> Result<(), TestCaseError> {
        for hook in report.not_run() {
            self.add_hook(hook);
        }
        for failure in report.failures() {
            if let FailureCause::Panic(message) = &failure.cause {
                prop_assert_eq!(message, "bang", "a panic that is none of the tree's");
            }
        }
        Ok(())
    }

    fn add_hook(&mut self, hook: &PendingHook) {
        if hook.kind == HookKind::Durable {
            self.durable.push(number(&hook.arguments));
            return;
        }
        let number = hook.arguments.split("id: ").nth(1).and_then(|rest| rest.split(',').next());
        let number = number.map(|number| number.parse().expect("a task's number"));
        match (hook.kind, number) {
            (HookKind::AfterCommit, Some(id)) => self.commit.push(id),
            (HookKind::AfterCommit, None) => self.commit_closures += 1,
            (_, Some(id)) => self.rollback.push(id),
            (_, None) => self.rollback_closures += 1,
        }
    }

    fn is_empty(&self) -> bool {
        self.commit.is_empty()
            && self.durable.is_empty()
            && self.rollback.is_empty()
            && self.commit_closures + self.rollback_closures == 0
    }
}

/// The number in the payload of a durable call.
fn number(payload: &str) -> i32 {
    let number = payload.strip_prefix("{\"id\":").and_then(|rest| rest.strip_suffix('}'));
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("not a call of the tree's: {payload}"))
}

/// The numbers of durable calls.
pub fn stored(rows: &[TaskRow]) -> Vec<i32> {
    rows.iter().map(|row| number(&row.payload)).collect()
}

/// The verdict on a tree whose witnesses are all of `visible`, and whose durable calls are all of
/// `stored`. `committed`: it returned `Ok`.
pub fn judge(
    record: &Record,
    visible: &[i32],
    stored: &[i32],
    lost: &Lost,
    committed: bool,
) -> Result<(), TestCaseError> {
    let cut = record.cut.load(Ordering::Relaxed);
    let deadlock = record.deadlock.load(Ordering::Relaxed);
    let here = record.here.ran();
    let durable = record.durable.ran();

    // D1, N13: a durable call is a row if its witness is visible, and only if, however the tree
    // ended. In the order of the calls.
    let witnessed: Vec<_> = durable.iter().copied().filter(|id| visible.contains(id)).collect();
    if deadlock {
        prop_assert_eq!(less(stored, &witnessed), NONE, "rows without a visible witness; visible: {:?}", visible);
    } else {
        prop_assert_eq!(stored, &witnessed[..], "rows, and the witnesses of durable calls");
    }
    let both: Vec<_> = lost.durable.iter().filter(|id| stored.contains(id)).collect();
    prop_assert!(both.is_empty(), "reported as not stored, and there: {both:?}");

    let ran = sorted([here.clone(), record.elsewhere.ran(), stored.to_vec()].concat());
    let heard = sorted(record.rolled_back.ran());
    let registered = sorted(record.registered.ran());

    // N13: a hook ran if its witness is visible, and only if.
    prop_assert_eq!(less(&ran, visible), NONE, "hooks that ran without a visible witness; visible: {:?}", visible);
    let missing = less(&less(visible, &ran), &lost.commit);
    prop_assert!(
        missing.len() <= lost.commit_closures || deadlock,
        "witnesses of hooks that did not run: {missing:?}; ran: {ran:?}, {lost:?}"
    );
    if !cut {
        prop_assert!(here.is_sorted(), "not in the order of registration: {here:?}");
        prop_assert!(lost.is_empty(), "hooks were lost in a tree that was not cut: {lost:?}");
        prop_assert!(committed || visible.is_empty() || deadlock, "a block that returned an error left {visible:?}");
    }

    // N12 by the same oracle: whatever was registered either committed or was rolled back, and
    // heard of it once.
    let all = sorted([ran.clone(), heard.clone()].concat());
    prop_assert!(all.is_sorted_by(|a, b| a < b), "heard of an end twice; ran: {ran:?}, rolled back: {heard:?}");
    prop_assert_eq!(less(&all, &registered), NONE, "ran without having been registered");
    prop_assert!(
        deadlock || less(&heard, visible).len() == heard.len(),
        "told of a rollback of what is visible; told: {heard:?}, visible: {visible:?}"
    );
    let unheard = less(&less(&less(&less(&registered, &all), &lost.commit), &lost.rollback), &lost.durable);
    prop_assert!(
        unheard.len() <= lost.commit_closures + lost.rollback_closures,
        "heard of neither a commit nor a rollback: {unheard:?}; {lost:?}"
    );
    Ok(())
}

const NONE: Vec<i32> = Vec::new();

fn less(all: &[i32], without: &[i32]) -> Vec<i32> {
    all.iter().copied().filter(|id| !without.contains(id)).collect()
}

fn sorted(mut ids: Vec<i32>) -> Vec<i32> {
    ids.sort_unstable();
    ids
}
