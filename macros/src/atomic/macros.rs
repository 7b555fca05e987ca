//! Which macros are known: what becomes of the calls in their arguments, and whether they have a
//! value.
//!
//! Must not know: what is done about it.

use syn::Ident;

/// Macros of ours, of std's, of `tracing` and of `log` that use the value of every expression in them, so
/// that no call can be dropped; and `atomic!`, which takes care of its own block.
const KNOWN_MACROS: &[&str] = &[
    "assert",
    "assert_deferred",
    "assert_enqueued",
    "assert_eq",
    "assert_ne",
    "atomic",
    "concat",
    "dbg",
    "debug",
    "debug_assert",
    "debug_assert_eq",
    "debug_assert_ne",
    "env",
    "eprint",
    "eprintln",
    "error",
    "event",
    "format",
    "format_args",
    "include_str",
    "info",
    "log",
    "matches",
    "panic",
    "print",
    "println",
    "refute_deferred",
    "refute_enqueued",
    "stringify",
    "todo",
    "trace",
    "unimplemented",
    "unreachable",
    "vec",
    "warn",
    "write",
    "writeln",
];

/// Macros of which it is known that they have a value, which may be a task or hold some.
pub(super) fn has_value(path: &syn::Path) -> bool {
    path.segments.last().is_some_and(|segment| is_one_with_value(&segment.ident))
}

pub(super) fn is_one_with_value(name: &Ident) -> bool {
    ["vec", "dbg"].iter().any(|known| name == known)
}

pub(super) fn is_known(path: &syn::Path) -> bool {
    path.segments.last().is_some_and(|segment| is_a_known_one(&segment.ident))
}

pub(super) fn is_a_known_one(name: &Ident) -> bool {
    let name = name.to_string();
    KNOWN_MACROS.contains(&name.as_str())
}
