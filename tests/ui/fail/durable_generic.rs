use std::fmt::Display;

use diesel_deferred::deferred_task;

#[deferred_task(durable)]
fn print<T: Display + Send + 'static>(value: T) {
    println!("{value}");
}

#[deferred_task(durable)]
fn print_impl(value: impl Display) {
    println!("{value}");
}

#[deferred_task(durable)]
fn print_dyn(value: &dyn Display) {
    println!("{value}");
}

fn main() {}
