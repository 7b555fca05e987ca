//! Drops a block at every poll of it, and looks at what is left: at the connection, at its hooks,
//! and from outside.
//!
//! Rows and hooks have numbers: a commit hook that of its row, a rollback hook that of its row and
//! [`ROLLBACK`].

use std::sync::Mutex;
use std::time::Duration;

use diesel::result::{Error, QueryResult};
use diesel_async::pooled_connection::PoolableConnection;
use diesel_deferred::{
    AsyncDeferredConnection, CommitError, Dispatcher, FailureCause, HookKind, Report, atomic, deferred_task,
};
use diesel_deferred_tests::{Database, Log, Moment, Scratch, Session, cut, eventually, note, traced};

/// What a rollback hook's number is above its row's.
pub const ROLLBACK: i32 = 50;

/// Numbers of rows that hooks write, which are no part of the block.
const OF_HOOKS: std::ops::Range<i32> = 20..50;

/// Numbers of one run, which starts at a multiple of it.
const RUN: i32 = 200;

/// Notes that it ran, as a tokio task.
#[deferred_task]
pub async fn note_async(log: Log, id: i32) {
    tokio::task::yield_now().await;
    log.push(id);
}

/// Notes that it ran, on a thread that may block.
#[deferred_task(blocking)]
pub fn note_blocking(log: &Log, id: i32) {
    log.push(id);
}

/// Notes that it ran; a task of a block that a hook opens, which has nothing to do with the block
/// that is cut.
#[deferred_task]
pub fn note_inner(log: &Log, id: i32) {
    log.push(id);
}

/// One run of a block: what it has registered so far, and what of that ran.
pub struct Run {
    pub log: Log,
    base: i32,
    commit: Mutex<Vec<i32>>,
    tasks: Mutex<Vec<i32>>,
    closures: Mutex<Vec<i32>>,
}

impl Run {
    fn new(base: i32) -> Self {
        let (commit, tasks, closures) = Default::default();
        Self { log: Log::new(), base, commit, tasks, closures }
    }

    /// The number of a row of this run.
    pub fn id(&self, n: i32) -> i32 {
        self.base + n
    }

    /// The number of a commit hook that is registered now.
    pub fn commit(&self, n: i32) -> i32 {
        self.commit.lock().unwrap().push(self.id(n));
        self.id(n)
    }

    /// The number of a rollback task for row `n` that is registered now.
    pub fn rollback_task(&self, n: i32) -> i32 {
        self.tasks.lock().unwrap().push(self.id(n + ROLLBACK));
        self.id(n + ROLLBACK)
    }

    /// The number of a rollback closure for row `n` that is registered now.
    pub fn rollback_closure(&self, n: i32) -> i32 {
        self.closures.lock().unwrap().push(self.id(n + ROLLBACK));
        self.id(n + ROLLBACK)
    }

    /// The block runs again: its commit hooks are registered anew.
    pub fn again(&self) {
        self.commit.lock().unwrap().clear();
    }

    fn rows<D: Database>(&self, db: &Scratch<D>) -> Vec<i32> {
        db.committed().into_iter().filter(|row| (self.base..self.base + RUN).contains(row)).collect()
    }

    /// Which of `registered` did not run. None ran twice.
    fn missing(&self, registered: &Mutex<Vec<i32>>) -> usize {
        let ran = self.log.ran();
        let times = |id: &i32| ran.iter().filter(|other| *other == id).count();
        for id in registered.lock().unwrap().iter() {
            assert!(times(id) <= 1, "{id} ran twice: {ran:?}");
        }
        registered.lock().unwrap().iter().filter(|id| times(id) == 0).count()
    }
}

/// What became of all the runs: a test that never cut where it wanted to proves nothing.
#[derive(Debug, Default)]
pub struct Seen {
    /// Cut, and the connection was as good as new.
    pub clean: usize,
    /// Cut, and the next block rolled back what was left.
    pub recovered: usize,
    /// Cut, and nothing else was done on that connection.
    pub refused: usize,
    /// Of those: cut in COMMIT.
    pub in_commit: usize,
    /// Cut behind the COMMIT.
    pub behind_commit: usize,
    /// Ran to its end.
    pub completed: usize,
}

/// Runs `block` on a new connection, polls it n times and drops it, for every n until it completes
/// by itself.
///
/// All of that again until it was `enough`: a statement on SQLite may be over before it is polled
/// for the first time.
pub async fn at_every_poll<C, B>(db: &Scratch<C::Blocking>, enough: impl Fn(&Seen) -> bool, block: B) -> Seen
where
    C: Session,
    B: AsyncFn(&mut AsyncDeferredConnection<C>, &Run) -> QueryResult<()>,
{
    let mut seen = Seen::default();
    let mut base = RUN;
    for moment in [Moment::Waiting, Moment::Woken].into_iter().cycle().take(100) {
        if seen.completed >= 2 && enough(&seen) {
            break;
        }
        for polls in 0.. {
            assert!(polls < 2000, "the block does not get on");
            let run = Run::new(base);
            base += RUN;
            let mut conn = db.connect_async::<C>().await;
            let session = C::session(conn.inner_mut()).await;
            let dispatcher = Dispatcher::builder().build();
            conn.set_dispatcher(dispatcher.clone());
            let completed = cut(block(&mut conn, &run), polls, moment).await.is_some();
            // Tasks that were started are waited for.
            let report = dispatcher.shutdown(Duration::from_secs(20)).await;
            assert!(report.is_clean(), "{report}");
            inspect(db, conn, session, &run, completed, &mut seen).await;
            if completed {
                break;
            }
        }
    }
    seen
}

