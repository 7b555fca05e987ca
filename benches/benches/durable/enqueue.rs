//! Enqueueing, and what telling workers costs those who commit.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel_async::AsyncConnection;
use diesel_deferred::{AsyncDeferredConnection, DeferredConnection, atomic};

use crate::by_hand::insert_by_hand;
use crate::figures::{median, print_rates};
use crate::noop;
use crate::schema::Schema;

/// A transaction with so many tasks, and one with an INSERT of as many rows by hand, which notifies
/// nobody.
pub fn enqueue(schema: &Schema, slices: usize, transactions: u32, tasks: i64) {
    let mut bare = schema.connect();
    let mut deferred = DeferredConnection::new(schema.connect());
    let (mut theirs, mut mine) = (Vec::new(), Vec::new());
    for _ in 0..slices {
        schema.empty();
        let start = Instant::now();
        for _ in 0..transactions {
            bare.transaction(|conn| insert_by_hand(tasks).execute(conn)).expect("commit");
        }
        theirs.push(start.elapsed() / transactions);
        schema.empty();
        let start = Instant::now();
        for _ in 0..transactions {
            atomic!(deferred, -> QueryResult<()>, {
                for number in 0..tasks {
                    noop(number);
                }
                Ok(())
            })
            .expect("commit");
        }
        mine.push(start.elapsed() / transactions);
        assert_eq!(schema.tasks(), tasks * i64::from(transactions));
    }
    print_rates(&format!("enqueue, {tasks} a transaction, sync"), tasks.unsigned_abs(), theirs, mine);
}

pub async fn enqueue_async(schema: &Schema, slices: usize, transactions: u32, tasks: i64) {
    let mut bare = schema.connect_async().await;
    let mut deferred = AsyncDeferredConnection::new(schema.connect_async().await);
    let (mut theirs, mut mine) = (Vec::new(), Vec::new());
    for _ in 0..slices {
        schema.empty();
        let start = Instant::now();
        for _ in 0..transactions {
            let inserted =
                bare.transaction(async |conn| diesel_async::RunQueryDsl::execute(insert_by_hand(tasks), conn).await);
            inserted.await.expect("commit");
        }
        theirs.push(start.elapsed() / transactions);
        schema.empty();
        let start = Instant::now();
        for _ in 0..transactions {
            let conn = &mut deferred;
            atomic!(conn, -> QueryResult<()>, async {
                for number in 0..tasks {
                    noop(number);
                }
                Ok(())
            })
            .await
            .expect("commit");
        }
        mine.push(start.elapsed() / transactions);
        assert_eq!(schema.tasks(), tasks * i64::from(transactions));
    }
    print_rates(&format!("enqueue, {tasks} a transaction, async"), tasks.unsigned_abs(), theirs, mine);
}

/// Commits a second of so many connections, one call each: of calls that are due, which workers are
/// told of, and of calls for tomorrow, which nobody is told of.
pub fn commit(schema: &Schema, slices: usize, time: Duration, connections: usize) {
    let mut conns: Vec<_> = (0..connections).map(|_| DeferredConnection::new(schema.connect())).collect();
    let mut listener = schema.connect();
    listener.batch_execute("LISTEN deferred_tasks").expect("it listens");
    let mut run = |delay: Duration| {
        schema.empty();
        let barrier = Barrier::new(connections);
        let barrier = &barrier;
        let commits = std::thread::scope(|threads| {
            let counts = conns.iter_mut().map(|conn| {
                threads.spawn(move || {
                    barrier.wait();
                    let (start, mut commits) = (Instant::now(), 0_i64);
                    while commits == 0 || start.elapsed() < time {
                        atomic!(conn, -> QueryResult<()>, {
                            if delay.is_zero() {
                                noop(0);
                            } else {
                                noop(0).delay(delay);
                            }
                            Ok(())
                        })
                        .expect("commit");
                        commits += 1;
                    }
                    commits
                })
            });
            let counts: Vec<_> = counts.collect();
            counts.into_iter().map(|count| count.join().expect("it committed")).sum::<i64>()
        });
        assert_eq!(schema.tasks(), commits);
        commits as f64 / time.as_secs_f64().max(0.1)
    };
    let (mut later, mut due) = (Vec::new(), Vec::new());
    let mut notifications = 0;
    for slice in 0..slices {
        // The disk is not the same from one moment to the next: neither side is always the first.
        for is_due in [slice % 2 == 0, slice % 2 == 1] {
            if is_due {
                due.push(run(Duration::ZERO));
            } else {
                later.push(run(Duration::from_secs(24 * 60 * 60)));
            }
        }
        listener.batch_execute("SELECT 1").expect("something to read");
        notifications = listener.notifications_iter().count();
    }
    let of_all = due.iter().sum::<f64>() / later.iter().sum::<f64>();
    let ratio = |(due, later): (&f64, &f64)| due / later;
    let ratios: Vec<_> = due.iter().zip(&later).map(ratio).collect();
    let (least, most) = ratios.iter().fold((f64::MAX, 0.0_f64), |(least, most), one| (least.min(*one), most.max(*one)));
    println!(
        "commits of {connections} connections: for later {:.0}/s, due {:.0}/s, ratio {:.2} \
         ({least:.2}–{most:.2}), of all slices {of_all:.2}; \
         {notifications} notifications in the last slice",
        median(later),
        median(due),
        median(ratios)
    );
}
