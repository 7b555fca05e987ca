//! Where in-process tasks run that do not run on the committing thread: on tokio, by a
//! [`Dispatcher`]; and the states that tasks are given.
//!
//! Must not know: transactions or connections.

mod cannot_run;
#[cfg(feature = "tokio")]
mod dispatcher;
mod needs;
#[cfg(feature = "worker")]
mod on_a_thread;
#[cfg(feature = "tokio")]
mod pause;
#[cfg(feature = "tokio")]
mod runner;
#[cfg(feature = "tokio")]
mod shutdown;
#[cfg(feature = "tokio")]
mod slots;
#[cfg(feature = "tokio")]
mod stage;
#[cfg(not(feature = "tokio"))]
#[path = "off.rs"]
mod stage;
mod states;
#[cfg(all(test, feature = "tokio"))]
mod tests;

#[allow(unreachable_pub, reason = "named in hidden methods of public traits")]
pub use self::cannot_run::{CannotRun, Missing};
#[cfg(feature = "tokio")]
pub use self::dispatcher::{Dispatcher, DispatcherBuilder};
#[allow(unreachable_pub, reason = "named in hidden methods of public traits")]
pub use self::needs::Needs;
#[cfg(feature = "worker")]
pub(crate) use self::on_a_thread::on_a_thread;
#[cfg(feature = "async")]
pub(crate) use self::pause::pause;
#[cfg(feature = "tokio")]
pub use self::shutdown::{AbandonedTask, ShutdownReport};
pub(crate) use self::stage::Route;
#[allow(unreachable_pub, reason = "named in hidden methods of public traits")]
pub use self::stage::Stage;
pub use self::states::{Required, States};
