//! Where in-process tasks run that do not run on the committing thread: on tokio, by a [`Dispatcher`]; and the states that
//! tasks are given.
//!
//! Must not know: transactions or connections.

#[cfg(feature = "tokio")]
mod dispatcher;
#[cfg(feature = "tokio")]
mod flight;
mod needs;
#[cfg(feature = "tokio")]
mod pause;
#[cfg(feature = "tokio")]
mod running;
#[cfg(feature = "tokio")]
mod shutdown;
mod stage;
mod states;
#[cfg(all(test, feature = "tokio"))]
mod tests;

#[cfg(feature = "tokio")]
pub use self::dispatcher::{Dispatcher, DispatcherBuilder};
#[cfg(feature = "tokio")]
pub(crate) use self::flight::Launch;
#[allow(unreachable_pub, reason = "named in hidden methods of public traits")]
pub use self::needs::{CannotRun, Missing, Needs};
#[cfg(feature = "async")]
pub(crate) use self::pause::pause;
#[cfg(feature = "tokio")]
pub use self::shutdown::{AbandonedTask, ShutdownReport};
pub(crate) use self::stage::Route;
#[allow(unreachable_pub, reason = "named in hidden methods of public traits")]
pub use self::stage::Stage;
pub use self::states::{Required, States};
