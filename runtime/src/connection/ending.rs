//! How a transaction ends: the table "How a transaction may end" of ARCHITECTURE.md, as code. What
//! happens when a COMMIT fails is read here: [`next`] says what is to be sent to find out, and then
//! how the transaction [ended](Ending), which is all that its hooks are told.
//!
//! Must not know: anything. It is a pure function of what was promised, seen and answered.

#[cfg(test)]
mod tests;

/// What it takes to believe that a COMMIT committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommitProof {
    /// COMMIT fails when there is no transaction to commit: SQLite.
    Commit,
    /// The client library reports the state of the transaction with each answer, so Diesel knows
    /// it, except for COPY and for statements that went past the wrapper: PostgreSQL.
    Status,
    /// In a transaction that has failed every statement fails, but COMMIT: a savepoint, set in the
    /// same message as COMMIT, tells. PostgreSQL where the client library keeps no state:
    /// diesel-async.
    Statement,
    /// Nothing tells but a savepoint, set and released in the same message as COMMIT: it fails
    /// where there is no live transaction. MySQL, MariaDB, and whatever is not known.
    Savepoint,
}

/// What whoever opened a transaction was promised of its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promise {
    /// All or nothing: `atomic!` and the builder.
    Atomic,
    /// What Diesel promises: DDL on MySQL and MariaDB may end it early, which is how
    /// `diesel_migrations` runs each migration. Hooks are a promise of ours, so that there is none
    /// of these once one waits.
    AsDiesel,
}

/// How much may have happened in the transaction that Diesel's own bookkeeping does not show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Doubt {
    /// Only Diesel's typed queries ran, and all of them succeeded.
    None,
    /// A statement failed.
    Failed,
    /// Raw SQL ran.
    RawSql,
    /// Statements may have run on the connection below, or by COPY, whose errors Diesel does not
    /// keep.
    Unseen,
}

/// A verdict on a transaction that came before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doom {
    RolledBack,
    EndedEarly,
}

/// Which of the open levels is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// Begun by BEGIN, ended by COMMIT.
    Outermost,
    /// The outermost in a test transaction: of Diesel's it is a savepoint.
    InTest,
    /// A nested block.
    Savepoint,
}

/// What Diesel reports of the level that is to end, compared with what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Now {
    /// The connection is broken.
    Broken,
    /// The level is not open any more.
    Below,
    /// The level is the innermost.
    Live,
    /// The same, and only a rollback can follow.
    Aborted,
    /// There is another level in it.
    Above,
}

impl Now {
    fn is_open(self) -> bool {
        matches!(self, Self::Live | Self::Aborted | Self::Above)
    }
}

/// All that the end of a transaction or savepoint depends on, beside what is answered to what is
/// sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub(super) proof: CommitProof,
    pub(super) asynchronous: bool,
    pub(super) promise: Promise,
    pub(super) level: Level,
    pub(super) now: Now,
    pub(super) doubt: Doubt,
    /// A statement failed with an error that ends the whole transaction on the server, unannounced.
    pub(super) lost: bool,
    pub(super) doom: Option<Doom>,
    /// Rows of durable calls were written long before COMMIT.
    pub(super) spilled: bool,
    pub(super) commit_hooks: bool,
    pub(super) rollback_hooks: bool,
    pub(super) before_commit: bool,
}

/// Where in its end a transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Its block wants it committed.
    Commit,
    /// What commits was sent, and succeeded.
    Committed,
    /// What commits was sent, and failed so. `healed`: [`Order::Heal`] was sent since.
    CommitFailed { failure: Failure, healed: bool },
    /// What was to be sent behind a COMMIT that failed was sent.
    CleanedUp(Option<Doom>),
    /// It is to be rolled back.
    Rollback,
    /// The proof before its ROLLBACK was sent.
    Proven { held: bool },
    /// ROLLBACK was sent, and failed so, if it did.
    RolledBack(Option<Failure>, Option<Doom>),
    /// The connection was found to be broken before anything was sent.
    Broken,
    /// Its future was dropped.
    Dropped { in_commit: bool },
}

/// How a statement of ours failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is no transaction, or the savepoint is not in it.
    Gone,
    /// PostgreSQL says that the transaction failed before.
    Aborted,
    /// PostgreSQL has executed COMMIT and refused it, which ends the transaction. Only known where
    /// the client library keeps no state.
    Refused,
    /// Anything else.
    Other,
}

