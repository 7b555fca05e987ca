//! A log that tasks write to when they run, and the tasks that do.

use std::sync::{Arc, Mutex, PoisonError};

use diesel_deferred::{DeferredConnection, deferred_task};

/// No hook ran, or no witness is there. Named, because an empty array has elements of any type that
/// `i32` compares with.
pub const NOTHING: [i32; 0] = [];

/// Which hooks ran, in order.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Mutex<Vec<i32>>>);

impl Log {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that a hook ran.
    pub fn push(&self, id: i32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(id);
    }

    /// The hooks that ran, in order.
    pub fn ran(&self) -> Vec<i32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Notes that it ran.
#[deferred_task]
pub fn note(log: &Log, id: i32) {
    log.push(id);
}

/// Notes that it ran, and fails.
#[deferred_task]
pub fn note_failing(log: &Log, id: i32) -> Result<(), String> {
    log.push(id);
    Err(format!("task {id} failed"))
}

/// Notes that it ran, and panics.
#[deferred_task]
pub fn note_panicking(log: &Log, id: i32) {
    log.push(id);
    panic!("task {id} panicked");
}

/// A hook that notes that it ran.
pub fn noting<C>(log: &Log, id: i32) -> impl FnOnce(&mut DeferredConnection<C>) + Send + 'static {
    let log = log.clone();
    move |_| log.push(id)
}
