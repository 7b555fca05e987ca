//! What the tasks of a simulation do: anything that a task may do.
//!
//! Must not know: the table.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Notify;
use tower_service::Service;

use super::world::Shared;
use crate::dispatch::pause;
use crate::durable::id::TaskId;
use crate::durable::payload::Decoder;
use crate::durable::running::{Discard, Snooze};
use crate::durable::worker::job::Job;
use crate::durable::worker::model::calls::number;
use crate::error::BoxError;

/// What a body does, after a while.
#[derive(Debug, Clone, Copy)]
enum Plan {
    Succeeds,
    Fails,
    Panics,
    Snoozes(Duration),
    Discards,
    /// Its process dies of it.
    Kills,
}

/// The service of one process.
pub(super) struct Bodies {
    pub(super) shared: Shared,
    pub(super) worker: TaskId,
    pub(super) name: String,
    /// The process is to die.
    pub(super) kill: std::sync::Arc<Notify>,
}

impl Service<Job> for Bodies {
    type Response = ();
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, job: Job) -> Self::Future {
        let (shared, worker, name) = (self.shared.clone(), self.worker, self.name.clone());
        let kill = std::sync::Arc::clone(&self.kill);
        Box::pin(async move {
            let (id, attempt) = (job.attempt().id(), job.attempt().number());
            let (plan, takes) = {
                let world = &mut *shared.lock();
                if !world.calm && world.chance(2) {
                    world.note(format_args!("{name}: cannot read {}", number(id)));
                    let error = Decoder::new("").map(drop);
                    return error.map_err(BoxError::from);
                }
                world.started(worker, id, i32::try_from(attempt).unwrap_or(i32::MAX));
                let (plan, takes) = world.plan();
                world.note(format_args!("{name}: starts {}, attempt {attempt}: {plan:?} after {takes:?}", number(id)));
                (plan, takes)
            };
            let mut body = Body { shared, worker, id, name, ended_well: false };
            pause(takes).await;
            body.ended_well = matches!(plan, Plan::Succeeds);
            drop(body);
            match plan {
                Plan::Succeeds => Ok(()),
                Plan::Fails => Err("it failed".into()),
                // Not `panic!`, which would print it.
                Plan::Panics => std::panic::resume_unwind(Box::new("it panicked")),
                Plan::Snoozes(after) => Err(Snooze::new(after).into()),
                Plan::Discards => Err(Discard::new("it is of no use").into()),
                Plan::Kills => {
                    kill.notify_one();
                    std::future::pending().await
                }
            }
        })
    }
}

/// A body that has begun.
struct Body {
    shared: Shared,
    worker: TaskId,
    id: TaskId,
    name: String,
    ended_well: bool,
}

impl Drop for Body {
    fn drop(&mut self) {
        let world = &mut *self.shared.lock();
        world.witness.ended(self.worker, self.id, self.ended_well);
        world.note(format_args!("{}: ends {}", self.name, number(self.id)));
    }
}

impl super::world::World {
    fn plan(&mut self) -> (Plan, Duration) {
        let takes = match self.rng.u32(0..100) {
            0..20 => Duration::ZERO,
            20..70 => self.up_to(Duration::from_millis(100)),
            70..95 => self.up_to(Duration::from_secs(2)),
            _ => self.up_to(Duration::from_secs(40)),
        };
        let plan = match self.rng.u32(0..100) {
            0..12 => Plan::Fails,
            12..15 => Plan::Panics,
            15..22 => Plan::Snoozes(self.up_to(Duration::from_secs(5))),
            22..24 => Plan::Discards,
            24..27 if !self.calm => Plan::Kills,
            _ => Plan::Succeeds,
        };
        (plan, takes)
    }
}
