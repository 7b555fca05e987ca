//! Writes the tests of `shapes`, for both editions.

use std::path::Path;
use std::{env, fs};

#[path = "shapes/mod.rs"]
mod shapes;

fn main() {
    // The script is built anew when the module changes, and run anew then.
    println!("cargo::rerun-if-changed={}", file!());
    let out = env::var_os("OUT_DIR").expect("cargo sets it");
    fs::write(Path::new(&out).join("shapes.rs"), shapes::registered()).expect("cargo's folder can be written to");
}
