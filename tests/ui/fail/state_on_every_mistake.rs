use diesel_deferred::deferred_task;

#[deferred_task]
async fn twice(#[state] #[state] prefix: &String) {
    println!("{prefix}");
}

#[deferred_task]
async fn pattern(#[state] (one, two): &(i32, i32)) {
    println!("{one} {two}");
}

#[deferred_task]
async fn nameless(#[state] _: &String) {}

#[deferred_task]
async fn any(#[state] prefix: &impl std::fmt::Display) {
    println!("{prefix}");
}

fn main() {}
