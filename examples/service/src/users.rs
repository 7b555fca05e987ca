//! Signing up: the handlers, and the tasks of their transactions.

use std::error::Error as StdError;
use std::panic::resume_unwind;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use diesel::result::DatabaseErrorKind::ForeignKeyViolation;
use diesel::result::Error::DatabaseError;
use diesel::result::QueryResult;
use diesel_deferred::{atomic, deferred_task};
use lettre::Address;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::trace::TraceLayer;
use tracing::Instrument;

use crate::cache::UserCount;
use crate::database::{Database, Pool, User};
use crate::errors::Error;
use crate::faults::Fault;
use crate::mail::Mailer;
use crate::{orders, telemetry};

/// What the handlers share.
pub struct Service<D: Database> {
    pub pool: Pool<D>,
    pub count: UserCount,
    /// The transactions under way.
    pub transactions: TaskTracker,
    /// Cancelled when the time for requests that are still under way is over.
    pub stopping: CancellationToken,
    pub faults: bool,
}

pub fn routes<D: Database>(service: Arc<Service<D>>) -> Router {
    // A handler that panics is answered with 500.
    Router::new()
        .route("/users", post(sign_up::<D>).get(count::<D>))
        .route("/orders", post(orders::order::<D>).get(orders::count::<D>))
        .layer(CatchPanicLayer::new())
        .layer(TraceLayer::new_for_http().make_span_with(telemetry::request))
        .with_state(service)
}

#[derive(Deserialize)]
struct SignUp {
    email: String,
    referred_by: Option<String>,
}

async fn sign_up<D: Database>(
    State(service): State<Arc<Service<D>>>,
    fault: Fault,
    Json(SignUp { email, referred_by }): Json<SignUp>,
) -> Result<(StatusCode, Json<User>), Error> {
    let email: Address = email.parse()?;
    let mut conn = service.pool.get_owned().await?;

    // When a client hangs up, the future of this function is dropped, wherever it waits. The
    // transaction must not be dropped during its COMMIT, or nobody would know whether it committed.
    // So it has a task of its own, which is told of that by the guard, and asks where it can still
    // turn back.
    let wanted = service.stopping.child_token();
    let _guard = wanted.clone().drop_guard();
    let transaction = async move {
        // The first statement writes, so that SQLite's write lock is waited for there. A block that
        // reads first would begin with `atomic!(conn, immediate, async {`.
        atomic!(conn, -> Result<User, Error>, async {
            let user = D::insert_user(conn, email.as_ref()).await?;
            send_welcome(user.id, &user.email); // not sent here: it waits for the outermost COMMIT
            evict_count();
            if let Some(referrer) = &referred_by {
                // A savepoint: an unknown referrer is not thanked, and no reason to refuse the
                // user.
                let referral: QueryResult<()> = atomic!(conn, async {
                    send_thanks(referrer, user.id);
                    D::insert_referral(conn, &user, referrer).await
                })
                .await;
                match referral {
                    Ok(()) | Err(DatabaseError(ForeignKeyViolation, _)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            wanted.run_until_cancelled(fault.strike(&user)).await.unwrap_or(Err(Error::Cancelled))?;
            Ok(user)
        })
        .await
    };
    // A part of the request's trace.
    let transaction = service.transactions.spawn(transaction.in_current_span());
    let user = transaction.await.unwrap_or_else(|error| resume_unwind(error.into_panic()))?;
    Ok((StatusCode::CREATED, Json(user)))
}

/// Spawned after COMMIT, and the dispatcher knows the mailer.
#[deferred_task]
pub(crate) async fn send_welcome(
    #[state] mailer: &Mailer,
    user_id: i32,
    email: &str,
) -> Result<(), Box<dyn StdError + Send + Sync>> {
    mailer.send(email, &format!("Welcome, user {user_id}"), "Good to have you!\n".to_owned()).await
}

#[deferred_task]
pub(crate) async fn send_thanks(
    #[state] mailer: &Mailer,
    referrer: &str,
    user_id: i32,
) -> Result<(), Box<dyn StdError + Send + Sync>> {
    mailer.send(referrer, &format!("Thanks for user {user_id}"), "You have a bonus of 10.\n".to_owned()).await
}

/// Not async: it has run when the client gets its answer, so that who signed up is counted in the
/// next one.
#[deferred_task]
pub(crate) fn evict_count(#[state] count: &UserCount) {
    count.evict();
}

#[derive(Serialize)]
struct Count {
    users: i64,
}

async fn count<D: Database>(State(service): State<Arc<Service<D>>>) -> Result<Json<Count>, Error> {
    let users = match service.count.get() {
        Ok(users) => users,
        Err(missing) => {
            let users = D::count_users(&mut *service.pool.get().await?).await?;
            service.count.put(missing, users);
            users
        }
    };
    Ok(Json(Count { users }))
}
