//! Durable tasks in all the shapes that one can have: what is stored of a call, and that it comes back as it went.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use diesel::prelude::*;
use diesel_deferred::__private_0_1_0::{Decoder, Durable, Running, States, Taken, Unique};
use diesel_deferred::{BoxError, Task, TaskId, atomic, deferred_task, migrations};
use diesel_migrations::MigrationHarness;

use crate::{Conn, connect};

diesel::table! {
    deferred_tasks (id) {
        id -> Binary,
        task -> Text,
        queue -> Text,
        payload -> Text,
        priority -> Integer,
        max_attempts -> Integer,
        state -> Text,
        task_key -> Nullable<Text>,
        unique_key -> Nullable<Text>,
        replaces -> Bool,
        run_at_ms -> BigInt,
        enqueued_at_ms -> BigInt,
    }
}

/// What its body was given.
type Told = Result<(), String>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
enum Kind {
    Letter,
    Parcel,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Letter => "letter",
            Self::Parcel => "parcel",
        })
    }
}

#[deferred_task(durable)]
fn nothing() {}

#[deferred_task(durable)]
fn plain(id: i64, name: String, kind: Option<Kind>, list: Vec<(u8, char)>, map: BTreeMap<String, bool>) -> Told {
    Err(format!("{id} {name} {kind:?} {list:?} {map:?}"))
}

#[deferred_task(durable)]
async fn references(
    text: &str,
    list: &[Kind],
    path: &Path,
    number: &i32,
    all: &Vec<i32>,
    cow: Cow<'static, str>,
) -> Told {
    tokio::task::yield_now().await;
    Err(format!("{text} {list:?} {} {number} {all:?} {cow}", path.display()))
}

/// A key can name constants, too.
const REGION: &str = "eu";

#[deferred_task(durable, key = "{REGION}-{type}-{id:03}")]
fn r#match(r#type: Kind, mut id: i32) -> Told {
    id += 1;
    Err(format!("{type:?} {id}"))
}

mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(time.as_secs())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_secs)
    }
}

/// Has no `Serialize`, and needs none.
#[derive(Debug, Default)]
struct Unstored;

#[deferred_task(durable)]
fn with_serde(
    #[serde(with = "seconds")] age: Duration,
    #[serde(rename = "e-mail", alias = "mail")] email: &str,
    #[serde(default)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
    #[serde(skip)] unstored: Unstored,
    #[serde(default)] r#type: u8,
    id: i32,
) -> Told {
    Err(format!("{age:?} {email} {notes:?} {unstored:?} {type} {id}"))
}

#[deferred_task(
    durable,
    name = "mail.receipt",
    queue = "mail",
    max_attempts = 5,
    priority = -1,
    timeout = "90s",
    backoff = "250ms",
    unique = "replace",
    key = "receipt-{order_id}",
)]
async fn receipt(#[state] mailer: &String, order_id: i64, email: String, #[state] number: u8) -> Told {
    Err(format!("{mailer} {order_id} {email} {number}"))
}

#[deferred_task(durable, unique, priority = 7, max_attempts = 1, backoff = "1d")]
fn report(day: u32) {
    println!("{day}");
}

/// Types that come through a matcher stand in invisible groups, and so do literals.
macro_rules! task {
    ($name:ident, $queue:literal, $attempts:literal, ($($arg:ident: $type:ty),*) -> $return:ty $body:block) => {
        #[deferred_task(durable, queue = $queue, max_attempts = $attempts)]
        fn $name($($arg: $type),*) -> $return $body
    };
}

task!(from_macro, "macro", 3, (list: &[i32], id: i32) -> Told {
    Err(format!("{list:?} {id}"))
});

mod inner {
    pub(super) mod deep {
        /// Seen from outside.
        #[diesel_deferred::deferred_task(durable, crate = "diesel_deferred")]
        pub(in crate::pass) async fn hidden(id: i32) -> std::result::Result<(), std::fmt::Error> {
            println!("{id}");
            Ok(())
        }
    }
}

/// Names of the user's that are also the expansion's.
mod shadowing {
    #![allow(dead_code, clippy::too_many_arguments)]

    use diesel_deferred::{Task, deferred_task};

    struct Result;
    struct Option;
    struct String;
    struct Duration;
    struct Durable;
    struct Stored;
    #[derive(Clone, Copy)]
    struct Ok;
    struct Err;
    struct Some;
    struct None;
    mod std {}
    mod core {}
    mod alloc {}
    mod serde {}
    mod inventory {}

