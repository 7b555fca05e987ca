//! Each row of ARCHITECTURE's table, and all inputs against an account of the guarantees.

use std::collections::HashSet;

use super::{CommitProof, Doom, Doubt, Ending, Failure, Fate, Known, Level, Next, Now, Order, Promise, Step, next};

const PROOFS: [CommitProof; 4] =
    [CommitProof::Commit, CommitProof::Status, CommitProof::Statement, CommitProof::Savepoint];
const PROMISES: [Promise; 2] = [Promise::Atomic, Promise::AsDiesel];
const LEVELS: [Level; 3] = [Level::Outermost, Level::InTest, Level::Savepoint];
const NOWS: [Now; 5] = [Now::Broken, Now::Below, Now::Live, Now::Aborted, Now::Above];
const DOUBTS: [Doubt; 4] = [Doubt::None, Doubt::Failed, Doubt::RawSql, Doubt::Unseen];
const DOOMS: [Option<Doom>; 3] = [None, Some(Doom::RolledBack), Some(Doom::EndedEarly)];
const FAILURES: [Failure; 4] = [Failure::Gone, Failure::Aborted, Failure::Refused, Failure::Other];
const BOTH: [bool; 2] = [false, true];

/// An outermost block on PostgreSQL by diesel-async, in which a hook waits and nothing went wrong.
const USUAL: Known = Known {
    proof: CommitProof::Statement,
    asynchronous: true,
    promise: Promise::Atomic,
    level: Level::Outermost,
    now: Now::Live,
    doubt: Doubt::None,
    lost: false,
    doom: None,
    spilled: false,
    commit_hooks: true,
    rollback_hooks: false,
    before_commit: false,
};

const MYSQL: Known = Known { proof: CommitProof::Savepoint, ..USUAL };

/// The columns of ARCHITECTURE's table.
fn hooks(ending: Ending) -> (Fate, Fate) {
    (ending.commit_hooks(), ending.rollback_hooks())
}

#[test]
fn committed_and_proven_commit_hooks_run() {
    assert_eq!(next(Step::Commit, USUAL), Next::Send(Order::ProvenCommit, None));
    assert_eq!(next(Step::Committed, USUAL), Next::End(Ending::Committed));
    assert_eq!(hooks(Ending::Committed), (Fate::Run, Fate::Drop));
}

#[test]
fn rolled_back_by_an_error_a_panic_or_a_commit_that_fails_rollback_hooks_run() {
    assert_eq!(next(Step::Rollback, USUAL), Next::Send(Order::Rollback, None));
    assert_eq!(next(Step::RolledBack(None, None), USUAL), Next::End(Ending::RolledBack));
    let refused = Step::CommitFailed { failure: Failure::Refused, healed: false };
    let taken_for_ended = Known { now: Now::Below, ..USUAL };
    assert_eq!(next(refused, taken_for_ended), Next::End(Ending::RolledBack));
    assert_eq!(hooks(Ending::RolledBack), (Fate::Drop, Fate::Run));
}

#[test]
fn rolled_back_by_the_server_rollback_hooks_run() {
    let deadlock = Known { lost: true, ..MYSQL };
    assert_eq!(next(Step::Commit, deadlock), Next::Refuse(Ending::RolledBackByServer));
    let aborted = Step::CommitFailed { failure: Failure::Aborted, healed: false };
    let rolled_back = Some(Doom::RolledBack);
    assert_eq!(next(aborted, USUAL), Next::Send(Order::Rollback, rolled_back));
    assert_eq!(next(Step::CleanedUp(rolled_back), USUAL), Next::End(Ending::RolledBackByServer));
    assert_eq!(hooks(Ending::RolledBackByServer), (Fate::Drop, Fate::Run));
}

#[test]
fn ended_early_no_hook_runs() {
    let gone = Step::CommitFailed { failure: Failure::Gone, healed: false };
    let early = Some(Doom::EndedEarly);
    assert_eq!(next(gone, MYSQL), Next::Send(Order::Rollback, early));
    assert_eq!(next(Step::CleanedUp(early), MYSQL), Next::End(Ending::EndedEarly));
    assert_eq!(next(Step::Commit, Known { now: Now::Below, ..USUAL }), Next::End(Ending::EndedEarly));
    assert_eq!(hooks(Ending::EndedEarly), (Fate::Report, Fate::Report));
}

#[test]
fn lost_in_commit_no_hook_runs() {
    let lost = Step::CommitFailed { failure: Failure::Other, healed: false };
    let broken = Known { now: Now::Broken, asynchronous: false, ..USUAL };
    assert_eq!(next(lost, broken), Next::End(Ending::Unknown));
    // diesel-async notices only by another statement.
    assert_eq!(next(lost, Known { now: Now::Below, ..USUAL }), Next::Send(Order::PlainRollback, None));
    assert_eq!(next(Step::CleanedUp(None), broken), Next::End(Ending::Unknown));
    assert_eq!(hooks(Ending::Unknown), (Fate::Report, Fate::Report));
}

