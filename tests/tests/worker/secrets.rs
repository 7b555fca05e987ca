//! What a log may not have: the arguments of durable calls in `Debug`, and a `#[secret]` argument
//! anywhere but in its row and in its task.

use std::collections::HashMap;
use std::fmt::{Debug, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use diesel::prelude::*;
use diesel_deferred::{AsyncDeferredConnection, Job, atomic, deferred_task};
use diesel_deferred_tests::{AsyncDatabase, Notes, Scratch, at_work, events_with, on_every_async_database};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tower_layer::layer_fn;
use tower_service::Service;

on_every_async_database!(a_secret_is_shown_nowhere, debug_shows_no_durable_arguments);

const CANARY: &str = "canary-4711";

/// It has no `Debug`.
#[derive(Clone)]
struct Token(String);

/// It says what it is where it cannot be written, or read.
struct Talkative(&'static str);

impl Serialize for Talkative {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom(format!("no word of {} to anybody", self.0)))
    }
}

impl<'de> Deserialize<'de> for Talkative {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|_| Self("")).map_err(serde::de::Error::custom)
    }
}

#[deferred_task]
fn plain(#[secret] token: &str, id: i32, #[secret] opaque: Token) -> Result<(), String> {
    assert_eq!((token, &*opaque.0), (CANARY, CANARY), "the task itself is told");
    Err(format!("task {id} failed"))
}

#[deferred_task(durable, queue = "secrets")]
fn stored(#[state] notes: &Notes, #[secret] token: &str, id: i32, #[secret] again: Option<String>) {
    notes.add(format!("{id} {}", token == CANARY && again.as_deref() == Some(CANARY)));
}

#[deferred_task(durable, queue = "secrets")]
fn renamed(
    #[state] notes: &Notes,
    #[secret]
    #[serde(rename = "t")]
    token: String,
    id: i32,
) {
    notes.add(format!("{id} {}", token == CANARY));
}

#[deferred_task(durable, queue = "secrets", max_attempts = 1)]
fn number(#[secret] token: u64, id: i32) {
    unreachable!("{token} {id}")
}

#[deferred_task(durable, queue = "secrets", max_attempts = 1)]
fn renamed_number(
    #[secret]
    #[serde(rename = "t")]
    token: u64,
) {
    unreachable!("{token}")
}

/// What is left of the row besides the secret is not for `rest` to tell.
#[deferred_task(durable, queue = "secrets", max_attempts = 1)]
fn flat(#[serde(flatten)] rest: HashMap<String, i32>, #[secret] token: String) {
    unreachable!("{token} {rest:?}")
}

#[deferred_task(durable, queue = "secrets")]
fn talkative(#[secret] token: Talkative) {
    unreachable!("{}", token.0)
}

#[deferred_task(durable, queue = "secrets")]
fn talkative_wrapped(
    #[secret]
    #[serde(default = "nothing")]
    token: Talkative,
) {
    unreachable!("{}", token.0)
}

fn nothing() -> Talkative {
    Talkative("")
}

/// All that was shown.
#[derive(Default)]
struct Shown(String);

impl Shown {
    fn add(&mut self, value: &dyn Debug) {
        writeln!(self.0, "{value:?}\n{value:#?}").expect("a string");
    }
}

/// Shows a job as a layer for traces would.
#[derive(Clone)]
struct Show<S>(S, Notes);

impl<S: Service<Job, Response = ()>> Service<Job> for Show<S> {
    type Response = ();
    type Error = S::Error;
    type Future = Pin<Box<S::Future>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, job: Job) -> Self::Future {
        self.1.add(format!("{job:?}"));
        Box::pin(self.0.call(job))
    }
}

