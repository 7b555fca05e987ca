use std::time::{Duration, SystemTime};

use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, TaskId, atomic, deferred_task};

type Conn = DeferredConnection<SqliteConnection>;

struct Template;

#[deferred_task(durable)]
fn count(seen: &mut u64) {
    *seen += 1;
}

#[deferred_task(durable)]
fn render(template: Template) {
    let _ = template;
}

#[deferred_task(durable, max_attempts = 0)]
fn tried() {}

#[deferred_task(durable, blocking)]
fn blocks(#[serde(default)] id: i32) {
    println!("{id}");
}

#[deferred_task(key = "{id}")]
fn forgot_durable(id: i32) {
    println!("{id}");
}

fn use_them(conn: &mut Conn) -> QueryResult<()> {
    atomic!(conn, {
        count(&mut 1);
        render(Template).delay(Duration::from_secs(1));
        tried().run_at(SystemTime::now()).key("key").queue("queue");
        blocks(1).priority(1).max_attempts(2);
        let _: TaskId = count(&mut 1).queue(String::from("queue")).after_commit(conn)?;
        let _: TaskId = render(Template).after_commit(conn)?;
        let _: TaskId = tried().after_commit(conn)?;
        let _: TaskId = blocks(1).key(String::new()).after_commit(conn)?;
        let _: TaskId = forgot_durable(1).after_commit(conn)?;
        count(&mut 1).run();
        render(Template).run();
        Ok(())
    })
}

fn main() {}
