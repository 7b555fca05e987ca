//! Ordering: the receipt is promised with the order, so it must not get lost, whichever process
//! dies. Its task is durable.

use std::error::Error as StdError;
use std::panic::resume_unwind;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use diesel_deferred::{Attempt, atomic, deferred_task};
use lettre::Address;
use serde::{Deserialize, Serialize};
use tracing::Instrument;

use crate::database::{Database, Order};
use crate::errors::Error;
use crate::mail::Mailer;
use crate::users::Service;

#[derive(Deserialize)]
pub(crate) struct NewOrder {
    email: String,
    cents: i64,
}

pub(crate) async fn order<D: Database>(
    State(service): State<Arc<Service<D>>>,
    Json(NewOrder { email, cents }): Json<NewOrder>,
) -> Result<(StatusCode, Json<Order>), Error> {
    let email: Address = email.parse()?;
    let mut conn = service.pool.get_owned().await?;
    // In a task of its own, as in `users`.
    let transaction = async move {
        atomic!(conn, -> Result<Order, Error>, async {
            let order = D::insert_order(conn, email.as_ref(), cents).await?;
            send_receipt(order.id, &order.email, order.cents); // a row of the same transaction
            Ok(order)
        })
        .await
    };
    let transaction = service.transactions.spawn(transaction.in_current_span());
    let order = transaction.await.unwrap_or_else(|error| resume_unwind(error.into_panic()))?;
    Ok((StatusCode::CREATED, Json(order)))
}

/// Run by a worker: in this process, or in another one. It may run twice, if a worker dies in
/// between; `attempt.id()` is the same then.
#[deferred_task(durable, queue = "mail", max_attempts = 10, backoff = "1s", timeout = "30s")]
pub(crate) async fn send_receipt(
    #[state] mailer: &Mailer,
    #[state] attempt: Attempt,
    order_id: i32,
    email: &str,
    cents: i64,
) -> Result<(), Box<dyn StdError + Send + Sync>> {
    let text = format!("Order {order_id}: {}.{:02} EUR. Thank you!\n", cents / 100, cents % 100);
    mailer.send_once(attempt.id(), email, &format!("Receipt for order {order_id}"), text).await
}

#[derive(Serialize)]
pub(crate) struct Count {
    orders: i64,
}

pub(crate) async fn count<D: Database>(State(service): State<Arc<Service<D>>>) -> Result<Json<Count>, Error> {
    let orders = D::count_orders(&mut *service.pool.get().await?).await?;
    Ok(Json(Count { orders }))
}
