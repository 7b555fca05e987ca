use std::fmt::Display;

use diesel_deferred::deferred_task;

#[deferred_task]
fn print(value: &dyn Display) {
    println!("{value}");
}

fn main() {}
