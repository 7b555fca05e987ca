//! `#[state]`: what tasks are given by their dispatcher.

use std::sync::mpsc::{Sender, channel};

use diesel::prelude::*;
use diesel_deferred::{atomic, deferred_task};
use diesel_deferred_tests::witness;

use crate::support::{LONG, at_most, memory, refused, runtime};

#[derive(Clone)]
struct Mailer(&'static str);

struct Config(i32);

type Tell = Sender<String>;

#[deferred_task]
async fn spawned(#[state] mailer: Mailer, tell: Tell, id: i32, #[state] config: &Config) {
    tokio::task::yield_now().await;
    let _ = tell.send(format!("{} {id} {}", mailer.0, config.0));
}

#[deferred_task(blocking)]
fn blocking(tell: Tell, #[state] mailer: &Mailer, id: i32, #[state] config: &Config) {
    let _ = tell.send(format!("{} {id} {}", mailer.0, config.0));
}

#[deferred_task]
fn plain(#[state] config: &Config, #[state] mailer: Mailer, tell: Tell, id: i32) {
    let _ = tell.send(format!("{} {id} {}", mailer.0, config.0));
}

/// Every kind of task is given several states, by value and by reference, of the connection's own
/// dispatcher; of several of one type the last.
#[test]
fn tasks_of_every_kind_are_given_their_states() {
    let runtime = runtime();
    let dispatcher = at_most(1, &runtime).state(Mailer("old")).state(Config(7)).state(Mailer("new")).build();
    let (conn, (tell, told)) = (&mut memory(&dispatcher), channel());
    atomic!(conn, -> QueryResult<()>, {
        plain(tell.clone(), 1);
        spawned(tell.clone(), 2);
        blocking(tell.clone(), 3);
        Ok(())
    })
    .expect("commits");
    drop(tell);
    let lines: Vec<_> = (0..3).map(|_| told.recv_timeout(LONG).expect("a task runs")).collect();
    assert_eq!(lines, ["new 1 7", "new 2 7", "new 3 7"]);
}

/// A task whose state is not there is an error of the transaction, which names both and says what
/// to write.
#[test]
fn a_missing_state_commits_nothing() {
    let runtime = runtime();
    let dispatcher = at_most(1, &runtime).state(Mailer("m")).build();
    let (conn, (tell, told)) = (&mut memory(&dispatcher), channel());
    macro_rules! refuses {
        ($task:ident) => {
            let line = line!();
            let result: QueryResult<()> = atomic!(conn, {
                diesel::insert_into(witness::table).values(witness::id.eq(1)).execute(conn)?;
                $task(tell.clone(), 1);
                Ok(())
            });
            let message = refused(result);
            let (module, task, file) = (module_path!(), stringify!($task), file!());
            for part in [
                format!("nothing was committed: the task `{module}::{task}` (called at {file}:{line}:"),
                format!("`#[state]` of type `{module}::Config`"),
                "Dispatcher::builder().state(".to_owned(),
                "set_dispatcher".to_owned(),
            ] {
                assert!(message.contains(&part), "{part} is not in: {message}");
            }
            assert_eq!(witness::table.count().get_result(conn), Ok(0_i64));
        };
    }
    refuses!(plain);
    refuses!(spawned);
    refuses!(blocking);
    drop(tell);
    assert!(told.recv().is_err(), "a task ran");
    assert_eq!(dispatcher.in_flight(), 0);
}

/// The dispatcher that a connection was given last is the one that counts.
#[test]
fn a_dispatcher_may_be_replaced_between_transactions() {
    let runtime = runtime();
    let [one, two] = [1, 2].map(|number| at_most(1, &runtime).state(Mailer("m")).state(Config(number)).build());
    let (conn, (tell, told)) = (&mut memory(&one), channel());
    for dispatcher in [two, one] {
        conn.set_dispatcher(dispatcher);
        atomic!(conn, -> QueryResult<()>, {
            spawned(tell.clone(), 1);
            Ok(())
        })
        .expect("commits");
    }
    drop(tell);
    let mut lines: Vec<_> = (0..2).map(|_| told.recv_timeout(LONG).expect("a task runs")).collect();
    lines.sort();
    assert_eq!(lines, ["m 1 1", "m 1 2"]);
}
