//! What may keep somebody from signing up, as HTTP has it.

use std::fmt;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bb8::RunError;
use diesel::result::DatabaseErrorKind::UniqueViolation;
use diesel_async::pooled_connection::PoolError;
use diesel_deferred::{CannotRun, CommitError};
use lettre::address::AddressError;

#[derive(Debug)]
pub enum Error {
    Address(AddressError),
    /// Somebody has this e-mail address already.
    Taken,
    /// The client hung up, or the service is shutting down, and the transaction had not come to its
    /// COMMIT.
    Cancelled,
    /// There is nobody any more to send the mail, so nothing was committed.
    TaskCannotRun(CannotRun),
    Pool(RunError<PoolError>),
    Database(diesel::result::Error),
    /// See `faults`.
    Fault,
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Address(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Taken => StatusCode::CONFLICT,
            Self::Cancelled | Self::TaskCannotRun(_) | Self::Pool(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Database(_) | Self::Fault => StatusCode::INTERNAL_SERVER_ERROR,
        };
        match self {
            Self::TaskCannotRun(_) | Self::Pool(_) | Self::Database(_) => {
                // For us, and not for the client.
                eprintln!("{status}: {self}");
                status.into_response()
            }
            _ => (status, format!("{self}\n")).into_response(),
        }
    }
}

// `atomic!` asks for this one: BEGIN and COMMIT may fail too.
impl From<diesel::result::Error> for Error {
    fn from(error: diesel::result::Error) -> Self {
        match (&error, CommitError::of(&error)) {
            (diesel::result::Error::DatabaseError(UniqueViolation, _), _) => Self::Taken,
            (_, Some(CommitError::TaskCannotRun(cannot_run))) => Self::TaskCannotRun(cannot_run.clone()),
            _ => Self::Database(error),
        }
    }
}

impl From<RunError<PoolError>> for Error {
    fn from(error: RunError<PoolError>) -> Self {
        Self::Pool(error)
    }
}

impl From<AddressError> for Error {
    fn from(error: AddressError) -> Self {
        Self::Address(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(error) => error.fmt(f),
            Self::Taken => f.write_str("there is a user with this address"),
            Self::Cancelled => f.write_str("the service is shutting down"),
            Self::TaskCannotRun(error) => error.fmt(f),
            Self::Pool(error) => error.fmt(f),
            Self::Database(error) => error.fmt(f),
            Self::Fault => f.write_str("failed, as asked for"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use diesel_async::AsyncConnection;
    use diesel_deferred::{Dispatcher, atomic, deferred_task};

    use super::*;
    use crate::database::{Conn, Sqlite};

    #[deferred_task]
    async fn mail() {}

    /// What commits behind the dispatcher's shutdown is refused, for there is nobody to send its
    /// mail; that is no bug of ours.
    #[tokio::test(flavor = "multi_thread")]
    async fn too_late_is_unavailable() {
        let mut conn = Conn::<Sqlite>::establish(":memory:").await.expect("in memory");
        let dispatcher = Dispatcher::builder().build();
        assert!(dispatcher.shutdown(Duration::ZERO).await.is_clean());
        conn.set_dispatcher(dispatcher);
        let result: Result<(), Error> = atomic!(conn, async {
            mail();
            Ok(())
        })
        .await;
        let error = result.expect_err("refused");
        assert!(matches!(error, Error::TaskCannotRun(_)), "{error:?}");
        assert_eq!(error.into_response().status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
