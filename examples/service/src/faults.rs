//! Requests that go wrong inside their transaction because they ask for it, to see what becomes of
//! their mails.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use tokio::time::sleep;

use crate::database::{Database, User};
use crate::errors::Error;
use crate::users::Service;

/// What the header `x-fault` says, where the service was started with FAULTS=on.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    None,
    Fail,
    Panic,
    /// A call of another service that does not answer.
    Slow,
}

impl Fault {
    /// Called in the block, behind all that it does.
    pub async fn strike(self, user: &User) -> Result<(), Error> {
        match self {
            Self::None => Ok(()),
            Self::Fail => Err(Error::Fault),
            Self::Panic => panic!("panicked, as asked for"),
            Self::Slow => {
                println!("waits inside its transaction: {}", user.email);
                sleep(Duration::from_secs(60)).await;
                Ok(())
            }
        }
    }
}

impl<D: Database> FromRequestParts<Arc<Service<D>>> for Fault {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, service: &Arc<Service<D>>) -> Result<Self, Infallible> {
        let header = parts.headers.get("x-fault").filter(|_| service.faults);
        Ok(match header.map(|fault| fault.as_bytes()) {
            Some(b"fail") => Self::Fail,
            Some(b"panic") => Self::Panic,
            Some(b"slow") => Self::Slow,
            _ => Self::None,
        })
    }
}
