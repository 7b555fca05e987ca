use diesel_deferred::deferred_task;

struct Mailer;

#[deferred_task]
async fn send(#[state] mailer: &Mailer, user_id: i32) {
    let _ = mailer;
    println!("{user_id}");
}

async fn resend() {
    send(1).run().await;
}

fn main() {}
