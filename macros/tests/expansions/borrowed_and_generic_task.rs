#[deferred_task(name = "mail.send", crate = "crate::deferred")]
#[tracing::instrument]
fn send<T: Display + Send + 'static>(mailer: &Mailer, subject: &str, body: T) -> Result<(), MailError>
where
    T: Debug,
{
    mailer.send(subject, body)
}
