//! Waking the workers of this process when something was committed that they may run.
//!
//! Must not know: what was committed, or what a worker does.

/// Wakes all workers of this process: which database each of them looks at nobody knows here, and a
/// look is cheap.
#[cfg(not(feature = "worker"))]
pub(crate) fn wake_workers() {}

#[cfg(feature = "worker")]
pub(crate) use with_workers::{Bell, wake_workers};

#[cfg(feature = "worker")]
mod with_workers {
    use std::sync::{Arc, Mutex, PoisonError, Weak};

    use tokio::sync::Notify;

    static BELLS: Mutex<Vec<Weak<Notify>>> = Mutex::new(Vec::new());

    /// Rings for a worker of this process. One that rings while nobody listens is heard later.
    #[derive(Debug, Clone)]
    pub(crate) struct Bell(Arc<Notify>);

    impl Bell {
        /// Hangs one up.
        pub(crate) fn new() -> Self {
            let bell = Arc::new(Notify::new());
            let mut bells = BELLS.lock().unwrap_or_else(PoisonError::into_inner);
            bells.retain(|bell| bell.strong_count() > 0);
            bells.push(Arc::downgrade(&bell));
            Self(bell)
        }

        /// Waits until it rings.
        pub(crate) async fn heard(&self) {
            self.0.notified().await;
        }
    }

    /// Wakes all workers of this process: which database each of them looks at nobody knows here,
    /// and a look is cheap.
    pub(crate) fn wake_workers() {
        let bells = BELLS.lock().unwrap_or_else(PoisonError::into_inner);
        for bell in bells.iter().filter_map(Weak::upgrade) {
            bell.notify_one();
        }
    }
}
