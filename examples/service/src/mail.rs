//! Mails: composed with `lettre`, delivered as files.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use lettre::address::AddressError;
use lettre::message::Mailbox;
use lettre::{AsyncFileTransport, AsyncTransport, Message, Tokio1Executor};

/// Writes each mail into a file of the outbox; `lettre`'s `AsyncSmtpTransport` has the same `send`.
#[derive(Debug)]
pub struct Mailer {
    transport: AsyncFileTransport<Tokio1Executor>,
    from: Mailbox,
    /// How long a mail server would take.
    delay: Duration,
}

impl Mailer {
    pub fn new(outbox: &Path, delay: Duration) -> Result<Self, AddressError> {
        Ok(Self { transport: AsyncFileTransport::new(outbox), from: "Example <hello@example.org>".parse()?, delay })
    }

    pub async fn send(&self, to: &str, subject: &str, text: String) -> Result<(), Box<dyn Error + Send + Sync>> {
        let to = Mailbox::new(None, to.parse()?);
        let message = Message::builder().from(self.from.clone()).to(to).subject(subject).body(text)?;
        tokio::time::sleep(self.delay).await;
        self.transport.send(message).await?;
        Ok(())
    }
}