/// What is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// COMMIT, or the RELEASE of the outermost level in a test transaction.
    Commit,
    /// The same behind a proof, in one message.
    ProvenCommit,
    /// The RELEASE of a nested block's savepoint.
    Release,
    /// ROLLBACK TO the savepoint that a failed RELEASE has left, for which Diesel takes it no
    /// longer.
    Heal,
    /// Nothing: the server has rolled back, which Diesel's bookkeeping is to know.
    Forget,
    /// ROLLBACK, as Diesel does it.
    Rollback,
    /// ROLLBACK where Diesel takes the transaction for ended.
    PlainRollback,
    /// A statement that fails where there is no live transaction.
    Proof,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Before-commit hooks run, then the same is asked again.
    RunBeforeCommit,
    /// COMMIT is not sent: what is open is rolled back, and this is said of it.
    Refuse(Ending),
    /// This is sent. The verdict is what is known by then.
    Send(Order, Option<Doom>),
    /// It has ended.
    End(Ending),
}

/// How a transaction or savepoint ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Committed, and proven where that is needed.
    Committed,
    /// Rolled back, because its block or its COMMIT failed: the caller gets that error.
    RolledBack,
    /// Rolled back by the server, unasked.
    RolledBackByServer,
    /// Rolled back, because its block left a transaction open.
    LeftOpen,
    /// Over before its end: what ran may be committed.
    EndedEarly,
    /// The connection was lost during COMMIT.
    Unknown,
    /// Its future was dropped before COMMIT.
    Cancelled,
    /// Its future was dropped when it may have been committed.
    CancelledInDoubt,
}

/// What becomes of waiting hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Run,
    /// Those that need no connection run, the others are reported.
    RunTasks,
    Drop,
    /// They don't run, and are reported: nothing is known to have rolled them back.
    Report,
}

impl Ending {
    /// What becomes of commit hooks.
    pub(super) fn commit_hooks(self) -> Fate {
        match self {
            Self::Committed => Fate::Run,
            Self::RolledBack | Self::RolledBackByServer | Self::LeftOpen | Self::Cancelled => Fate::Drop,
            Self::EndedEarly | Self::Unknown | Self::CancelledInDoubt => Fate::Report,
        }
    }

    /// What becomes of rollback hooks.
    pub(super) fn rollback_hooks(self) -> Fate {
        match self {
            Self::Committed => Fate::Drop,
            Self::RolledBack | Self::RolledBackByServer | Self::LeftOpen => Fate::Run,
            Self::Cancelled => Fate::RunTasks,
            Self::EndedEarly | Self::Unknown | Self::CancelledInDoubt => Fate::Report,
        }
    }
}

impl From<Doom> for Ending {
    fn from(doom: Doom) -> Self {
        match doom {
            Doom::RolledBack => Self::RolledBackByServer,
            Doom::EndedEarly => Self::EndedEarly,
        }
    }
}

/// What comes after this step: what is to be sent, or how the transaction ended.
#[inline(always)]
pub(super) fn next(step: Step, known: Known) -> Next {
    match step {
        Step::Commit => commit(known),
        Step::Committed => Next::End(Ending::Committed),
        Step::CommitFailed { failure, healed } => commit_failed(known, failure, healed),
        Step::CleanedUp(doom) => Next::End(cleaned_up(known, doom)),
        Step::Rollback => rollback(known),
        Step::Proven { held } => Next::Send(Order::Rollback, if held { known.doom } else { Some(Doom::EndedEarly) }),
        Step::RolledBack(failure, doom) => Next::End(rolled_back(known, failure, doom)),
        Step::Broken => Next::End(broken(known)),
        Step::Dropped { in_commit } if in_commit || known.doom == Some(Doom::EndedEarly) => {
            Next::End(Ending::CancelledInDoubt)
        }
        Step::Dropped { .. } => Next::End(Ending::Cancelled),
    }
}

#[inline(always)]
fn commit(known: Known) -> Next {
    match known.now {
        Now::Broken => return Next::End(broken(known)),
        Now::Below => return Next::End(Ending::EndedEarly),
        Now::Above => return Next::Refuse(Ending::LeftOpen),
        Now::Live | Now::Aborted => {}
    }
    if known.before_commit && known.level != Level::Savepoint {
        return Next::RunBeforeCommit;
    }
    if let Some(doom) = known.doom {
        return Next::Refuse(doom.into());
    }
    if known.lost || known.now == Now::Aborted {
        // Where raw SQL ran, a nested block that could not be rolled back says no more than that
        // something is wrong.
        return Next::Refuse(if may_be_committed(known) { Ending::EndedEarly } else { Ending::RolledBackByServer });
    }
    let order = match known.level {
        Level::Savepoint => Order::Release,
        Level::InTest => Order::Commit,
        Level::Outermost if has_to_be_proven(known) => Order::ProvenCommit,
        Level::Outermost => Order::Commit,
    };
    Next::Send(order, None)
}

/// Nothing on a broken connection can be committed any more; what was committed before, on a
/// database that does not tell, is not known.
#[cold]
fn broken(known: Known) -> Ending {
    if may_be_committed(known) { Ending::EndedEarly } else { Ending::RolledBackByServer }
}

