//! Begin, commit, roll back, unwind, recover: in which order things are done. Diesel's own
//! transaction manager of the wrapped connection does the work; this one moves the marks of the
//! queue along with it. It asks [`ending`](super::ending) what is to be sent, sends it, asks again,
//! and tells the hooks how it ended.
//!
//! After each step the depth that Diesel reports counts, not the result of the step: Diesel lowers
//! it on some failures and keeps it on others.
//!
//! Must not know: the macros, or whether the connection is asynchronous.

mod begin;
mod block;
mod commit;
mod known;
mod rollback;

pub(crate) use self::begin::{Opening, begin, note_begun, ready_to_begin};
#[cfg(feature = "async")]
pub(crate) use self::block::{OpenBlock, end_foreign_around, give_up_unguarded};
pub(crate) use self::block::{close_above, end_with_commit, end_with_panic, end_with_rollback};
pub(crate) use self::commit::{commit_innermost, end_failed_commit, ready_to_commit};
pub(crate) use self::rollback::rollback;