/// What the connection reported, by kind.
struct Reported {
    lost_commit: usize,
    lost_rollback: usize,
    cancelled: usize,
}

impl Reported {
    fn by(report: &Report) -> Self {
        let lost = |kind| {
            report.not_run().iter().filter(|hook| hook.kind == kind && !hook.task.ends_with("note_inner")).count()
        };
        let cancelled = report.failures().iter().filter(|failure| matches!(failure.cause, FailureCause::Cancelled));
        let cancelled = cancelled.count();
        assert_eq!(report.failures().len(), cancelled, "nothing else fails: {report}");
        let (lost_commit, lost_rollback) = (lost(HookKind::AfterCommit), lost(HookKind::AfterRollback));
        Self { lost_commit, lost_rollback, cancelled }
    }
}

/// What a connection says that refuses to be used.
pub fn is_refusal(error: &Error) -> bool {
    matches!(CommitError::of(error), Some(CommitError::Cancelled)) || *error == Error::BrokenTransactionManager
}

async fn inspect<C: Session>(
    db: &Scratch<C::Blocking>,
    mut conn: AsyncDeferredConnection<C>,
    session: i64,
    run: &Run,
    completed: bool,
    seen: &mut Seen,
) {
    let reported = Reported::by(conn.last_report());
    assert_eq!(conn.pending(), [], "hooks of a block that is over wait for the next one");
    let broken = conn.is_broken();
    assert!(!(completed && broken), "a block that ended leaves a connection that is good");

    // A statement: either it is refused, or it is what it says, committed by itself.
    let statement = C::insert(&mut conn, run.id(90)).await;
    assert_eq!(statement.is_err(), broken, "{statement:?}");
    if let Err(error) = &statement {
        assert!(is_refusal(error), "{error:?}");
    }
    assert_eq!(run.rows(db).contains(&run.id(90)), !broken, "a statement in a dead transaction");

    // A block: either it is refused, or it commits its own row only, and runs its own hooks only.
    let before = run.rows(db);
    conn.set_dispatcher(Dispatcher::builder().build());
    let next = atomic!(conn, -> QueryResult<()>, async {
        C::insert(conn, run.id(91)).await?;
        C::insert(conn, run.id(92)).await?;
        note(&run.log, run.id(91));
        let (log, id) = (run.log.clone(), run.id(92));
        conn.after_commit(async move |_| log.push(id))
    })
    .await;
    let after: Vec<_> =
        run.rows(db).into_iter().filter(|row| before.contains(row) || !OF_HOOKS.contains(&(row % RUN))).collect();
    let recovered = next.is_ok();
    match next {
        Ok(()) => {
            assert_eq!(after, [before, vec![run.id(91), run.id(92)]].concat(), "rows of a dead transaction");
            assert!(!conn.is_broken() && !conn.in_transaction());
            assert_eq!(conn.pending(), []);
            assert_eq!(conn.last_report().ran(), 2);
            assert!(conn.last_report().is_clean(), "{}", conn.last_report());
        }
        Err(error) => {
            assert!(broken && is_refusal(&error), "{error:?}");
            assert!(conn.is_broken(), "it goes on refusing");
            // A COMMIT that was under way may get there meanwhile. A block without hooks has
            // nothing to report that by.
            let in_commit = reported.lost_commit > 0 || run.commit.lock().unwrap().is_empty();
            let theirs = |row: &i32| before.contains(row) || (in_commit && row % RUN < 90);
            assert!(after.iter().all(theirs), "{after:?} is not {before:?}");
        }
    }
    let ((), events) = traced(|| drop(conn));
    let dropped = events.matches("the connection was dropped before it was used again").count();
    let mut observer = db.observer();
    eventually("the server ends the connection", || !C::is_alive(&mut observer, session)).await;

    // Nothing can change any more: what ran, and what was committed?
    let rows = run.rows(db);
    for ran in run.log.ran() {
        let n = ran % RUN;
        let (row, wanted) = if (ROLLBACK..90).contains(&n) { (ran - ROLLBACK, false) } else { (ran, true) };
        assert_eq!(rows.contains(&row), wanted, "hook {n} ran: {:?} {rows:?}", run.log.ran());
    }
    let hooks = run.commit.lock().unwrap().len();
    let committed = run.commit.lock().unwrap().iter().filter(|id| rows.contains(id)).count();
    assert!(committed == 0 || committed == hooks, "all or nothing: {rows:?}");
    let lost = reported.cancelled + dropped;
    if reported.lost_commit > 0 {
        // In COMMIT nobody knows: all is reported, nothing ran.
        assert!(!recovered, "the connection is not used again");
        assert_eq!((reported.lost_commit, run.missing(&run.commit)), (hooks, hooks));
        let rollback = run.tasks.lock().unwrap().len() + run.closures.lock().unwrap().len();
        let missing = run.missing(&run.tasks) + run.missing(&run.closures);
        assert_eq!(reported.lost_rollback, missing, "of {rollback}");
        seen.in_commit += 1;
    } else if committed > 0 {
        assert_eq!(run.missing(&run.commit), lost, "none is lost without a word: {events}");
        seen.behind_commit += usize::from(!completed);
    } else {
        assert_eq!(run.missing(&run.commit), hooks);
        assert_eq!(run.missing(&run.tasks), 0, "rollback tasks run where the block is cut");
        assert_eq!(run.missing(&run.closures), reported.lost_rollback + lost, "closures are reported: {events}");
    }
    let outcome = match (completed, broken, recovered) {
        (true, ..) => &mut seen.completed,
        (false, false, _) => &mut seen.clean,
        (false, true, true) => &mut seen.recovered,
        (false, true, false) => &mut seen.refused,
    };
    *outcome += 1;
}
