//! C23: the values that hold tasks, all of them; see `shapes/mod.rs`.

use diesel::prelude::*;
use diesel::result::Error;
use diesel_deferred::atomic;
use diesel_deferred_tests::{Log, note};

use crate::connect;

fn of<T>(value: T) -> T {
    value
}

fn no() -> bool {
    std::hint::black_box(false)
}

include!(concat!(env!("OUT_DIR"), "/shapes.rs"));
