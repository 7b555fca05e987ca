//! What hooks cost beside what one would write by hand, side by side in one run. In-memory SQLite,
//! so that the database is as cheap as one can be.
//!
//! `cargo bench -p diesel-deferred-benches`; the ratios are in RESULTS.md.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use diesel::prelude::*;
use diesel::result::Error;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};

static SINK: AtomicU64 = AtomicU64::new(0);

fn add(terms: &[u64]) {
    SINK.fetch_add(terms.iter().sum(), Ordering::Relaxed);
}

#[deferred_task]
fn capture_8(a: u64) {
    add(&[a]);
}

#[deferred_task]
fn capture_24(a: u64, b: u64, c: u64) {
    add(&[a, b, c]);
}

/// The largest that is stored inline.
#[deferred_task]
fn capture_64(a: [u64; 8]) {
    add(&a);
}

/// Boxed.
#[deferred_task]
fn capture_128(a: [u64; 16]) {
    add(&a);
}

/// The hand-written baseline: a list that is kept from transaction to transaction, as the
/// connection keeps its own.
#[derive(Default)]
struct ByHand(Vec<Box<dyn FnOnce() + Send>>);

impl ByHand {
    fn transaction(&mut self, conn: &mut SqliteConnection, register: impl FnOnce(&mut Self)) {
        conn.transaction(|_| {
            register(self);
            QueryResult::Ok(())
        })
        .expect("commit");
        for hook in self.0.drain(..) {
            hook();
        }
    }
}

fn plain() -> SqliteConnection {
    SqliteConnection::establish(":memory:").expect("in memory")
}

fn deferring() -> DeferredConnection<SqliteConnection> {
    DeferredConnection::new(plain())
}

/// An empty transaction.
fn empty(c: &mut Criterion) {
    let mut group = c.benchmark_group("empty transaction");
    let conn = &mut plain();
    group.bench_function("SqliteConnection::transaction", |b| {
        b.iter(|| conn.transaction(|_| QueryResult::Ok(())).expect("commit"));
    });
    let conn = &mut deferring();
    group.bench_function("atomic!", |b| {
        b.iter(|| atomic!(conn, -> QueryResult<()>, { Ok(()) }).expect("commit"));
    });
    group.finish();
}

/// What a transaction with a few hooks costs as a whole.
fn few(c: &mut Criterion) {
    for count in [1_u64, 5] {
        let mut group = c.benchmark_group(format!("transaction with {count} hooks of 24 bytes"));
        let (conn, list) = (&mut plain(), &mut ByHand::default());
        group.bench_function("Vec<Box<dyn FnOnce() + Send>>", |b| {
            b.iter(|| {
                list.transaction(conn, |list| {
                    for i in 0..count {
                        let (x, y, z) = black_box((i, i, i));
                        list.0.push(Box::new(move || add(&[x, y, z])));
                    }
                });
            });
        });
        let conn = &mut deferring();
        group.bench_function("atomic!", |b| {
            b.iter(|| {
                atomic!(conn, -> QueryResult<()>, {
                    for i in 0..count {
                        let (x, y, z) = black_box((i, i, i));
                        capture_24(x, y, z);
                    }
                    Ok(())
                })
                .expect("commit");
            });
        });
        group.finish();
    }
}

/// Registering and running one hook, in a transaction of a thousand.
fn many(c: &mut Criterion) {
    const COUNT: u64 = 1000;
    macro_rules! capture {
        ($bytes:literal, |$i:ident| $captured:ident = $value:expr, $terms:expr, $task:expr) => {
            let mut group = c.benchmark_group(concat!("1000 hooks of ", $bytes, " bytes"));
            group.throughput(Throughput::Elements(COUNT));
            let (conn, list) = (&mut plain(), &mut ByHand::default());
            group.bench_function("Vec<Box<dyn FnOnce() + Send>>", |b| {
                b.iter(|| {
                    list.transaction(conn, |list| {
                        for $i in 0..COUNT {
                            let $captured = black_box($value);
                            list.0.push(Box::new(move || add(&$terms)));
                        }
                    });
                });
            });
            let conn = &mut deferring();
            group.bench_function("atomic!", |b| {
                b.iter(|| {
                    atomic!(conn, -> QueryResult<()>, {
                        for $i in 0..COUNT {
                            let $captured = black_box($value);
                            $task
                        }
                        Ok(())
                    })
                    .expect("commit");
                });
            });
            group.finish();
        };
    }
    capture!("8", |i| x = i, [x], capture_8(x));
    capture!("24", |i| x = (i, i, i), [x.0, x.1, x.2], capture_24(x.0, x.1, x.2));
    capture!("64", |i| x = [i; 8], x, capture_64(x));
    capture!("128", |i| x = [i; 16], x, capture_128(x));
}

/// The same cost a hook whatever their number: nothing is quadratic.
fn linear(c: &mut Criterion) {
    let mut group = c.benchmark_group("hooks in one transaction");
    group.sample_size(10);
    for count in [1_000_u64, 10_000, 100_000, 1_000_000] {
        group.throughput(Throughput::Elements(count));
        let conn = &mut deferring();
        group.bench_with_input(BenchmarkId::from_parameter(count), &count, |b, &count| {
            b.iter(|| {
                atomic!(conn, -> QueryResult<()>, {
                    for i in 0..count {
                        capture_24(i, i, i);
                    }
                    Ok(())
                })
                .expect("commit");
            });
        });
    }
    group.finish();
}

/// A savepoint with ten hooks that is rolled back costs the same whatever waits outside of it.
fn rollback(c: &mut Criterion) {
    let mut group = c.benchmark_group("roll back a savepoint with 10 hooks");
    for outside in [0_u64, 1_000, 100_000] {
        let conn = &mut deferring();
        group.bench_function(format!("{outside} hooks wait outside"), |b| {
            b.iter_custom(|iterations| {
                atomic!(conn, -> QueryResult<_>, {
                    for i in 0..outside {
                        capture_24(i, i, i);
                    }
                    let start = std::time::Instant::now();
                    for _ in 0..iterations {
                        let rolled_back: QueryResult<()> = atomic!(conn, {
                            for i in 0..10 {
                                capture_24(i, i, i);
                            }
                            Err(Error::RollbackTransaction)
                        });
                        black_box(rolled_back.is_err());
                    }
                    Ok(start.elapsed())
                })
                .expect("commit")
            });
        });
    }
    group.finish();
}

criterion_group!(benches, empty, few, many, linear, rollback);
criterion_main!(benches);
