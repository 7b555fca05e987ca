//! A7: a deferring connection can be shared, and held across an await, wherever the connection below can.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use diesel::prelude::*;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_deferred::{AsyncDeferredConnection, DeferredConnection, atomic, deferred_task};
use diesel_deferred_tests::{AsyncDatabase, Scratch, rolled_back};

use crate::fixture::noting;

const fn is_sync_and_unpin<T: Sync + Unpin>() {}
const fn is_unpin<T: Unpin>() {}
const fn is_send<T: Send>(value: T) -> T {
    value
}

const _: () = {
    is_sync_and_unpin::<AsyncDeferredConnection<SyncConnectionWrapper<SqliteConnection>>>();
    #[cfg(feature = "postgres")]
    {
        is_sync_and_unpin::<AsyncDeferredConnection<diesel_async::AsyncPgConnection>>();
        is_sync_and_unpin::<AsyncDeferredConnection<&mut diesel_async::AsyncPgConnection>>();
    }
    // diesel-async's own is not `Sync`.
    #[cfg(feature = "mysql")]
    is_unpin::<AsyncDeferredConnection<diesel_async::AsyncMysqlConnection>>();
    is_unpin::<DeferredConnection<SqliteConnection>>();
};

/// A7: a handler that holds a `&conn` is `Send`, as those of a web framework have to be.
#[tokio::test]
async fn a07_a_future_that_holds_a_shared_connection_is_send() {
    async fn helper(conn: &AsyncDeferredConnection<SyncConnectionWrapper<SqliteConnection>>) -> usize {
        tokio::task::yield_now().await;
        conn.pending().len()
    }
    let db = Scratch::<SqliteConnection>::new();
    let conn = db.connect_async::<SyncConnectionWrapper<SqliteConnection>>().await;
    let handler = is_send(async move { helper(&conn).await });
    assert_eq!(tokio::spawn(handler).await.unwrap(), 0);
}

/// Waits in its `Debug` until another thread looks at the list, too.
#[derive(Clone)]
struct Meeting(Arc<Barrier>, Arc<AtomicUsize>);

impl fmt::Debug for Meeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.1.fetch_add(1, Ordering::SeqCst) == 0 {
            self.0.wait();
        }
        f.write_str("met")
    }
}

#[deferred_task]
fn meet(_meeting: Meeting, _id: i32) {}

#[tokio::test]
async fn a07_two_threads_look_at_once_on_sqlite() {
    what_waits_is_seen_by_two_threads_at_once::<SyncConnectionWrapper<SqliteConnection>>(&Scratch::new()).await;
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a07_two_threads_look_at_once_on_postgres() {
    what_waits_is_seen_by_two_threads_at_once::<diesel_async::AsyncPgConnection>(&Scratch::new()).await;
}

/// A7: no list is short, and none is lost, because another thread reads it at the same time.
async fn what_waits_is_seen_by_two_threads_at_once<C: AsyncDatabase + Sync>(db: &Scratch<C::Blocking>) {
    let conn = &mut db.connect_async::<C>().await;
    let log = diesel_deferred_tests::Log::new();
    let meeting = Meeting(Arc::new(Barrier::new(2)), Arc::default());
    let block: QueryResult<()> = atomic!(conn, async {
        meet(meeting.clone(), 1);
        noting(conn, &log, 2)?;
        meet(meeting.clone(), 3);
        let shared = &*conn;
        let seen = std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                meeting.0.wait();
                shared.pending()
            });
            [shared.pending(), other.join().expect("it looks")]
        });
        assert_eq!(seen[0], seen[1]);
        assert_eq!(seen[0].len(), 3);
        assert!(seen[0][0].arguments.contains("met"), "{}", seen[0][0]);
        rolled_back()
    })
    .await;
    assert_eq!(block, rolled_back());
}
