//! E16: "tracing events"; and point 2 of the issue about what operators see: "A task's span is a child
//! of, or linked to, the span of its call: in process, across the COMMIT, into the row and out of it in
//! another process; a retry links."

use diesel::prelude::*;
use diesel_deferred::{BoxError, DeferredConnection, Dispatcher, atomic, deferred_task};
use diesel_deferred_tests::{AsyncDatabase, AsyncSqliteConnection, Database, Scratch, on_every_database};
use opentelemetry::Value;
use opentelemetry_semantic_conventions::attribute;
use tracing::dispatcher::with_default;
use tracing::{Dispatch, Instrument, info_span};

use crate::exported::Listening;

type Conn<C> = DeferredConnection<C>;

#[deferred_task]
fn greet() {
    info_span!("in the task").in_scope(|| ());
}

#[deferred_task]
fn complain() -> Result<(), BoxError> {
    Err("no".into())
}

#[deferred_task]
async fn greet_later() {
    tokio::task::yield_now().await;
    info_span!("in the task").in_scope(|| ());
}

#[deferred_task(blocking)]
fn greet_on_a_thread(#[state] listener: &Dispatch) {
    with_default(listener, || info_span!("on a thread").in_scope(|| ()));
}

#[deferred_task(durable)]
async fn work() {
    tokio::task::yield_now().await;
    info_span!("in the task").in_scope(|| ());
}

#[deferred_task(durable, queue = "traces")]
fn work_on_a_thread(#[state] listener: &Dispatch) {
    with_default(listener, || info_span!("on a thread").in_scope(|| ()));
}

#[deferred_task(durable, backoff = "1ms", max_attempts = 2)]
async fn work_in_vain() -> Result<(), BoxError> {
    Err("no".into())
}

on_every_database! {
    a_hook_runs_as_a_part_of_what_its_call_was,
    a_statement_stores_the_calls_as_a_part_of_the_transaction,
    a_rollback_hook_is_a_part_of_it_too,
    off_there_is_nothing_in_the_row,
}

/// In process. A call that is made in a span of the user's is a part of that one; and behind the block
/// the request's span is current again.
fn a_hook_runs_as_a_part_of_what_its_call_was<C: Database>(db: &Scratch<C>) {
    let conn: &mut Conn<C> = &mut db.connect();
    let listening = Listening::begin();
    let request = info_span!("request").entered();
    atomic!(conn, -> QueryResult<()>, {
        greet();
        info_span!("a part of the block").in_scope(|| {
            atomic!(conn, -> QueryResult<()>, {
                complain();
                Ok(())
            })
        })?;
        conn.after_commit(|_| info_span!("in the closure").in_scope(|| ()))?;
        Ok(())
    })
    .expect("committed");
    assert_eq!(tracing::Span::current().id(), request.id(), "no span is left");
    drop(request);
    let trees = listening.trees();
    let closure = trees.lines().map(str::trim).find(|line| line.ends_with("{{closure}}")).expect("the closure");
    let expected = format!(
        "request\n  \
           transaction\n    \
             observability::traces::greet\n      in the task\n    \
             {closure}\n      in the closure\n  \
           a part of the block\n    \
             observability::traces::complain failed: no\n"
    );
    assert_eq!(trees, expected);
}

/// Into the row: by one statement, whose span says how many.
fn a_statement_stores_the_calls_as_a_part_of_the_transaction<C: Database>(db: &Scratch<C>) {
    C::migrate(&mut db.observer());
    let conn: &mut Conn<C> = &mut db.connect();
    let listening = Listening::begin();
    info_span!("request").in_scope(|| {
        atomic!(conn, -> QueryResult<()>, {
            for _ in 0..3 {
                work();
            }
            Ok(())
        })
        .expect("committed");
    });
    assert_eq!(listening.trees(), "request\n  transaction\n    send default (producer)\n");
    let spans = listening.spans();
    let of = |name: &str| spans.iter().find(|span| span.name == name).expect("the span");
    let context = &of("transaction").span_context;
    let trace_parent = format!("00-{}-{}-01", context.trace_id(), context.span_id());
    assert_eq!(trace_parents(db), [Some(trace_parent.clone()), Some(trace_parent.clone()), Some(trace_parent)]);
    let send = of("send default");
    let count = send.attributes.iter().find(|pair| pair.key.as_str() == attribute::MESSAGING_BATCH_MESSAGE_COUNT);
    assert_eq!(count.map(|pair| &pair.value), Some(&Value::I64(3)));
}

