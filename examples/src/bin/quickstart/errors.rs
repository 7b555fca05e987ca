//! What can go wrong, before the commit and after it.

use std::error::Error;
use std::fmt;

use lettre::address::AddressError;
use lettre::transport::file;

/// Why somebody was not signed up. The block returns it, so that its savepoint is rolled back.
#[derive(Debug)]
pub enum SignUpError {
    Address(AddressError),
    Database(diesel::result::Error),
}

/// Why a mail was not delivered. The task returns it, when the user is committed already.
#[derive(Debug)]
pub enum MailError {
    NoText { email: String, language: String },
    Address(AddressError),
    Message(lettre::error::Error),
    Delivery(file::Error),
}

impl Error for SignUpError {}

impl fmt::Display for SignUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(error) => error.fmt(f),
            Self::Database(error) => error.fmt(f),
        }
    }
}

impl From<AddressError> for SignUpError {
    fn from(error: AddressError) -> Self {
        Self::Address(error)
    }
}

// `atomic!` asks for this one: BEGIN and COMMIT may fail too.
impl From<diesel::result::Error> for SignUpError {
    fn from(error: diesel::result::Error) -> Self {
        Self::Database(error)
    }
}

impl Error for MailError {}

impl fmt::Display for MailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoText { email, language } => write!(f, "{email}: there is no welcome text in `{language}`"),
            Self::Address(error) => error.fmt(f),
            Self::Message(error) => error.fmt(f),
            Self::Delivery(error) => error.fmt(f),
        }
    }
}

impl From<AddressError> for MailError {
    fn from(error: AddressError) -> Self {
        Self::Address(error)
    }
}

impl From<lettre::error::Error> for MailError {
    fn from(error: lettre::error::Error) -> Self {
        Self::Message(error)
    }
}

impl From<file::Error> for MailError {
    fn from(error: file::Error) -> Self {
        Self::Delivery(error)
    }
}
