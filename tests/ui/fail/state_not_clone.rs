use diesel_deferred::deferred_task;

struct Mailer(&'static str);

#[deferred_task]
async fn send(#[state] mailer: Mailer, user_id: i32) {
    println!("{} {user_id}", mailer.0);
}

fn main() {}
