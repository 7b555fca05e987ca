//! Two durable tasks of one name. A program of its own, because every worker of this one is
//! refused.

use diesel_deferred::{Worker, WorkerError, deferred_task};
use diesel_deferred_tests::AsyncSqliteConnection;

#[deferred_task(durable, name = "shop::send")]
async fn send() {}

mod elsewhere {
    #[diesel_deferred::deferred_task(durable, name = "shop::send")]
    pub(crate) fn another(_id: i32) {}
}

/// "two tasks of one name stop the worker at start-up with a message that names both".
#[test]
fn two_tasks_of_one_name_are_refused() {
    let error = Worker::<AsyncSqliteConnection>::builder(":memory:").build().expect_err("two of one name");
    let message = error.to_string();
    let WorkerError::DuplicateTask { name, places, .. } = error else { panic!("{error:?}") };
    assert_eq!(name, "shop::send");
    assert_eq!(places, [8, 12].map(|line| format!("tests/tests/two_tasks_of_one_name.rs:{line}")));
    for part in [name, &*places[0], &*places[1], "name = \"…\""] {
        assert!(message.contains(part), "{message}");
    }
    // They are used.
    let _ = (send().run(), elsewhere::another(1).run());
}
