//! C23: the values that hold tasks, all of them; see `shapes/mod.rs`.

use diesel::prelude::*;
use diesel::result::Error;
use diesel_deferred::atomic;
use diesel_deferred_tests::{Log, NOTHING, Scratch, note, traced};

use crate::{Conn, connect};

fn of<T>(value: T) -> T {
    value
}

fn no() -> bool {
    std::hint::black_box(false)
}

macro_rules! stmt {
    ($value:expr) => {
        $value;
    };
}

/// That as many tasks are told to be lost.
fn told(tasks: usize, block: impl FnOnce(&mut Conn, &Log) -> QueryResult<()>) {
    // It listens to events.
    let _db = Scratch::<SqliteConnection>::new();
    let log = Log::new();
    let (result, events) = traced(|| block(&mut connect(), &log));
    assert_eq!((result, log.ran().as_slice()), (Ok(()), NOTHING.as_slice()));
    assert_eq!(events.matches("neither registered nor run").count(), tasks, "{events}");
}

include!(concat!(env!("OUT_DIR"), "/shapes.rs"));
