//! One file for each thing that a rewrite could break.

mod borrows;
mod control_flow;
mod diverging;
mod drop_order;
mod hygiene;
mod inference;
mod items;
mod nesting;
mod reach;
mod tasks;
