#![allow(unused, nonstandard_style)]

use diesel_deferred::deferred_task;

#[deferred_task]
#[deny(unused_variables)]
fn argument(id: i32) {}

#[deferred_task]
#[deny(dead_code)]
fn never_called() {}

#[deferred_task]
#[forbid(non_snake_case)]
fn Shout(howLoud: i32) {
    println!("{howLoud}");
}

#[deferred_task]
#[cfg_attr(all(), deny(unused_mut))]
async fn conditional(mut id: i32) {}

#[deferred_task]
#[warn(unfulfilled_lint_expectations)]
#[expect(unused_variables)]
fn as_expected(id: i32) {}

#[deferred_task(durable)]
#[deny(deprecated)]
fn takes_old(old: Old) {}

#[deprecated]
#[derive(serde::Serialize, serde::Deserialize)]
struct Old;

fn main() {
    let _ = (argument(1), Shout(1), conditional(1), as_expected(1));
}