#[test]
fn dropped_before_commit_only_tasks_run() {
    assert_eq!(next(Step::Dropped { in_commit: false }, USUAL), Next::End(Ending::Cancelled));
    assert_eq!(hooks(Ending::Cancelled), (Fate::Drop, Fate::RunTasks));
}

#[test]
fn dropped_during_commit_no_hook_runs() {
    assert_eq!(next(Step::Dropped { in_commit: true }, USUAL), Next::End(Ending::CancelledInDoubt));
    assert_eq!(hooks(Ending::CancelledInDoubt), (Fate::Report, Fate::Report));
}

#[test]
fn a_block_that_leaves_a_transaction_open_is_rolled_back() {
    assert_eq!(next(Step::Commit, Known { now: Now::Above, ..USUAL }), Next::Refuse(Ending::LeftOpen));
    assert_eq!(hooks(Ending::LeftOpen), (Fate::Drop, Fate::Run));
}

/// All inputs but the step and what Diesel reports.
fn for_all(mut test: impl FnMut(Known)) {
    for proof in PROOFS {
        for promise in PROMISES {
            for level in LEVELS {
                for doubt in DOUBTS {
                    for doom in DOOMS {
                        for flags in 0..64_u8 {
                            let flag = |at: u8| flags & 1 << at != 0;
                            test(Known {
                                proof,
                                asynchronous: flag(0),
                                promise,
                                level,
                                now: Now::Live,
                                doubt,
                                lost: flag(1),
                                doom,
                                spilled: flag(2),
                                commit_hooks: flag(3),
                                rollback_hooks: flag(4),
                                before_commit: flag(5),
                            });
                        }
                    }
                }
            }
        }
    }
}

/// What can follow on that, whatever the server answers.
fn follows(next: Next) -> Vec<Step> {
    match next {
        Next::Send(Order::Commit | Order::ProvenCommit | Order::Release, _) => {
            let failed = FAILURES.map(|failure| Step::CommitFailed { failure, healed: false });
            [vec![Step::Committed], failed.to_vec()].concat()
        }
        // What COMMIT failed with is remembered: any.
        Next::Send(Order::Heal, _) => FAILURES.map(|failure| Step::CommitFailed { failure, healed: true }).to_vec(),
        Next::Send(Order::Proof, _) => BOTH.map(|held| Step::Proven { held }).to_vec(),
        Next::Send(order @ (Order::Rollback | Order::PlainRollback | Order::Forget), doom) => {
            let failures = FAILURES.map(Some).into_iter().chain([None]);
            let rolled_back = failures.map(|failure| Step::RolledBack(failure, doom));
            // Behind a COMMIT it cleans up; elsewhere it is what was asked for.
            let asked_for = rolled_back.filter(|_| order == Order::Rollback);
            asked_for.chain([Step::CleanedUp(doom)]).collect()
        }
        Next::RunBeforeCommit | Next::Refuse(_) | Next::End(_) => Vec::new(),
    }
}

