//! The dispatcher as users see it: it is built, installed and shut down.
//!
//! Must not know: how a task gets its turn (`slots`).

use std::collections::VecDeque;
use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::pause::pause;
use super::shutdown::{AbandonedTask, ShutdownReport};
use super::slots::{FailureHandler, Lists, Shared};
use super::states::States;
use crate::report::HookFailure;

/// How many tasks run at a time where nothing else is said: enough for tasks that wait for others
/// to answer, and no more connections and memory at a time than most services have.
const DEFAULT_IN_FLIGHT: usize = 256;

/// Where `async` and `blocking` tasks run, and where tasks get their `#[state]` from.
///
/// A bounded number of tasks runs at a time. Further tasks wait, in the order of registration, and
/// do not block the thread that commits. A handle: clones are the same dispatcher.
///
/// An async task runs in a tokio task, which goes on with the next one that waits:
/// `tokio::task::id()` is not the task's own.
///
/// # Which one a transaction uses
/// 1. The connection's own, where it was given one
///    ([`DeferredConnection::set_dispatcher`](crate::DeferredConnection::set_dispatcher)).
/// 2. The one of the process: what was [`install`](Self::install)ed, or else one with the default
///    settings, which runs tasks on the runtime of the thread that commits.
///
/// That is settled before COMMIT. A task that could not run, because there is no runtime, because
/// the dispatcher was shut down, or because it lacks a `#[state]`, is an error of the transaction
/// ([`CommitError::TaskCannotRun`](crate::CommitError::TaskCannotRun)): nothing is committed.
///
/// # Failures
/// What a task returns as an error, or panics with, changes nothing that was committed. It is a
/// `tracing` event, and goes to the [failure handler](DispatcherBuilder::on_failure).
///
/// # Shutting down
/// In-process tasks are lost with the process. [`shutdown`](Self::shutdown) waits for them.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use diesel_deferred::{Dispatcher, deferred_task};
///
/// #[derive(Clone)]
/// struct Mailer;
///
/// #[deferred_task]
/// async fn send_welcome(#[state] mailer: &Mailer, user_id: i32) {
///     let _ = (mailer, user_id);
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let dispatcher = Dispatcher::builder()
///     .max_in_flight(50)
///     .state(Mailer)
///     .on_failure(|failure| eprintln!("{failure}"))
///     .build();
/// dispatcher.install();
/// // … serve …
/// let report = dispatcher.shutdown(Duration::from_secs(10)).await;
/// assert!(report.is_clean(), "{report}");
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a dispatcher is used when it is `install()`ed, or given to a connection with `set_dispatcher`"]
pub struct Dispatcher(pub(super) Arc<Shared>);

/// One that somebody else holds.
#[cfg(feature = "testing")]
#[derive(Clone)]
pub(crate) struct WeakDispatcher(std::sync::Weak<Shared>);

#[cfg(feature = "testing")]
impl WeakDispatcher {
    pub(super) fn upgrade(&self) -> Option<Dispatcher> {
        self.0.upgrade().map(Dispatcher)
    }
}

#[cfg(feature = "testing")]
impl fmt::Debug for WeakDispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakDispatcher")
    }
}

static INSTALLED: RwLock<Option<Dispatcher>> = RwLock::new(None);
static DEFAULT: LazyLock<Dispatcher> = LazyLock::new(|| DispatcherBuilder::default().build_on(None));

impl Dispatcher {
    /// Sets one up.
    pub fn builder() -> DispatcherBuilder {
        DispatcherBuilder::default()
    }

    /// Makes it the one of the process; returns the one that it takes the place of, which goes on
    /// with the tasks that it has.
    pub fn install(&self) -> Option<Self> {
        INSTALLED.write().unwrap_or_else(PoisonError::into_inner).replace(self.clone())
    }

    /// The one of the process: the one that was installed, or else the one with default settings.
    pub fn global() -> Self {
        INSTALLED.read().unwrap_or_else(PoisonError::into_inner).as_ref().unwrap_or(&DEFAULT).clone()
    }

    /// For whoever must not hold it.
    #[cfg(feature = "testing")]
    pub(crate) fn downgrade(&self) -> WeakDispatcher {
        WeakDispatcher(Arc::downgrade(&self.0))
    }

    /// The states of its tasks.
    #[cfg(feature = "testing")]
    pub(crate) fn states(&self) -> States {
        self.0.states.clone()
    }

    /// How many tasks run.
    pub fn in_flight(&self) -> usize {
        self.0.lists().in_flight()
    }

    /// How many tasks wait for others to end.
    pub fn waiting(&self) -> usize {
        self.0.lists().waiting.len()
    }

    /// Whether it was shut down.
    pub fn is_shut_down(&self) -> bool {
        self.0.lists().closed
    }

