//! Waiting without a thread, where there is a runtime for that.
//!
//! Must not know: what for.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::panics::contain;

/// Waits for so long, on any executor: `tokio::time::sleep` panics on a runtime that has no timers.
pub(crate) async fn pause(duration: Duration) {
    if Handle::try_current().is_ok()
        && let Ok(sleep) = contain(|| tokio::time::sleep(duration))
    {
        sleep.await;
        return;
    }
    let (alarm, rings) = oneshot::channel::<()>();
    std::thread::spawn(move || {
        std::thread::sleep(duration);
        drop(alarm);
    });
    let _ = rings.await;
}