/// Whether COMMIT is believed only with a proof. Of a savepoint its own RELEASE is one.
#[inline(always)]
fn has_to_be_proven(known: Known) -> bool {
    let suspicious = match (known.proof, known.promise) {
        (CommitProof::Commit, _) => return false,
        (CommitProof::Savepoint, Promise::AsDiesel) if !known.spilled => Doubt::Unseen,
        (CommitProof::Savepoint | CommitProof::Statement, _) => Doubt::Failed,
        (CommitProof::Status, _) => Doubt::Unseen,
    };
    known.doubt >= suspicious || known.commit_hooks || known.rollback_hooks
}

/// What commits was sent, and failed.
#[cold]
fn commit_failed(known: Known, failure: Failure, healed: bool) -> Next {
    if failure == Failure::Gone {
        return clean_up(known, failure, Some(verdict(known)));
    }
    // diesel-async takes the level for ended, but on PostgreSQL its savepoint is still there, and
    // nothing else can be done in the transaction before that was rolled back to.
    if !healed && known.proof == CommitProof::Statement && known.level != Level::Outermost && known.now == Now::Below {
        return Next::Send(Order::Heal, None);
    }
    // It was the proof that failed, and COMMIT was not executed. In another language it is the
    // server's words that the user gets.
    let proof_failed = match known.proof {
        CommitProof::Statement => failure == Failure::Aborted,
        CommitProof::Commit | CommitProof::Status | CommitProof::Savepoint => known.now == Now::Aborted,
    };
    // PostgreSQL refuses to release a savepoint that is there only in an aborted transaction:
    // constraints wait for COMMIT.
    let postgres = matches!(known.proof, CommitProof::Status | CommitProof::Statement);
    let was_aborted = match known.level {
        Level::Outermost => known.now.is_open() && proof_failed,
        Level::InTest => known.now.is_open() && proof_failed || postgres && known.now != Now::Broken,
        Level::Savepoint => postgres && known.now != Now::Broken,
    };
    clean_up(known, failure, was_aborted.then_some(Doom::RolledBack))
}

/// What is to be sent behind a COMMIT that failed. A savepoint is rolled back with what is in it by
/// whoever asked.
#[cold]
fn clean_up(known: Known, failure: Failure, doom: Option<Doom>) -> Next {
    match known.level {
        Level::Savepoint => Next::End(doom.map_or(Ending::RolledBack, Ending::from)),
        // The server has rolled back, so that there is nothing to send.
        Level::Outermost if failure == Failure::Refused && known.now.is_open() => Next::Send(Order::Forget, doom),
        Level::Outermost if failure == Failure::Refused => Next::End(cleaned_up(known, doom)),
        Level::Outermost | Level::InTest if known.now.is_open() => Next::Send(Order::Rollback, doom),
        // diesel-async takes the transaction for ended whatever went wrong: nothing else tells that
        // the connection was lost.
        Level::Outermost if known.asynchronous && known.proof != CommitProof::Commit => {
            Next::Send(Order::PlainRollback, doom)
        }
        Level::Outermost | Level::InTest => Next::End(cleaned_up(known, doom)),
    }
}

/// The connection broke in COMMIT, or COMMIT failed and ROLLBACK behind it, or all is rolled back.
#[cold]
fn cleaned_up(known: Known, doom: Option<Doom>) -> Ending {
    match doom {
        Some(doom) => doom.into(),
        None if known.now == Now::Broken => Ending::Unknown,
        None => Ending::RolledBack,
    }
}

/// A ROLLBACK would succeed without a transaction too: where rollback hooks wait for the answer, it
/// is found out before whether what ran may be committed, if anything but a rollback can be sent.
fn rollback(known: Known) -> Next {
    let in_doubt = known.doom.is_none() && known.level == Level::Outermost && may_be_committed(known);
    match known.now {
        Now::Live if in_doubt && known.rollback_hooks => Next::Send(Order::Proof, None),
        Now::Aborted if in_doubt => Next::Send(Order::Rollback, Some(Doom::EndedEarly)),
        Now::Live | Now::Aborted | Now::Broken | Now::Below | Now::Above => Next::Send(Order::Rollback, known.doom),
    }
}

fn rolled_back(known: Known, failure: Option<Failure>, doom: Option<Doom>) -> Ending {
    match (failure, doom) {
        (Some(Failure::Gone), _) => verdict(known).into(),
        (_, Some(doom)) => doom.into(),
        (_, None) => Ending::RolledBack,
    }
}

/// How a transaction ended that is found to be gone: after a deadlock it is the server that rolled
/// it back.
fn verdict(known: Known) -> Doom {
    if known.lost { Doom::RolledBack } else { Doom::EndedEarly }
}

/// Whether the transaction may have been ended by a statement in it without anybody having noticed.
fn may_be_committed(known: Known) -> bool {
    known.proof == CommitProof::Savepoint && known.doubt >= Doubt::RawSql && !known.lost
}
