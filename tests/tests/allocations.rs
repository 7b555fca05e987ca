//! C21, the part about memory. A binary of its own, because it counts what every thread allocates.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};
use diesel_deferred_tests::{Database, Scratch, on_every_database};

on_every_database! {
    c21_a_block_without_hooks_allocates_what_a_transaction_does,
    c21_small_hooks_are_kept_without_allocating,
}

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, with a count for each thread.
struct Counting;

fn count() {
    // A thread that is ending has no counter any more, and no test either.
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every call is handed to `System` with the arguments that it was made with, so that
// `System`'s guarantees are this allocator's; counting touches a `Cell` that needs no allocation
// and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise about `layout` is `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: `pointer` came from `System` with this `layout`, for all of them do.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System` with this `layout`, for all of them do.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often this thread allocates in `f`, once it is warm.
fn allocations(mut f: impl FnMut()) -> usize {
    (0..3).for_each(|_| f());
    let before = ALLOCATIONS.get();
    f();
    ALLOCATIONS.get() - before
}

fn empty_transaction<C: Connection>(conn: &mut C) -> usize {
    allocations(|| conn.transaction(|_| QueryResult::Ok(())).expect("it commits"))
}

fn nested_transactions<C: Connection>(conn: &mut C) -> usize {
    allocations(|| {
        conn.transaction(|conn| {
            let inner: QueryResult<()> = conn.transaction(|_| Err(diesel::result::Error::RollbackTransaction));
            assert!(inner.is_err());
            conn.transaction(|_| QueryResult::Ok(()))
        })
        .expect("it commits");
    })
}

/// C21: compared with Diesel's own on the connection below, flat and nested.
fn c21_a_block_without_hooks_allocates_what_a_transaction_does<C: Database>(db: &Scratch<C>) {
    let (mut bare, conn) = (db.observer(), &mut db.connect());
    let flat = allocations(|| atomic!(conn, -> QueryResult<()>, { Ok(()) }).expect("it commits"));
    assert_eq!(flat, empty_transaction(&mut bare));
    assert_eq!(empty_transaction(conn), flat);
    let nested = allocations(|| {
        atomic!(conn, -> QueryResult<()>, {
            let inner: QueryResult<()> = atomic!(conn, { Err(diesel::result::Error::RollbackTransaction) });
            assert!(inner.is_err());
            atomic!(conn, { Ok(()) })
        })
        .expect("it commits");
    });
    assert_eq!(nested, nested_transactions(&mut bare));
}

/// C21, and the design's "up to six words inline in a buffer that the connection keeps": a commit
/// with hooks allocates for its proof's message at most.
fn c21_small_hooks_are_kept_without_allocating<C: Database>(db: &Scratch<C>) {
    fn with_hooks<C: Database>(conn: &mut DeferredConnection<C>, hooks: usize) -> usize {
        allocations(|| {
            atomic!(conn, -> QueryResult<()>, {
                for id in 0..hooks {
                    conn.after_commit(move |_| assert_eq!(std::hint::black_box([id; 4])[0], id))?;
                }
                Ok(())
            })
            .expect("it commits");
        })
    }
    let conn = &mut db.connect();
    assert_eq!(with_hooks(conn, 1), with_hooks(conn, 50), "none for a hook");
    let tasks = |conn: &mut DeferredConnection<C>, tasks: i32| {
        allocations(|| {
            atomic!(conn, -> QueryResult<()>, {
                for id in 0..tasks {
                    tick(id);
                }
                Ok(())
            })
            .expect("it commits");
        })
    };
    assert_eq!(tasks(conn, 1), tasks(conn, 50), "none for a task");
}

#[deferred_task]
fn tick(id: i32) {
    std::hint::black_box(id);
}
