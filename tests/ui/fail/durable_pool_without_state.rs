use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, Pool};
use diesel_deferred::{DeferredConnection, deferred_task};

type Conns = Pool<ConnectionManager<DeferredConnection<SqliteConnection>>>;

#[deferred_task(durable)]
fn send_receipt(pool: Conns, order_id: i64) {
    println!("{order_id} {}", pool.max_size());
}

#[deferred_task(durable)]
fn send_invoice(order_id: i64, pool: &Conns) {
    println!("{order_id} {}", pool.max_size());
}

fn main() {}
