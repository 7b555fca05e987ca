use diesel_deferred::deferred_task;

struct Mailer;

#[deferred_task]
impl Mailer {
    fn send(user_id: i32) {
        println!("{user_id}");
    }
}

fn main() {
    Mailer::send(1);
}
