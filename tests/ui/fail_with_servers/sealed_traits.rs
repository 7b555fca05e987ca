//! A trait that only diesel-deferred implements, so that it can grow.

use diesel_deferred::HasIsolation;

struct MyConnection;

impl HasIsolation for MyConnection {}

fn main() {}
