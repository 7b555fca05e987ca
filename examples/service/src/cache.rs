//! How many users there are: counted once, until somebody else has signed up.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A handle: clones are the same cache.
#[derive(Debug, Clone, Default)]
pub struct UserCount(Arc<Mutex<Cached>>);

#[derive(Debug, Clone, Copy, Default)]
struct Cached {
    count: Option<i64>,
    evictions: u64,
}

/// What is given to [`UserCount::put`]: a count that was made before the last eviction is not kept.
#[derive(Debug)]
pub struct Missing {
    evictions: u64,
}

impl UserCount {
    pub fn get(&self) -> Result<i64, Missing> {
        let Cached { count, evictions } = *self.lock();
        count.ok_or(Missing { evictions })
    }

    pub fn put(&self, missing: Missing, count: i64) {
        let mut cached = self.lock();
        if cached.evictions == missing.evictions {
            cached.count = Some(count);
        }
    }

    pub fn evict(&self) {
        let mut cached = self.lock();
        cached.count = None;
        cached.evictions += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Cached> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
