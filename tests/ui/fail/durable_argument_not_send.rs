use std::rc::Rc;

use diesel_deferred::deferred_task;

#[deferred_task(durable)]
fn print(value: Rc<String>) {
    println!("{value}");
}

fn main() {}
