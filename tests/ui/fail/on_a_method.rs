use diesel_deferred::deferred_task;

struct Mailer;

impl Mailer {
    #[deferred_task]
    fn send(user_id: i32) {
        println!("{user_id}");
    }
}

fn main() {}