    trait Methods {
        fn delay(&self) {}
        fn stored(&self) {}
        fn encode(&self) {}
        fn argument(&self) {}
        fn wrapped(&self) {}
        fn spawned(&self) {}
    }

    impl<T> Methods for T {}

    #[deferred_task(durable, key = "{payload}{options}{key}{call}")]
    async fn all(
        payload: i32,
        #[serde(default)] call: u8,
        states: i32,
        options: i64,
        key: char,
        delay: u8,
        conn: u8,
        receiver: u8,
        #[state] state_0: &u8,
        #[state] state_1: u16,
        __argument: u8,
    ) -> ::std::result::Result<(), ::std::string::String> {
        ::std::result::Result::Err(format!(
            "{payload} {call} {states} {options} {key} {delay} {conn} {receiver} {state_0} {state_1} {__argument}"
        ))
    }

    pub(super) fn call() -> impl Task + ::std::fmt::Debug {
        all(1, 2, 3, 4, '5', 6, 7, 8, 9)
    }
}

/// All of the runtime, under another name.
mod facade {
    pub(crate) mod database {
        pub(crate) use diesel_deferred as deferred;
    }
}

#[facade::database::deferred::deferred_task(durable, crate = "crate::pass::durable::facade::database::deferred")]
fn elsewhere(#[serde(default)] id: i32) -> Told {
    Err(format!("{id}"))
}

fn connect_with_tables() -> Conn {
    let mut conn = connect();
    conn.run_pending_migrations(migrations()).expect("the tables");
    conn
}

/// The payloads of a task's rows, oldest first.
fn payloads<T: Task>(conn: &mut Conn, _: &impl Fn() -> T) -> QueryResult<Vec<String>> {
    let rows = deferred_tasks::table.filter(deferred_tasks::task.eq(T::NAME));
    rows.order(deferred_tasks::id).select(deferred_tasks::payload).load(conn)
}

/// Runs what is stored, and says what it said.
fn run<T: Durable>(payload: &str, _: &impl Fn() -> T) -> Result<(), BoxError> {
    let stored = T::stored::<()>();
    let call = (stored.decode)(&Decoder::new(payload)?)?;
    match (stored.start)(Taken::new(call), &States::default()).expect("no state") {
        Running::Blocking(body) => body(),
        Running::Async(body) => tokio::runtime::Builder::new_current_thread().build()?.block_on(body),
    }
}

/// Stores a call, and runs it from its row: that must tell the same as to run it in place.
macro_rules! assert_comes_back {
    ($call:expr, $told:expr, $payload:expr) => {{
        let conn = &mut connect_with_tables();
        atomic!(conn, -> QueryResult<()>, {
            $call;
            Ok(())
        })?;
        let payloads = payloads(conn, &|| $call)?;
        assert_eq!(payloads, [$payload]);
        assert_eq!(run(&payloads[0], &|| $call).expect_err("tells").to_string(), $told);
    }};
}

