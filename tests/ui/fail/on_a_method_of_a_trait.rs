use diesel_deferred::deferred_task;

struct Mailer;

trait Notify {
    fn notify(user_id: i32);
}

impl Notify for Mailer {
    #[deferred_task]
    fn notify(user_id: i32) {
        println!("{user_id}");
    }
}

fn main() {}