fn a_rollback_hook_is_a_part_of_it_too<C: Database>(db: &Scratch<C>) {
    let conn: &mut Conn<C> = &mut db.connect();
    let listening = Listening::begin();
    info_span!("request").in_scope(|| {
        let rolled_back = atomic!(conn, -> QueryResult<()>, {
            greet().after_rollback(conn)?;
            Err(diesel::result::Error::RollbackTransaction)
        });
        rolled_back.expect_err("rolled back");
    });
    let expected = "request\n  transaction\n    observability::traces::greet\n      in the task\n";
    assert_eq!(listening.trees(), expected);
}

fn trace_parents<C: Database>(db: &Scratch<C>) -> Vec<Option<String>> {
    db.tasks().into_iter().map(|row| row.trace_parent).collect()
}

/// "Off: no bytes in the row."
fn off_there_is_nothing_in_the_row<C: Database>(db: &Scratch<C>) {
    C::migrate(&mut db.observer());
    let conn: &mut Conn<C> = &mut db.connect();
    atomic!(conn, -> QueryResult<()>, {
        work();
        Ok(())
    })
    .expect("committed");
    assert_eq!(trace_parents(db), [None]);
}

/// Tasks of a dispatcher, each as a part of what its own call was: nothing is left for the next one that
/// gets the slot.
#[tokio::test]
async fn no_span_leaks_into_the_next_task_of_a_dispatcher() {
    let db = &Scratch::<SqliteConnection>::new();
    let listening = Listening::begin();
    let dispatcher = Dispatcher::builder().max_in_flight(1).build();
    let conn = &mut db.connect();
    conn.set_dispatcher(dispatcher.clone());
    for request in [info_span!("first"), info_span!("second")] {
        request.in_scope(|| {
            atomic!(conn, -> QueryResult<()>, {
                greet_later();
                greet_later();
                Ok(())
            })
            .expect("committed");
        });
    }
    dispatcher.idle().await;
    assert!(tracing::Span::current().is_none());
    let of_each = |request: &str| {
        format!(
            "{request}\n  transaction\n    observability::traces::greet_later\n      in the task\n    \
             observability::traces::greet_later\n      in the task\n"
        )
    };
    assert_eq!(listening.trees(), of_each("first") + &of_each("second"));
}

/// And of a task on a thread: what it opens there is a part of its span.
#[tokio::test]
async fn a_task_on_a_thread_is_a_part_of_what_its_call_was() {
    let db = &Scratch::<SqliteConnection>::new();
    let listening = Listening::begin();
    let dispatcher = Dispatcher::builder().state(listening.dispatch.clone()).build();
    let conn = &mut db.connect();
    conn.set_dispatcher(dispatcher.clone());
    info_span!("request").in_scope(|| {
        atomic!(conn, -> QueryResult<()>, {
            greet_on_a_thread();
            Ok(())
        })
        .expect("committed");
    });
    dispatcher.idle().await;
    assert_eq!(
        listening.trees(),
        "request\n  transaction\n    observability::traces::greet_on_a_thread\n      on a thread\n"
    );
}

on_every_worker! {
    request_transaction_send_and_attempt_are_one_trace,
    a_retry_is_a_trace_of_its_own_with_a_link,
    names_and_attributes_are_those_of_the_conventions,
}

async fn run_all<A: AsyncDatabase>(db: &Scratch<A::Blocking>, listening: &Listening) {
    let worker = db.worker::<A>().queue("default", 1).queue("traces", 1).state(listening.dispatch.clone());
    let worker = worker.build().expect("a worker");
    worker.run_until_empty().await.expect("done");
}

