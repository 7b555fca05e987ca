//! RULES, chapter "Core hooks".

mod arguments;
mod cost;
mod deep;
mod in_hooks;
mod lost;
mod registration;
mod when;
