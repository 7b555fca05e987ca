use std::rc::Rc;

use diesel_deferred::deferred_task;

#[deferred_task]
async fn print(value: Rc<String>) {
    println!("{value}");
}

fn main() {}
