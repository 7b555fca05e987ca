use diesel_deferred::deferred_task;

#[deferred_task]
struct Welcome {
    user_id: i32,
}

fn main() {
    let _ = Welcome { user_id: 1 }.user_id;
}
