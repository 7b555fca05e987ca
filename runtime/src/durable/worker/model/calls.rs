//! Calls, as a program makes them.
//!
//! Must not know: what becomes of them.

use std::borrow::Cow;
use std::panic::Location;

use uuid::Uuid;

use crate::durable::id::TaskId;
use crate::durable::payload::Encoder;
use crate::durable::row::{NewTask, Schedule};
use crate::spans::Origin;

/// The identity with this number: it can be read in a log, and is the same each time.
pub(super) fn id(number: u128) -> TaskId {
    TaskId::from(Uuid::from_u128(number))
}

/// The number of an identity.
pub(super) fn number(id: TaskId) -> u128 {
    id.as_uuid().as_u128()
}

/// A number from the environment, for one who looks for something.
pub(super) fn seed_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The call with this number, of which everything else is as usual.
pub(super) fn call(number: u128, task: &'static str, queue: &'static str) -> NewTask {
    let mut arguments = Encoder::default();
    arguments.argument("number", &(number as u64));
    NewTask {
        id: id(number),
        task,
        queue: Cow::Borrowed(queue),
        payload: arguments.finish().unwrap_or_else(|reason| panic!("{reason}")),
        priority: 0,
        max_attempts: 3,
        schedule: Schedule::Now,
        key: None,
        unique_key: None,
        replaces: false,
        origin: Origin::none(),
        call_site: Location::caller(),
    }
}
