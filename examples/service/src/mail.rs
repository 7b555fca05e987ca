//! Mails: composed with `lettre`, delivered as files.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use diesel_deferred::TaskId;
use lettre::address::AddressError;
use lettre::message::Mailbox;
use lettre::{AsyncFileTransport, AsyncTransport, Message, Tokio1Executor};

/// Writes each mail into a file of the outbox; `lettre`'s `AsyncSmtpTransport` has the same `send`.
#[derive(Debug)]
pub struct Mailer {
    transport: AsyncFileTransport<Tokio1Executor>,
    /// Where receipts are written.
    receipts: PathBuf,
    from: Mailbox,
    /// How long a mail server would take.
    delay: Duration,
}

impl Mailer {
    pub fn new(outbox: &Path, receipts: &Path, delay: Duration) -> Result<Self, AddressError> {
        Ok(Self {
            transport: AsyncFileTransport::new(outbox),
            receipts: receipts.to_owned(),
            from: "Example <hello@example.org>".parse()?,
            delay,
        })
    }

    pub async fn send(&self, to: &str, subject: &str, text: String) -> Result<(), Box<dyn Error + Send + Sync>> {
        let to = Mailbox::new(None, to.parse()?);
        let message = Message::builder().from(self.from.clone()).to(to).subject(subject).body(text)?;
        tokio::time::sleep(self.delay).await;
        self.transport.send(message).await?;
        Ok(())
    }

    /// Sends a mail that has an identity. Sent twice it is still one: here the file has its name, a
    /// mail server would see the same `Message-ID`.
    pub async fn send_once(
        &self,
        id: TaskId,
        to: &str,
        subject: &str,
        text: String,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let (to, message_id) = (Mailbox::new(None, to.parse()?), format!("<{id}@example.org>"));
        let message = Message::builder().from(self.from.clone()).to(to).subject(subject).message_id(Some(message_id));
        let message = message.body(text)?;
        tokio::time::sleep(self.delay).await;
        // Whole, or not at all, whenever the process dies.
        let unfinished = self.receipts.join(format!(".{id}.{}", std::process::id()));
        tokio::fs::write(&unfinished, message.formatted()).await?;
        tokio::fs::rename(unfinished, self.receipts.join(format!("{id}.eml"))).await?;
        Ok(())
    }
}
