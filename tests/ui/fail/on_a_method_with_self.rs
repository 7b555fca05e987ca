use diesel_deferred::deferred_task;

#[derive(Clone)]
struct Mailer;

impl Mailer {
    #[deferred_task]
    fn send(mailer: &Self, user_id: i32) {
        let _ = mailer;
        println!("{user_id}");
    }

    #[deferred_task]
    async fn send_all(mailers: Vec<Self>) {
        drop(mailers);
    }
}

fn main() {}
