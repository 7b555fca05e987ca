use diesel_deferred::deferred_task;

struct Mailer {
    from: String,
}

impl Mailer {
    #[deferred_task]
    fn send(&self, user_id: i32) {
        println!("{} {user_id}", self.from);
    }
}

fn main() {}