#[test]
fn arguments_come_back() -> QueryResult<()> {
    let map = BTreeMap::from([("a".to_owned(), true)]);
    assert_comes_back!(
        plain(-1, "ü\"".to_owned(), None, vec![(1, 'x')], map.clone()),
        r#"-1 ü" None [(1, 'x')] {"a": true}"#,
        r#"{"id":-1,"name":"ü\"","kind":null,"list":[[1,"x"]],"map":{"a":true}}"#
    );
    assert_comes_back!(
        references("text", &[Kind::Letter], Path::new("a/b"), &5, &vec![1, 2], "cow".into()),
        "text [Letter] a/b 5 [1, 2] cow",
        r#"{"text":"text","list":["Letter"],"path":"a/b","number":5,"all":[1,2],"cow":"cow"}"#
    );
    assert_comes_back!(r#match(Kind::Parcel, 2), "Parcel 3", r#"{"type":"Parcel","id":2}"#);
    assert_comes_back!(elsewhere(3), "3", r#"{"id":3}"#);
    assert_comes_back!(from_macro(&[1], 2), "[1] 2", r#"{"list":[1],"id":2}"#);
    Ok(())
}

#[test]
fn serde_attributes_say_how_an_argument_is_stored() -> QueryResult<()> {
    assert_comes_back!(
        with_serde(Duration::from_secs(60), "a@b", Vec::new(), Unstored, 9, 1),
        "60s a@b [] Unstored 9 1",
        r#"{"age":60,"e-mail":"a@b","type":9,"id":1}"#
    );
    let older = r#"{"age":1,"mail":"a@b","id":1}"#;
    let call = || with_serde(Duration::ZERO, "", Vec::new(), Unstored, 0, 0);
    assert_eq!(run(older, &call).expect_err("tells").to_string(), "1s a@b [] Unstored 0 1");
    let error = run(r#"{"age":1,"id":1}"#, &call).expect_err("lacks an argument").to_string();
    assert!(error.contains("`email`") && error.contains("`e-mail`"), "{error}");
    Ok(())
}

#[test]
fn an_argument_that_was_added_may_be_an_option() {
    let call = || plain(0, String::new(), None, Vec::new(), BTreeMap::new());
    let told = run(r#"{"id":1,"name":"n","list":[],"map":{},"removed":1}"#, &call).expect_err("tells").to_string();
    assert_eq!(told, "1 n None [] {}");
}

#[test]
fn what_the_attribute_says_and_what_the_call_says() -> QueryResult<()> {
    use deferred_tasks::{
        enqueued_at_ms, max_attempts, priority, queue, replaces, run_at_ms, state, task, task_key, unique_key,
    };

    type Row = (String, String, i32, i32, String, Option<String>, bool);

    let conn = &mut connect_with_tables();
    let in_a_year = SystemTime::now() + Duration::from_secs(365 * 86_400);
    atomic!(conn, -> QueryResult<()>, {
        receipt(7, "a@b".to_owned());
        receipt(8, "a@b".to_owned())
            .key("other")
            .queue("slow")
            .priority(3)
            .max_attempts(2)
            .delay(Duration::from_secs(5));
        r#match(Kind::Letter, 4).queue(String::from("owned")).key(String::from("owned")).run_at(in_a_year);
        nothing().run_at(SystemTime::UNIX_EPOCH);
        Ok(())
    })?;
    let columns = (task, queue, priority, max_attempts, state, task_key, replaces);
    let rows = deferred_tasks::table.order(deferred_tasks::id).select(columns);
    let rows: Vec<Row> = rows.load(conn)?;
    let row = |name: &str, in_queue: &str, first: i32, tries: i32, is: &str, key: Option<&str>, replacing| {
        (name.into(), in_queue.into(), first, tries, is.into(), key.map(Into::into), replacing)
    };
    let expected = [
        row("mail.receipt", "mail", -1, 5, "ready", Some("receipt-7"), true),
        row("mail.receipt", "slow", 3, 2, "scheduled", Some("other"), true),
        row(r#match::NAME, "owned", 0, 20, "scheduled", Some("owned"), false),
        row(nothing::NAME, "default", 0, 20, "ready", None, false),
    ];
    assert_eq!(rows, expected);
    let unique: Vec<Option<String>> = deferred_tasks::table.order(deferred_tasks::id).select(unique_key).load(conn)?;
    assert_eq!(unique, [Some("receipt-7".to_owned()), Some("other".to_owned()), None, None]);
    let delayed = deferred_tasks::table.filter(task_key.eq("other"));
    assert_eq!(delayed.select(run_at_ms - enqueued_at_ms).get_result::<i64>(conn)?, 5_000);
    Ok(())
}

#[test]
fn the_key_is_of_the_call_s_arguments_as_they_were() -> QueryResult<()> {
    let conn = &mut connect_with_tables();
    atomic!(conn, -> QueryResult<()>, {
        r#match(Kind::Letter, 4);
        Ok(())
    })?;
    let keys: Vec<Option<String>> = deferred_tasks::table.select(deferred_tasks::task_key).load(conn)?;
    assert_eq!(keys, [Some("eu-letter-004".to_owned())]);
    Ok(())
}

#[test]
fn defaults() {
    let said = receipt::DEFAULTS;
    assert_eq!((said.queue, said.priority, said.max_attempts, said.unique), ("mail", -1, 5, Some(Unique::Replace)));
    assert_eq!((said.timeout, said.backoff), (Some(Duration::from_secs(90)), Duration::from_millis(250)));
    let said = report::DEFAULTS;
    assert_eq!((said.queue, said.priority, said.max_attempts, said.unique), ("default", 7, 1, Some(Unique::Keep)));
    assert_eq!((said.timeout, said.backoff), (None, Duration::from_secs(86_400)));
    let said = nothing::DEFAULTS;
    assert_eq!((said.queue, said.priority, said.max_attempts, said.unique), ("default", 0, 20, None));
    assert_eq!((said.timeout, said.backoff), (None, Duration::from_secs(10)));
    let said = from_macro::DEFAULTS;
    assert_eq!((said.queue, said.max_attempts), ("macro", 3));
}

#[test]
fn a_call_is_registered_by_hand_and_gives_its_id() -> QueryResult<()> {
    let conn = &mut connect_with_tables();
    let outside = report(1).after_commit(conn);
    assert!(
        matches!(&outside, Err(error) if diesel_deferred::CommitError::is_not_in_transaction(error)),
        "{outside:?}"
    );
    let ids = atomic!(conn, -> QueryResult<Vec<TaskId>>, {
        let ids = [1, 2].map(|day| report(day).delay(Duration::from_secs(1)).after_commit(conn));
        ids.into_iter().collect()
    })?;
    let stored: Vec<TaskId> = deferred_tasks::table.order(deferred_tasks::id).select(deferred_tasks::id).load(conn)?;
    assert_eq!(stored, ids);
    Ok(())
}

#[test]
fn a_call_is_a_value() {
    let call = receipt(1, "a@b".to_owned()).delay(Duration::from_secs(1));
    assert_eq!(format!("{call:?}"), r#"mail.receipt(order_id: 1, email: "a@b")"#);
    nothing().run();
    assert_eq!(r#match(Kind::Letter, 1).run(), Err("Letter 2".to_owned()));
    assert!(inner::deep::hidden::NAME.ends_with("pass::durable::inner::deep::hidden"));
}

#[tokio::test]
async fn it_runs_in_place_on_purpose() {
    let told = receipt(1, "a@b".to_owned()).run(&"mailer".to_owned(), 3).await;
    assert_eq!(told, Err("mailer 1 a@b 3".to_owned()));
    assert!(inner::deep::hidden(1).run().await.is_ok());
}

#[test]
fn a_call_that_was_stored_is_of_where_the_task_stands() {
    const LINE: u32 = line!() + 2;
    #[deferred_task(durable)]
    fn here() {}

    let call = (here::stored::<()>().decode)(&Decoder::new("{}").expect("an object")).expect("decodes");
    assert_eq!((call.call_site().line(), call.call_site().file()), (LINE, file!()));
}

#[test]
fn a_state_that_is_missing_is_no_panic() {
    let stored = receipt::stored::<()>();
    let payload = Decoder::new(r#"{"order_id":1,"email":"a@b"}"#).expect("an object");
    let call = (stored.decode)(&payload).expect("decodes");
    assert!((stored.start)(Taken::new(call), &States::default()).is_none());
}

#[test]
fn tasks_stand_in_functions_and_in_blocks() -> QueryResult<()> {
    const LIMIT: usize = 1;

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Local(i32);

    #[deferred_task(durable)]
    fn local(id: Local, #[serde(default)] list: [u8; LIMIT]) -> Told {
        Err(format!("{} {list:?}", id.0))
    }

    let conn = &mut connect_with_tables();
    atomic!(conn, -> QueryResult<()>, {
        #[deferred_task(durable)]
        fn in_a_block(id: i32) -> Told {
            Err(format!("{id}"))
        }

        local(Local(1), [2]);
        in_a_block(3);
        Ok(())
    })?;
    assert_eq!(payloads(conn, &|| local(Local(0), [0]))?, [r#"{"id":1,"list":[2]}"#]);
    assert_eq!(deferred_tasks::table.count().get_result::<i64>(conn)?, 2);
    Ok(())
}

#[test]
fn names_of_the_expansion_are_free() -> QueryResult<()> {
    let conn = &mut connect_with_tables();
    atomic!(conn, -> QueryResult<()>, {
        shadowing::call();
        Ok(())
    })?;
    let keys: Vec<Option<String>> = deferred_tasks::table.select(deferred_tasks::task_key).load(conn)?;
    assert_eq!(keys, [Some("1452".to_owned())]);
    Ok(())
}

#[test]
fn a_row_that_is_rolled_back_never_was() -> QueryResult<()> {
    let conn = &mut connect_with_tables();
    atomic!(conn, -> QueryResult<()>, {
        report(1);
        let inner = atomic!(conn, -> QueryResult<()>, {
            report(2);
            Err(diesel::result::Error::RollbackTransaction)
        });
        assert!(inner.is_err());
        Ok(())
    })?;
    assert_eq!(payloads(conn, &|| report(0))?, [r#"{"day":1}"#]);
    Ok(())
}
