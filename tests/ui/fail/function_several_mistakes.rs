use diesel_deferred::deferred_task;

#[deferred_task]
const fn greet(user_id: &mut i32, (first, last): (String, String), tags: Vec<&str>) {
    println!("{user_id} {first} {last} {tags:?}");
}

fn main() {}
