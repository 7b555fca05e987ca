//! Asynchronous connections: registration, nesting, what a commit is worth, and what diesel-async offers besides.

mod swallowed;
mod when;
