use diesel_deferred::deferred_task;

struct Mailer;

#[deferred_task]
fn state(#[state] #[secret] mailer: &Mailer) {
    let _ = mailer;
}

#[deferred_task]
fn with_value(#[secret = true] token: String) {
    drop(token);
}

#[deferred_task]
fn twice(#[secret] #[secret] token: String) {
    drop(token);
}

fn main() {}