/// It is in its row, and in the task. Not in `pending()`, `Debug`, reports, errors, events, and not
/// in the column `error`.
async fn a_secret_is_shown_nowhere<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let mut shown = Shown::default();

    let conn = &mut db.patient_async::<A>().await;
    let committed: QueryResult<()> = atomic!(conn, async {
        shown.add(&plain(CANARY, 41, Token(CANARY.into())));
        plain(CANARY, 42, Token(CANARY.into()));
        stored(CANARY, 43, Some(CANARY.into()));
        renamed(CANARY.into(), 44);
        shown.add(conn);
        shown.add(&conn.pending());
        shown.0.extend(conn.pending().iter().map(ToString::to_string));
        Ok(())
    })
    .await;
    committed.expect("committed");
    assert_eq!(conn.last_report().failures().len(), 1);
    shown.add(conn.last_report());
    for id in ["41", "42", "43", "44"] {
        assert!(shown.0.contains(id), "what is no secret is shown: {}", shown.0);
    }
    assert!(shown.0.contains("token: <secret>, id: 42, opaque: <secret>"), "{}", shown.0);
    assert!(shown.0.contains(r#"{"token":"<secret>","id":43,"again":"<secret>"}"#), "{}", shown.0);
    assert!(shown.0.contains(r#"{"token":"<secret>","id":44}"#), "{}", shown.0);

    // In a report of what did not run.
    let conn = &mut db.patient();
    conn.stop_hooks_at_first_failure(true);
    let committed: QueryResult<()> = atomic!(conn, {
        plain(CANARY, 1, Token(CANARY.into()));
        plain(CANARY, 45, Token(CANARY.into()));
        Ok(())
    });
    committed.expect("committed");
    assert_eq!(conn.last_report().not_run().len(), 1);
    shown.add(conn.last_report());
    writeln!(shown.0, "{}", conn.last_report()).expect("a string");

    // In an error of a call that cannot be stored.
    for refused in [
        atomic!(conn, -> QueryResult<()>, {
            talkative(Talkative(CANARY));
            Ok(())
        }),
        atomic!(conn, -> QueryResult<()>, { talkative_wrapped(Talkative(CANARY)).after_commit(conn).map(drop) }),
    ] {
        let error = refused.expect_err("it cannot be stored");
        assert!(error.to_string().contains("its argument `token` could not be written as JSON"), "{error}");
        writeln!(shown.0, "{error}").expect("a string");
        shown.add(&error);
    }

    // In a worker, whose rows are not as they were written.
    let written: QueryResult<()> = atomic!(conn, {
        number(1, 2);
        renamed_number(1);
        flat(HashMap::new(), CANARY.to_owned());
        number(3, 9);
        Ok(())
    });
    written.expect("committed");
    let rows = db.tasks();
    assert_eq!(rows.iter().filter(|row| row.payload.contains(CANARY)).count(), 3, "a row has what its task takes");
    db.run_sql(&format!(
        r#"UPDATE deferred_tasks SET payload = '{{"token":"{CANARY}","id":2}}' WHERE payload LIKE '%"id":2%'"#
    ));
    db.run_sql(&format!(r#"UPDATE deferred_tasks SET payload = '{{"t":"{CANARY}"}}' WHERE payload LIKE '{{"t":1}}'"#));
    db.run_sql(&format!(r#"UPDATE deferred_tasks SET payload = '"{CANARY}"' WHERE payload LIKE '%"id":9%'"#));
    let (notes, told) = (Notes::default(), Notes::default());
    let (failures, jobs) = (told.clone(), told.clone());
    let worker = at_work!(
        db.worker::<A>()
            .queue("secrets", 2)
            .state(notes.clone())
            .on_failure(move |failure| failures.add(format!("{failure} {failure:?}")))
            .layer(layer_fn(move |inner| Show(inner, jobs.clone())))
    );
    let rows = db.wait_for_tasks(|rows| rows.len() == 4 && rows.iter().all(|row| row.state == "unknown")).await;
    worker.stop().await;
    let mut ran = notes.all();
    ran.sort();
    assert_eq!(ran, ["43 true", "44 true"]);
    for row in &rows {
        let error = row.error.as_deref().expect("why");
        assert!(error.contains("cannot be read") || error.contains("not a JSON object"), "{error}");
        writeln!(shown.0, "{error}").expect("a string");
    }
    let told = told.all();
    // They are tried again, in case that another program has changed them.
    assert!(told.len() >= 6, "{told:?}");
    shown.0.extend(told);

    assert!(!shown.0.contains(CANARY), "{}", shown.0);
    assert_eq!(events_with(CANARY), [""; 0]);
}

#[deferred_task(durable, key = "key-{text}", queue = "arguments", unique)]
fn keyed(text: &str) {
    let _ = text;
}

/// `{conn:?}` is what `#[tracing::instrument]` logs.
async fn debug_shows_no_durable_arguments<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    const ARGUMENT: &str = "argument-4711";
    let db = &Scratch::<A::Blocking>::with_tasks();
    let told = Notes::default();
    let mut shown = Shown::default();
    let conn: &mut AsyncDeferredConnection<A> = &mut db.patient_async().await;
    let committed: QueryResult<()> = atomic!(conn, async {
        keyed(ARGUMENT);
        keyed("another").key(ARGUMENT).delay(std::time::Duration::from_millis(1));
        shown.add(conn);
        assert!(conn.pending()[0].arguments.contains(ARGUMENT), "who asks is told");
        Ok(())
    })
    .await;
    committed.expect("committed");
    let conn = &mut db.patient();
    let committed: QueryResult<()> = atomic!(conn, {
        keyed(ARGUMENT).key("a third one");
        shown.add(conn);
        Ok(())
    });
    committed.expect("committed");
    let jobs = told.clone();
    let worker =
        at_work!(db.worker::<A>().queue("arguments", 2).layer(layer_fn(move |inner| Show(inner, jobs.clone()))));
    told.wait_for(3).await;
    worker.stop().await;
    shown.0.extend(told.all());
    assert!(!shown.0.contains(ARGUMENT), "{}", shown.0);
    assert!(shown.0.contains("worker::secrets::keyed"), "{}", shown.0);
}
