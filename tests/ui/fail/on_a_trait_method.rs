use diesel_deferred::deferred_task;

trait Mailer {
    #[deferred_task]
    fn send(user_id: i32);
}

fn main() {}
