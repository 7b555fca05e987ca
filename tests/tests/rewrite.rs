//! What `atomic!` must not change about a block, in both editions: the package beside this one
//! compiles the same file.
//!
//! The blocks run: a test asserts what they did, in which order, and which tasks ran after the
//! commit.

#![deny(warnings)]
#![forbid(unused_must_use)]
#![allow(
    clippy::multiple_bound_locations,
    clippy::never_loop,
    clippy::ptr_arg,
    clippy::question_mark,
    clippy::single_match,
    clippy::unit_arg,
    clippy::unnecessary_operation,
    clippy::useless_vec,
    reason = "written this way on purpose: it is what a user may write"
)]

use diesel::prelude::*;
use diesel_async::AsyncConnection as _;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_deferred::{AsyncDeferredConnection, DeferredConnection};

#[path = "../ui/pass/mod.rs"]
mod pass;

type Conn = DeferredConnection<SqliteConnection>;
type AsyncConn = AsyncDeferredConnection<SyncConnectionWrapper<SqliteConnection>>;

fn connect() -> Conn {
    Conn::establish(":memory:").expect("in memory")
}

async fn connect_async() -> AsyncConn {
    AsyncDeferredConnection::new(SyncConnectionWrapper::establish(":memory:").await.expect("in memory"))
}
