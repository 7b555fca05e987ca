use diesel_deferred::deferred_task;

#[deferred_task]
fn greet<'a>(nickname: &'a str) {
    println!("{nickname}");
}

fn main() {}
