//! One file for each thing that a rewrite could break.

mod async_await;
mod async_captures;
mod async_hygiene;
mod async_places;
mod async_tasks;
mod borrows;
mod control_flow;
mod diverging;
mod drop_order;
mod durable;
mod hygiene;
mod inference;
mod items;
mod nesting;
mod reach;
mod shapes;
mod tasks;
