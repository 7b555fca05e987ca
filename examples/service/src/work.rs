//! Working on durable tasks: the same in both binaries.

use std::error::Error;
use std::future::Future;

use diesel_deferred::{Worker, WorkerReport};

use crate::database::Database;
use crate::mail::Mailer;
use crate::settings::Settings;

/// Works until `shutdown` is ready.
pub async fn work<D: Database>(
    settings: &Settings,
    shutdown: impl Future<Output = ()>,
) -> Result<WorkerReport, Box<dyn Error + Send + Sync>> {
    let worker = Worker::<D>::builder(&settings.database)
        .queue("mail", 8)
        .state(Mailer::new(&settings.outbox, &settings.receipts(), settings.mail_delay)?)
        .lease(settings.lease)
        .grace_period(settings.grace)
        .on_failure(|failure| eprintln!("{failure}"))
        .build()?;
    Ok(worker.run(shutdown).await?)
}
