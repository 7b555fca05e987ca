use std::rc::Rc;

use diesel_deferred::deferred_task;

#[deferred_task]
fn print(#[state] prefix: Rc<String>, user_id: i32) {
    println!("{prefix} {user_id}");
}

fn main() {}