    /// Waits until nothing runs or waits, and no transaction is about to hand tasks over: also for
    /// what those call meanwhile. It goes on taking tasks; without any it returns at once.
    ///
    /// A task that waits for it waits for itself.
    ///
    /// # Examples
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # mod example {
    /// use diesel::prelude::*;
    /// use diesel_deferred::{DeferredConnection, Dispatcher, atomic, deferred_task};
    ///
    /// #[deferred_task]
    /// async fn greet(name: String) {
    ///     println!("hello {name}");
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let conn = &mut DeferredConnection::<SqliteConnection>::establish(":memory:")?;
    /// atomic!(conn, -> QueryResult<()>, {
    ///     greet("you".to_owned());
    ///     Ok(())
    /// })?;
    /// Dispatcher::global().idle().await;
    /// assert_eq!(Dispatcher::global().in_flight(), 0);
    /// # Ok(())
    /// # }
    /// # }
    /// # #[cfg(feature = "sqlite")]
    /// # example::main().unwrap();
    /// ```
    pub async fn idle(&self) {
        let tracker = &self.0.tracker;
        // One that is not closed is never over. It takes what comes all the same.
        tracker.close();
        // It may have been empty for a moment only.
        while !tracker.is_empty() {
            tracker.wait().await;
        }
    }

    /// Takes no new tasks, waits for those that it has, `deadline` at most, and says what it had to
    /// abandon.
    ///
    /// Transactions that want to commit tasks from now on fail; those that were about to commit
    /// still count, and are waited for. At the deadline waiting tasks are dropped, and async ones
    /// that run are dropped where they wait. A blocking task can't be stopped: it is reported, and
    /// runs on for as long as the process does.
    ///
    /// Called again, it waits again.
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        let shared = &self.0;
        shared.lists().closed = true;
        shared.tracker.close();
        if let Either::Left(_) = select(pin!(shared.tracker.wait()), pin!(pause(deadline))).await {
            return ShutdownReport::default();
        }
        let (running, waiting, committing) = {
            let mut lists = shared.lists();
            shared.abandoned.store(true, Ordering::SeqCst);
            (lists.in_order_of_start(), std::mem::take(&mut lists.waiting), lists.committing)
        };
        for (_, waker) in &running {
            waker.wake();
        }
        let running = running.into_iter().map(|(identity, _)| (identity, true));
        let never_started = waiting.iter().map(|waiting| (waiting.identity(), false));
        let abandoned = running.chain(never_started).map(|(identity, started)| AbandonedTask {
            task: identity.task,
            call_site: identity.call_site,
            started,
        });
        let report = ShutdownReport { abandoned: abandoned.collect(), committing };
        for task in &report.abandoned {
            task.emit();
        }
        drop_contained(waiting);
        report
    }
}

/// Drops what a user's tasks captured, where a panic has nobody to go to.
fn drop_contained<T>(waiting: VecDeque<T>) {
    for call in waiting {
        let _ = crate::panics::contain(|| drop(call));
    }
}

/// Whether tasks can be spawned there.
pub(super) fn is_alive(runtime: &Handle) -> bool {
    // A runtime that was shut down drops at once what is spawned on it. To be within it says
    // nothing: its blocking threads, and those that have entered it, outlive its shutdown.
    !matches!(runtime.spawn(std::future::ready(())).now_or_never(), Some(Err(_)))
}

impl fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = self.0.lists();
        f.debug_struct("Dispatcher")
            .field("running", &lists.in_flight())
            .field("waiting", &lists.waiting.len())
            .field("states", &self.0.states)
            .field("shut_down", &lists.closed)
            .finish_non_exhaustive()
    }
}

/// Sets a [`Dispatcher`] up.
#[must_use = "a builder does nothing until `build`"]
pub struct DispatcherBuilder {
    runtime: Option<Handle>,
    max_in_flight: usize,
    states: States,
    on_failure: Option<FailureHandler>,
}

impl Default for DispatcherBuilder {
    fn default() -> Self {
        Self { runtime: None, max_in_flight: DEFAULT_IN_FLIGHT, states: States::default(), on_failure: None }
    }
}

impl DispatcherBuilder {
    /// How many tasks run at a time: 1 at least, 256 by default.
    pub fn max_in_flight(mut self, tasks: usize) -> Self {
        self.max_in_flight = tasks.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// A value that tasks take as `#[state]`; of several of one type the last counts.
    pub fn state<T: Send + Sync + 'static>(mut self, state: T) -> Self {
        self.states.insert(state);
        self
    }

    /// What to do when a task, or any other hook of a connection that uses this dispatcher, has
    /// failed.
    ///
    /// It is called by the thread that ran the task, and must not block.
    pub fn on_failure(mut self, handler: impl Fn(&HookFailure) + Send + Sync + 'static) -> Self {
        self.on_failure = Some(Box::new(handler));
        self
    }

    /// The runtime that tasks run on, whichever thread commits. By default it is the one that
    /// [`build`](Self::build) is called in, and outside of any the one of the thread that commits.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Builds it.
    pub fn build(mut self) -> Dispatcher {
        let runtime = self.runtime.take().or_else(|| Handle::try_current().ok());
        self.build_on(runtime)
    }

    fn build_on(self, runtime: Option<Handle>) -> Dispatcher {
        Dispatcher(Arc::new(Shared {
            runtime,
            tracker: TaskTracker::new(),
            slots: Semaphore::new(self.max_in_flight),
            lists: Mutex::new(Lists::default()),
            states: self.states,
            on_failure: self.on_failure,
            abandoned: AtomicBool::new(false),
        }))
    }
}

impl fmt::Debug for DispatcherBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DispatcherBuilder")
            .field("max_in_flight", &self.max_in_flight)
            .field("states", &self.states)
            .finish_non_exhaustive()
    }
}
