//! The welcome mails: composed with `lettre`, delivered as files by its file transport.

use std::path::Path;
use std::{fs, io};

use lettre::address::AddressError;
use lettre::message::Mailbox;
use lettre::{FileTransport, Message, Transport};

use crate::User;
use crate::errors::MailError;

/// Sends mails, into files here; `lettre`'s `SmtpTransport` has the same `send`.
#[derive(Debug, Clone)]
pub struct Mailer {
    transport: FileTransport,
    from: Mailbox,
}

impl Mailer {
    pub fn new(outbox: &Path) -> Result<Self, AddressError> {
        Ok(Self { transport: FileTransport::new(outbox), from: "Example <hello@example.org>".parse()? })
    }

    pub fn welcome(&self, user: &User, email: &str) -> Result<(), MailError> {
        let (subject, text) = match user.language.as_str() {
            "en" => ("Welcome", "Good to have you"),
            "de" => ("Willkommen", "Schön, dass du da bist"),
            _ => return Err(MailError::NoText { email: email.to_owned(), language: user.language.clone() }),
        };
        let message = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(Some(user.name.clone()), email.parse()?))
            .subject(subject)
            .body(format!("{text}, {}!\n", user.name))?;
        self.transport.send(&message)?;
        Ok(())
    }
}

/// The addresses that got a mail, sorted.
pub fn read(outbox: &Path) -> io::Result<Vec<String>> {
    let mut addresses = Vec::new();
    for file in fs::read_dir(outbox)? {
        let message = fs::read_to_string(file?.path())?;
        let to = message.lines().find_map(|line| line.strip_prefix("To: ")).unwrap_or_default();
        let mailbox: Mailbox = to.parse().map_err(io::Error::other)?;
        addresses.push(mailbox.email.to_string());
    }
    addresses.sort();
    Ok(addresses)
}
