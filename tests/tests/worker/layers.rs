//! Layers of tower's around the tasks.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use diesel_deferred::{BoxError, Handlers, Job, deferred_task};
use diesel_deferred_tests::{AsyncDatabase, Notes, Scratch, at_work, on_every_async_database};
use tower_layer::{Layer, layer_fn};
use tower_service::Service;

use crate::support::{committed, hold, hold_blocking, lease_end, lease_extended, note, with, words, worker, worker_of};

on_every_async_database!(
    a_layer_sees_every_attempt,
    a_rate_limit_holds_back,
    an_attempt_that_a_layer_gives_up_has_failed,
    a_thread_that_a_layer_gives_up_is_waited_for,
    a_layer_that_fails_or_panics_is_contained,
    leases_are_kept_while_a_layer_is_not_ready,
);

/// Notes what it sees, and does what the task's argument says.
#[derive(Debug, Clone)]
struct Watch<S> {
    inner: S,
    notes: Notes,
    name: &'static str,
    polled: usize,
}

fn watch<S>(name: &'static str, notes: &Notes) -> impl Layer<S, Service = Watch<S>> {
    let notes = notes.clone();
    layer_fn(move |inner| Watch { inner, notes: notes.clone(), name, polled: 0 })
}

impl<S> Service<Job> for Watch<S>
where
    S: Service<Job, Response = (), Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = ();
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.polled += 1;
        match (self.name, self.polled) {
            ("unready", 1) => panic!("in poll_ready"),
            ("unready", 2) => Poll::Ready(Err("never ready".into())),
            _ => self.inner.poll_ready(context),
        }
    }

    fn call(&mut self, job: Job) -> Self::Future {
        let attempt = job.attempt();
        let seen = format!("{} {} {} {}", self.name, job.task(), attempt.number(), job.payload());
        self.notes.add(seen);
        assert!(!job.payload().contains("panic in call"), "in call");
        let refused = job.payload().contains("refuse");
        let panics = job.payload().contains("panic in the future");
        let called = self.inner.call(job);
        let (notes, name) = (self.notes.clone(), self.name);
        Box::pin(async move {
            assert!(!panics, "in the future");
            if refused {
                return Err("refused by a layer".into());
            }
            let result = called.await;
            notes.add(format!("{name} {}", if result.is_ok() { "ok" } else { "failed" }));
            result
        })
    }
}

#[deferred_task(durable, max_attempts = 1)]
async fn obey(#[state] notes: &Notes, word: &str) {
    notes.add(word);
}

/// Issue: "handlers run as a `tower::Service`". The first layer is the outermost.
async fn a_layer_sees_every_attempt<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    words(db, &["a"]);
    let at_work = at_work!(worker::<A>(db, &notes).layer(watch("outer", &notes)).layer(watch("inner", &notes)));
    let seen = notes.wait_for(5).await;
    assert_eq!(
        seen,
        [
            r#"outer worker::support::note 1 {"text":"a"}"#,
            r#"inner worker::support::note 1 {"text":"a"}"#,
            "a",
            "inner ok",
            "outer ok",
        ]
    );
    at_work.stop().await;
}

/// A rate limit of tower's own.
async fn a_rate_limit_holds_back<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    words(db, &["a", "b", "c", "d", "e"]);
    let limit = tower::limit::RateLimitLayer::new(2, Duration::from_millis(200));
    let at_work = at_work!(worker::<A>(db, &notes).layer(limit));
    notes.wait_for(1).await;
    let begin = Instant::now();
    notes.wait_for(5).await;
    assert!(begin.elapsed() >= Duration::from_millis(380), "{:?}", begin.elapsed());
    let report = at_work.stop().await;
    assert_eq!((report.ran, report.abandoned.len()), (5, 0));
}

/// Q11: "timeout in handler = failed attempt": tower's.
async fn an_attempt_that_a_layer_gives_up_has_failed<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| hold("a").max_attempts(2).after_commit(conn));
    let limit = tower::timeout::TimeoutLayer::new(Duration::from_millis(20));
    let at_work = at_work!(worker_of::<A>(db, &notes, 1).layer(limit));
    let rows = db.wait_for_tasks(|rows| rows[0].state == "dead").await;
    assert_eq!((rows[0].attempts, rows[0].error.as_deref()), (2, Some("request timed out")));
    words(db, &["after"]);
    notes.wait_until(|all| all.iter().any(|note| note == "after")).await;
    at_work.stop().await;
}

/// Lets what holds go on, also where a test fails: a thread that holds would keep its process from
/// ending.
struct Go(Notes);

