use std::fmt::Display;

use diesel_deferred::deferred_task;

#[deferred_task]
fn print<T: Display + 'static>(value: T) {
    println!("{value}");
}

fn main() {}
