use diesel_deferred::deferred_task;

#[deferred_task]
fn draw((x, y): (i32, i32)) {
    println!("{x} {y}");
}

fn main() {}
