use diesel_deferred::deferred_task;

struct Mailer;

#[deferred_task]
async fn send(#[state(mailer)] mailer: &Mailer, user_id: i32) {
    let _ = mailer;
    println!("{user_id}");
}

#[deferred_task]
async fn resend(#[state = "mailer"] mailer: &Mailer, user_id: i32) {
    let _ = mailer;
    println!("{user_id}");
}

fn main() {}
