//! What `atomic!` expands to: a transaction builder, and the registrar through which a block's
//! statements register tasks.
//!
//! Must not know: how a transaction ends, or how hooks are stored.

mod builder;
#[cfg(feature = "async")]
mod nonblocking;
#[cfg(not(feature = "async"))]
#[path = "off.rs"]
mod nonblocking;
mod options;
mod registrar;
mod retry;
mod target;

pub use self::builder::TransactionBuilder;
#[cfg(feature = "async")]
pub use self::nonblocking::{Attempts, BlockValue, Caught, Open};
pub use self::nonblocking::{caught, future, never_returned};
pub use self::options::{
    BeginOptions, HasDeferrable, HasExclusive, HasImmediate, HasIsolation, HasReadOnly, IsolationLevel,
};
pub use self::registrar::Registrar;
pub use self::retry::RetryingTransaction;
pub use self::target::{AtomicTarget, DefersTasks, DefersTasksAsync};