/// Why this cannot be right, if it can't. An independent account: from the guarantees, not from the
/// code.
fn objection(step: Step, known: Known, next: Next) -> Option<&'static str> {
    let ending = match next {
        Next::Refuse(ending) | Next::End(ending) => Some(ending),
        Next::Send(..) | Next::RunBeforeCommit => None,
    };
    let commits = matches!(next, Next::Send(Order::Commit | Order::ProvenCommit | Order::Release, _));
    let needs_proof = known.level == Level::Outermost
        && known.proof != CommitProof::Commit
        && (known.commit_hooks || known.rollback_hooks || known.doubt == Doubt::Unseen);
    let raw_sql_may_have_committed =
        known.proof == CommitProof::Savepoint && known.doubt >= Doubt::RawSql && !known.lost;
    let says_rolled_back = matches!(ending, Some(Ending::RolledBack | Ending::RolledBackByServer));
    let rules = [
        (ending == Some(Ending::Committed) && step != Step::Committed, "committed, and no COMMIT was answered well"),
        (step == Step::Committed && ending != Some(Ending::Committed), "a COMMIT that is believed counts"),
        (commits && step != Step::Commit, "COMMIT is sent once"),
        (
            commits && (known.doom.is_some() || known.lost || known.now != Now::Live),
            "COMMIT behind something that said that it can't",
        ),
        (needs_proof && next == Next::Send(Order::Commit, None), "hooks would run behind a COMMIT without a proof"),
        (commits && known.before_commit && known.level != Level::Savepoint, "before-commit hooks run first"),
        (
            matches!(next, Next::RunBeforeCommit | Next::Refuse(_)) && step != Step::Commit,
            "what can be done before COMMIT only is done later",
        ),
        (
            matches!(
                step,
                Step::CommitFailed { failure: Failure::Gone, .. } | Step::RolledBack(Some(Failure::Gone), _)
            ) && !known.lost
                && says_rolled_back,
            "what ended early may be committed, and is not called rolled back",
        ),
        (
            (step == Step::Broken || step == Step::Commit && known.doom.is_none())
                && matches!(known.now, Now::Broken | Now::Aborted)
                && raw_sql_may_have_committed
                && says_rolled_back,
            "what raw SQL may have committed is not called rolled back",
        ),
        (
            ending == Some(Ending::Unknown)
                && !(known.now == Now::Broken && matches!(step, Step::CommitFailed { .. } | Step::CleanedUp(None))),
            "unknown, and no COMMIT was sent, or the connection is there to be asked",
        ),
        (
            matches!(step, Step::CleanedUp(None)) && known.now == Now::Broken && ending != Some(Ending::Unknown),
            "lost during COMMIT, and said to be known",
        ),
        (
            step == Step::Rollback
                && known.now == Now::Aborted
                && known.level == Level::Outermost
                && known.doom.is_none()
                && raw_sql_may_have_committed
                && next != Next::Send(Order::Rollback, Some(Doom::EndedEarly)),
            "rollback hooks would run behind what may be committed, and can't be asked any more",
        ),
        (
            step == Step::Rollback
                && known.now == Now::Live
                && known.level == Level::Outermost
                && known.doom.is_none()
                && known.rollback_hooks
                && raw_sql_may_have_committed
                && next != Next::Send(Order::Proof, None),
            "rollback hooks would run behind a ROLLBACK of what may be committed",
        ),
        (
            step == Step::Proven { held: false } && next != Next::Send(Order::Rollback, Some(Doom::EndedEarly)),
            "a proof that failed says that it ended early",
        ),
        (
            matches!(step, Step::Dropped { .. })
                && known.doom == Some(Doom::EndedEarly)
                && ending != Some(Ending::CancelledInDoubt),
            "what ended early may be committed, also where it is cancelled",
        ),
        (
            matches!(step, Step::Dropped { .. })
                && !matches!(ending, Some(Ending::Cancelled | Ending::CancelledInDoubt)),
            "a dropped future is cancelled",
        ),
        (
            step == Step::Dropped { in_commit: true } && ending != Some(Ending::CancelledInDoubt),
            "dropped during COMMIT it may be committed",
        ),
        (
            ending.is_some_and(|ending| {
                ending != Ending::Committed
                    && (ending.commit_hooks() == Fate::Run || ending.rollback_hooks() == Fate::Drop)
            }),
            "commit hooks run, or rollback hooks are lost without a word, though nothing was committed",
        ),
        (
            ending.is_some_and(|ending| {
                (ending.commit_hooks() == Fate::Report) != (ending.rollback_hooks() == Fate::Report)
            }),
            "a doubt is reported of both kinds of hooks or of none",
        ),
    ];
    rules.into_iter().find(|(broken, _)| *broken).map(|(_, rule)| rule)
}

/// Whatever is known, whatever the server answers and Diesel reports at each step.
#[test]
fn no_input_breaks_a_guarantee_and_all_of_them_end() {
    let mut endings = HashSet::new();
    for_all(|known| {
        let starts = [Step::Commit, Step::Rollback, Step::Broken].into_iter();
        let mut steps: Vec<_> = starts.chain(BOTH.map(|in_commit| Step::Dropped { in_commit })).collect();
        let mut seen = Vec::new();
        while let Some(step) = steps.pop() {
            if seen.contains(&step) {
                continue;
            }
            seen.push(step);
            for now in NOWS {
                let known = Known { now, ..known };
                let next = next(step, known);
                if let Some(objection) = objection(step, known, next) {
                    panic!("{objection}: {step:?} of {known:?} gives {next:?}");
                }
                if let Next::End(ending) | Next::Refuse(ending) = next {
                    endings.insert(format!("{ending:?}"));
                }
                for follower in follows(next) {
                    assert!(rank(follower) > rank(step), "{step:?} of {known:?} may never end: {follower:?}");
                    steps.push(follower);
                }
            }
        }
    });
    assert_eq!(endings.len(), 8, "all endings are reached: {endings:?}");
}

/// It never goes back.
fn rank(step: Step) -> usize {
    match step {
        Step::Commit | Step::Rollback | Step::Broken | Step::Dropped { .. } => 0,
        Step::Proven { .. } | Step::CommitFailed { healed: false, .. } => 1,
        Step::CommitFailed { healed: true, .. } => 2,
        Step::Committed | Step::CleanedUp(_) | Step::RolledBack(..) => 3,
    }
}
