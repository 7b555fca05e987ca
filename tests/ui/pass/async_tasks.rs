//! Async and blocking task functions, and tasks with states, in all the shapes that a function can have.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use diesel::prelude::*;
use diesel_deferred::{Dispatcher, Task, atomic, deferred_task};
use diesel_deferred_tests::{Log, note};

use crate::{AsyncConn, connect, connect_async};

#[derive(Debug)]
struct Mailer {
    from: String,
}

#[deferred_task]
async fn generic<T: Debug + Clone + Send + Sync + 'static, const N: usize>(log: &Log, values: [T; N])
where
    T: PartialEq,
{
    tokio::task::yield_now().await;
    log.push(i32::try_from(format!("{values:?}").len()).expect("short"));
}

#[deferred_task]
async fn only_in_the_body<T: Default + Into<i32> + Send + 'static>(log: &Log) {
    let value = T::default();
    tokio::task::yield_now().await;
    log.push(value.into());
}

#[deferred_task]
async fn references(log: &Log, text: &str, list: &[i32], path: &Path, fixed: &'static str, mut id: i32) {
    id += 1;
    tokio::task::yield_now().await;
    let lengths = text.len() + list.len() + path.as_os_str().len() + fixed.len();
    log.push(id + i32::try_from(lengths).expect("short"));
}

/// States may stand anywhere, by value or by reference.
#[deferred_task]
async fn stateful(#[state] mailer: &Mailer, log: &Log, #[state] numbers: Arc<Vec<i32>>, id: i32) -> Result<(), String> {
    tokio::task::yield_now().await;
    log.push(i32::try_from(mailer.from.len()).map_err(|error| error.to_string())? + numbers[0] + id);
    Ok(())
}

#[deferred_task]
fn stateful_here(log: &Log, #[state] mailer: &Mailer) {
    log.push(i32::try_from(mailer.from.len()).expect("short"));
}

#[deferred_task(blocking)]
fn blocking(log: &Log, #[state] mut numbers: Arc<Vec<i32>>, id: i32) -> Result<(), std::io::Error> {
    Arc::make_mut(&mut numbers).push(id);
    log.push(numbers.iter().sum());
    Ok(())
}

/// A state of a type that is generic.
#[deferred_task]
async fn generic_state<S: AsRef<str> + Send + Sync + 'static>(log: &Log, #[state] text: &S) {
    log.push(i32::try_from(text.as_ref().len()).expect("short"));
}

#[deferred_task]
async fn early_return(log: &Log, id: i32) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    if id == 0 {
        return Ok(());
    }
    let id: i32 = "7".parse()?;
    tokio::task::yield_now().await;
    log.push(id);
    Ok(())
}

/// Attributes of others, which rewrite the body.
#[deferred_task]
#[tracing::instrument(skip(log), ret, err)]
async fn instrumented(log: &Log, #[state] mailer: &Mailer, id: i32) -> Result<(), String> {
    tokio::task::yield_now().await;
    log.push(id + i32::try_from(mailer.from.len()).map_err(|error| error.to_string())?);
    Ok(())
}

#[tracing::instrument(skip_all)]
#[deferred_task]
#[inline]
async fn instrumented_from_outside(log: &Log, id: i32) {
    tokio::task::yield_now().await;
    log.push(id);
}

#[deferred_task(blocking)]
#[tracing::instrument(skip(log))]
fn instrumented_blocking(log: &Log, id: i32) {
    log.push(id);
}

/// Calls itself, boxed as any recursion of futures.
#[deferred_task]
async fn recursive(log: &Log, left: i32) {
    log.push(left);
    if left > 0 {
        Box::pin(recursive(log, left - 1).run()).await;
    }
}

/// Registers itself again, in a transaction of its own.
#[deferred_task]
async fn again(log: &Log, left: i32) -> QueryResult<()> {
    let mut conn = connect_async().await;
    atomic!(conn, async {
        if left > 0 {
            again(log, left - 1)
        }
        note(log, left);
        Ok(())
    })
    .await
}

mod jobs {
    //! Where each of them can be seen.

    use diesel_deferred::deferred_task;
    use diesel_deferred_tests::Log;

    /// Is documented.
    #[deferred_task(name = "jobs.visible")]
    #[allow(clippy::unused_async, reason = "the shortest of them")]
    pub(crate) async fn visible(log: &Log) -> std::result::Result<(), std::fmt::Error> {
        inner::private(log).run().await;
        Ok(())
    }

    mod inner {
        use super::{Log, deferred_task};

        #[deferred_task]
        #[doc = "Is documented, too."]
        pub(super) async fn private(log: &Log) {
            log.push(1);
        }
    }

    #[cfg(any())]
    #[deferred_task]
    async fn left_out(nothing: Missing) {}

