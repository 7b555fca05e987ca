//! A process that only works: it takes the durable tasks of the service, on the same database, from
//! any machine.
//!
//! ```sh
//! cargo run -p diesel-deferred-service --bin worker          # with the service's variables, see there
//! ```

use std::error::Error;

use diesel_deferred_service::database::{Database, Postgres, Sqlite};
use diesel_deferred_service::settings::{Settings, interrupted};
use diesel_deferred_service::telemetry::Telemetry;
use diesel_deferred_service::work::work;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let settings = Settings::from_env().map_err(|error| error.to_string())?;
    let _telemetry = Telemetry::listen(settings.traces);
    if settings.is_postgres() { run::<Postgres>(&settings).await } else { run::<Sqlite>(&settings).await }
}

async fn run<D: Database>(settings: &Settings) -> Result<(), Box<dyn Error + Send + Sync>> {
    D::migrate(&settings.database).await?;
    println!("working");
    let report = work::<D>(settings, interrupted().cancelled_owned()).await?;
    println!("stopped: {report}");
    Ok(())
}