/// "Request, transaction, enqueue, worker, attempt are one trace": also by an asynchronous connection,
/// and where the task runs on a thread. The second attempt in the slot is of another trace.
async fn request_transaction_send_and_attempt_are_one_trace<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let listening = Listening::begin();
    let conn = &mut db.patient_async::<A>().await;
    for request in [info_span!("first"), info_span!("second")] {
        let block = async {
            atomic!(conn, -> QueryResult<()>, async {
                work();
                info_span!("a part of the block").in_scope(|| work_on_a_thread().after_commit(conn))?;
                Ok(())
            })
            .await
        };
        block.instrument(request).await.expect("committed");
    }
    run_all::<A>(db, &listening).await;
    assert!(tracing::Span::current().is_none());
    let of_each = |request: &str| {
        format!(
            "{request}\n  transaction\n    send (producer)\n    process default (consumer)\n      in the task\n  \
             a part of the block\n    process traces (consumer)\n      on a thread\n"
        )
    };
    assert_eq!(listening.trees(), of_each("first") + &of_each("second"));
}

/// "A retry links", and a failure is an error of its span's.
async fn a_retry_is_a_trace_of_its_own_with_a_link<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let listening = Listening::begin();
    db.patient().transaction(|conn| work_in_vain().after_commit(conn)).expect("committed");
    while db.tasks().iter().any(|row| row.state != "dead") {
        run_all::<A>(db, &listening).await;
    }
    let expected = "transaction\n  send default (producer)\n  process default (consumer) failed: no\n\
                    process default (consumer) failed: no -> transaction\n";
    assert_eq!(listening.trees(), expected);
}

/// Names as `opentelemetry-semantic-conventions` has them, and two of our own.
async fn names_and_attributes_are_those_of_the_conventions<A: AsyncDatabase>(db: &Scratch<A::Blocking>) {
    let listening = Listening::begin();
    db.patient().transaction(|conn| work_in_vain().after_commit(conn)).expect("committed");
    let id = db.task_ids()[0];
    run_all::<A>(db, &listening).await;
    let spans = listening.spans();
    let attributes = |name: &str| {
        let span = spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("{name}"));
        let mut attributes: Vec<_> =
            span.attributes.iter().map(|pair| (pair.key.as_str(), pair.value.to_string())).collect();
        // Those that `tracing-opentelemetry` adds.
        attributes.retain(|(key, _)| {
            ![
                "code.file.path",
                "code.line.number",
                "code.module.name",
                "thread.id",
                "thread.name",
                "busy_ns",
                "idle_ns",
                "target",
            ]
            .contains(key)
        });
        attributes.sort_unstable();
        attributes
    };
    let mut send = vec![
        (attribute::MESSAGING_SYSTEM, "diesel_deferred".to_owned()),
        (attribute::MESSAGING_OPERATION_NAME, "send".to_owned()),
        (attribute::MESSAGING_OPERATION_TYPE, "send".to_owned()),
        (attribute::MESSAGING_DESTINATION_NAME, "default".to_owned()),
        (attribute::MESSAGING_BATCH_MESSAGE_COUNT, "1".to_owned()),
    ];
    send.sort_unstable();
    assert_eq!(attributes("send default"), send);
    let mut process = vec![
        (attribute::MESSAGING_SYSTEM, "diesel_deferred".to_owned()),
        (attribute::MESSAGING_OPERATION_NAME, "process".to_owned()),
        (attribute::MESSAGING_OPERATION_TYPE, "process".to_owned()),
        (attribute::MESSAGING_DESTINATION_NAME, "default".to_owned()),
        (attribute::MESSAGING_MESSAGE_ID, id.to_string()),
        (attribute::CODE_FUNCTION_NAME, "observability::traces::work_in_vain".to_owned()),
        (attribute::ERROR_TYPE, "_OTHER".to_owned()),
        ("diesel_deferred.attempt", "1".to_owned()),
    ];
    process.sort_unstable();
    assert_eq!(attributes("process default"), process);
    let mut all = spans.iter().flat_map(|span| &span.attributes);
    let attempt = all.find(|pair| pair.key.as_str() == "diesel_deferred.attempt");
    assert_eq!(attempt.map(|pair| &pair.value), Some(&Value::I64(1)), "a number");
    assert_eq!(attributes("transaction"), []);
}