    #[deferred_task]
    #[deprecated = "write another"]
    pub(crate) async fn old(log: &Log) {
        log.push(2);
    }
}

/// Types that come through a matcher stand in invisible groups.
macro_rules! task {
    ($(#[$options:meta])* $vis:vis async fn $name:ident(#[state] $state:ident: $kept:ty, $($arg:ident: $type:ty),*) -> $return:ty $body:block) => {
        $(#[$options])*
        $vis async fn $name(#[state] $state: $kept, $($arg: $type),*) -> $return $body
    };
}

task! {
    #[deferred_task]
    pub(crate) async fn from_macro(#[state] mailer: &Mailer, log: &Log, list: &[i32]) -> Result<(), String> {
        log.push(i32::try_from(list.len() + mailer.from.len()).expect("short"));
        Ok(())
    }
}

fn dispatcher() -> Dispatcher {
    let mailer = Mailer { from: "ada".to_owned() };
    Dispatcher::builder().max_in_flight(1).state(mailer).state(Arc::new(vec![100])).state("text").build()
}

async fn drain(dispatcher: &Dispatcher) {
    let report = dispatcher.shutdown(Duration::from_secs(30)).await;
    assert!(report.is_clean(), "{report}");
}

/// What every block of this file registers.
const EXPECTED: [i32; 17] = [10, 2, 0, 13, 113, 101, 4, 7, 33, 31, 32, 1, 0, 1, 2, 5, 3];

#[tokio::test]
#[allow(deprecated)]
async fn shapes() -> QueryResult<()> {
    let (log, dispatcher) = (Log::new(), dispatcher());
    let conn = &mut connect_async().await;
    conn.set_dispatcher(dispatcher.clone());
    atomic!(conn, -> QueryResult<()>, async {
        generic(&log, ["a", "b"]);
        generic::<u8, 0>(&log, []);
        only_in_the_body::<u8>(&log);
        references(&log, "a", &[1], Path::new("b"), "c", 8);
        stateful(&log, 10);
        blocking(&log, 1);
        generic_state::<&str>(&log);
        early_return(&log, 0);
        early_return(&log, 1);
        instrumented(&log, 30);
        instrumented_blocking(&log, 31);
        instrumented_from_outside(&log, 32);
        recursive(&log, 1);
        jobs::visible(&log);
        jobs::old(&log);
        from_macro(&log, &[1, 2]);
        stateful_here(&log);
        assert!(log.ran().is_empty());
        Ok(())
    })
    .await?;
    // The one that runs on the committing thread, before the others.
    assert!(log.ran().contains(&3));
    drain(&dispatcher).await;
    let (mut ran, mut expected) = (log.ran(), EXPECTED);
    ran.sort_unstable();
    expected.sort_unstable();
    assert_eq!(ran, expected);
    Ok(())
}

#[tokio::test]
async fn on_a_blocking_connection() -> QueryResult<()> {
    let (log, dispatcher) = (Log::new(), dispatcher());
    let conn = &mut connect();
    conn.set_dispatcher(dispatcher.clone());
    atomic!(conn, -> QueryResult<()>, {
        stateful(&log, 10);
        blocking(&log, 1);
        early_return(&log, 1).after_commit(conn)?;
        Ok(())
    })?;
    drain(&dispatcher).await;
    assert_eq!(log.ran(), [113, 101, 7], "one at a time, in the order of the calls");
    Ok(())
}

#[tokio::test]
async fn a_call_is_a_value_whose_run_is_a_future() -> Result<(), String> {
    let log = Log::new();
    let (mailer, numbers) = (Mailer { from: "ada".to_owned() }, Arc::new(vec![100]));
    let call = stateful(&log, 10);
    assert!(format!("{call:?}").contains("id: 10"));
    let future = call.run(&mailer, Arc::clone(&numbers));
    assert!(log.ran().is_empty());
    future.await?;
    blocking(&log, 1).run(numbers).map_err(|error| error.to_string())?;
    stateful_here(&log).run(&mailer);
    let spawned = tokio::spawn(early_return(&log, 1).run());
    spawned.await.expect("no panic").map_err(|error| error.to_string())?;
    assert_eq!(log.ran(), [113, 101, 3, 7]);
    assert_eq!(jobs::visible::NAME, "jobs.visible");
    assert!(recursive::NAME.ends_with("pass::async_tasks::recursive"));
    Ok(())
}

#[tokio::test]
async fn a_task_that_registers_itself() -> QueryResult<()> {
    let log = Log::new();
    let conn: &mut AsyncConn = &mut connect_async().await;
    atomic!(conn, -> QueryResult<()>, async {
        again(&log, 2);
        Ok(())
    })
    .await?;
    let done = async {
        while log.ran().len() < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), done).await.expect("all of them run");
    assert_eq!(log.ran(), [2, 1, 0]);
    Ok(())
}