impl Drop for Go {
    fn drop(&mut self) {
        self.0.add("go");
    }
}

/// D11: a thread goes on when a layer has given it up, and nobody begins its task anew beside it,
/// or another one of its key.
async fn a_thread_that_a_layer_gives_up_is_waited_for<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let go = Go(notes.clone());
    committed(db, |conn| {
        hold_blocking("a").max_attempts(2).key("k").after_commit(conn)?;
        note("behind").key("k").after_commit(conn)
    });
    let limit = tower::timeout::TimeoutLayer::new(Duration::from_millis(20));
    let at_work = at_work!(worker_of::<A>(db, &notes, 2).layer(limit));
    notes.wait_for(1).await;
    // Longer than the limit and the backoff: others that are called meanwhile run beside it.
    for round in 0..20 {
        words(db, &["beside"]);
        notes.wait_for(2 + round).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(notes.all()[0], "begin a");
    assert!(notes.all()[1..].iter().all(|note| note == "beside"), "{:?}", notes.all());
    drop(go);
    db.wait_for_tasks(|rows| rows.is_empty()).await;
    assert_eq!(with(&notes.all(), "begin "), ["a", "a"], "it was given up once, and tried again");
    assert_eq!(notes.all().last().map(String::as_str), Some("behind"));
    at_work.stop().await;
}

/// Q11: "worker survives".
async fn a_layer_that_fails_or_panics_is_contained<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    committed(db, |conn| {
        for word in ["first", "second", "panic in call", "panic in the future", "refuse", "last"] {
            obey(word).after_commit(conn)?;
        }
        Ok(())
    });
    let at_work = at_work!(
        worker_of::<A>(db, &notes, 1).layer(watch("unready", &notes)).layer(watch("inner", &Notes::default()))
    );
    notes.wait_until(|all| all.iter().any(|note| note == "last")).await;
    let rows = db.wait_for_tasks(|rows| rows.len() == 5 && rows.iter().all(|row| row.state == "dead")).await;
    let reasons: Vec<_> = rows.iter().map(|row| row.error.as_deref().unwrap_or_default()).collect();
    assert_eq!(
        reasons,
        [
            "panicked: in poll_ready",
            "never ready",
            "panicked: in call",
            "panicked: in the future",
            "refused by a layer",
        ]
    );
    assert_eq!(with(&notes.all(), "last").len(), 1);
    at_work.stop().await;
}

/// Is not ready before somebody notes `open`.
struct Gate {
    inner: Handlers,
    notes: Notes,
    opens: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Service<Job> for Gate {
    type Response = ();
    type Error = BoxError;
    type Future = <Handlers as Service<Job>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let notes = self.notes.clone();
        let opens = self.opens.get_or_insert_with(|| {
            Box::pin(async move {
                notes.wait_until(|all| all.iter().any(|note| note == "open")).await;
            })
        });
        if opens.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.opens = None;
        self.inner.poll_ready(context)
    }

    fn call(&mut self, job: Job) -> Self::Future {
        self.inner.call(job)
    }
}

/// Q10: what waits for a layer has been taken, and is nobody else's.
async fn leases_are_kept_while_a_layer_is_not_ready<A: AsyncDatabase>(_: &Scratch<A::Blocking>) {
    let db = &Scratch::<A::Blocking>::with_tasks();
    let notes = Notes::default();
    let gate = {
        let notes = notes.clone();
        layer_fn(move |inner: Handlers| Gate { inner, notes: notes.clone(), opens: None })
    };
    let lease = Duration::from_secs(1);
    let gated = at_work!(worker::<A>(db, &notes).lease(lease).grace_period(Duration::ZERO).layer(gate.clone()));
    committed(db, |conn| {
        note("a").after_commit(conn)?;
        note("b").after_commit(conn)
    });
    db.wait_for_tasks(|rows| rows.iter().all(|row| row.state == "running")).await;
    let other = at_work!(worker::<A>(db, &notes).lease(lease));
    lease_extended(db, lease_end(db), 1_500).await;
    assert_eq!(notes.all(), [""; 0]);
    // A worker that stops gives them back: they have not begun.
    let report = gated.stop().await;
    assert_eq!((report.ran, report.released, report.abandoned.len()), (0, 2, 0), "{report}");
    notes.wait_for(2).await;
    other.stop().await;

    words(db, &["c"]);
    let gated = at_work!(worker::<A>(db, &notes).layer(gate));
    notes.add("open");
    notes.wait_until(|all| all.iter().any(|note| note == "c")).await;
    gated.stop().await;
}
