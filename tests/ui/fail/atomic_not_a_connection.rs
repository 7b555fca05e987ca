use diesel::prelude::*;
use diesel_deferred::atomic;

fn nothing(url: &str) -> QueryResult<()> {
    atomic!(url, { Ok(()) })
}

fn main() {}
