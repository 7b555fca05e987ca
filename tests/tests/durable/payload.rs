//! What is written of a call's arguments, what a worker reads of them, and what cannot be written.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use diesel::prelude::*;
use diesel_deferred::__private_0_1_0::{Decoder, Durable};
use diesel_deferred::{atomic, deferred_task};
use diesel_deferred_tests::{Database, Scratch, on_every_database};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use crate::tasks::{first, nested, ready};

on_every_database! {
    c10_arguments_of_all_kinds_arrive,
    c10_text_of_all_kinds_arrives,
    c10_numbers_arrive_to_the_last_bit,
    d15_a_row_of_an_older_version_is_read,
    d23_what_nests_as_deep_as_can_be_read_is_stored,
}

/// The payload of the only row, which is deleted.
fn take_payload<C: Database>(db: &Scratch<C>) -> String {
    let [row] = &db.tasks()[..] else { panic!("one row: {:?}", db.tasks()) };
    db.run_sql("DELETE FROM deferred_tasks");
    row.payload.clone()
}

/// The call that a payload is of.
fn read<T: Durable>(payload: &str) -> Result<T, String> {
    let decoder = Decoder::new(payload).map_err(|error| error.to_string())?;
    (T::stored::<()>().decode)(&decoder).map_err(|error| error.to_string())
}

#[deferred_task(durable)]
fn second(text: &str) {
    let _ = text;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Shape {
    Unit,
    New(i32),
    Tuple(i32, String),
    Struct { side: f64, inner: Option<Box<Shape>> },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Order {
    line_items: Vec<Item>,
    by_country: BTreeMap<String, (u8, bool)>,
    #[serde(flatten)]
    more: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Item(String, u32);

mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(time.as_secs())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_secs)
    }
}

#[deferred_task(durable)]
#[allow(clippy::too_many_arguments)]
fn everything(
    text: &str,
    path: &Path,
    slice: &[u8],
    borrowed: &Shape,
    list: Vec<Option<Shape>>,
    tuple: (i8, char, ()),
    array: [u16; 3],
    set: &HashSet<IpAddr>,
    cow: Cow<'static, str>,
    time: SystemTime,
    order: Order,
    r#type: Result<u8, String>,
    größe: Box<str>,
    #[serde(with = "seconds")] age: Duration,
    #[serde(rename = "renamed")] other: i32,
    #[serde(skip_serializing_if = "Option::is_none", default)] absent: Option<i32>,
    #[serde(skip)] skipped: u8,
    nested: Option<Option<i32>>,
) {
    let _ = (text, path, slice, borrowed, list, tuple, array, set, cow, time, order, r#type, größe, age, other);
    let _ = (absent, skipped, nested);
}

/// C10: what the worker reads is what was captured, with the names that `#[serde]` gives.
fn c10_arguments_of_all_kinds_arrive<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let shape = Shape::Struct { side: 0.5, inner: Some(Box::new(Shape::Tuple(-1, "x".into()))) };
    let call = || {
        everything(
            "text",
            Path::new("/tmp/ä"),
            &[0, 255],
            &shape,
            vec![None, Some(Shape::Unit), Some(Shape::New(i32::MIN))],
            (-1, '\u{1f600}', ()),
            [1, 2, u16::MAX],
            &HashSet::from([IpAddr::from([127, 0, 0, 1])]),
            "cow".into(),
            UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789),
            Order {
                line_items: vec![Item("book".into(), 2)],
                by_country: BTreeMap::from([("DE".into(), (1, true))]),
                more: BTreeMap::from([("free".into(), serde_json::json!({"a": [1, null, "b"]}))]),
            },
            Err("no".into()),
            "groß".into(),
            Duration::from_millis(61_999),
            7,
            None,
            9,
            Some(Some(1)),
        )
    };
    atomic!(conn, -> QueryResult<()>, {
        call();
        Ok(())
    })
    .unwrap();
    let payload = take_payload(db);
    for field in [r#""type":{"Err":"no"}"#, r#""größe":"groß""#, r#""age":61,"#, r#""renamed":7"#, r#""slice":[0,255]"#]
    {
        assert!(payload.contains(field), "{field} is not in {payload}");
    }
    for field in ["absent", "skipped", "other"] {
        assert!(!payload.contains(field), "{field} is in {payload}");
    }
    let everything { text, path, slice, borrowed, list, tuple, array, set, cow, time, order, .. } =
        read::<everything>(&payload).unwrap();
    let expected = call();
    assert_eq!((text, path, slice, borrowed), (expected.text, expected.path, expected.slice, expected.borrowed));
    assert_eq!((list, tuple, array, set), (expected.list, expected.tuple, expected.array, expected.set));
    assert_eq!((cow, time, order), (expected.cow, expected.time, expected.order));
    let everything { r#type, größe, age, other, absent, skipped, nested, .. } = read::<everything>(&payload).unwrap();
    assert_eq!((r#type, größe, age), (expected.r#type, expected.größe, Duration::from_secs(61)));
    assert_eq!((other, absent, skipped, nested), (7, None, 0, Some(Some(1))));
}

/// C10: also what PostgreSQL's `jsonb` and `text` would not take.
fn c10_text_of_all_kinds_arrives<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let all: String = (0..=0x2ff_u32)
        .chain([0xd7ff, 0xe000, 0xfeff, 0xffff, 0x1_0000, 0x10_ffff])
        .filter_map(char::from_u32)
        .collect();
    for text in ["", "\0", "a\0b", "'; DROP TABLE witness; --", "\\u0000", "${x} $1 ? ?1 :a %s", "\u{202e}rtl", &all] {
        atomic!(conn, -> QueryResult<()>, {
            second(text);
            Ok(())
        })
        .unwrap();
        assert_eq!(read::<second>(&take_payload(db)).unwrap().text, text);
        if text.is_empty() || text.contains('\0') {
            continue;
        }
        let short: String = text.chars().take(255).collect();
        atomic!(conn, -> QueryResult<()>, {
            first(1).key(short.clone()).queue(short.clone());
            Ok(())
        })
        .unwrap();
        let row = db.tasks().remove(0);
        assert_eq!((row.task_key, row.queue), (Some(short.clone()), short));
        db.run_sql("DELETE FROM deferred_tasks");
    }
}

#[deferred_task(durable)]
fn numbers(signed: i128, unsigned: u128, long: u64, float: f64, short: f32, list: Vec<Option<f64>>) {
    let _ = (signed, unsigned, long, float, short, list);
}

/// C10: a sum of money is not to change by a bit between the call and the worker.
fn c10_numbers_arrive_to_the_last_bit<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let floats = [0.1 + 0.2, -0.0, f64::MIN_POSITIVE / 3.0, f64::MAX, f64::EPSILON, 1e300, 2.0_f64.sqrt(), 5e-324];
    for float in floats {
        atomic!(conn, -> QueryResult<()>, {
            numbers(i128::MIN, u128::MAX, u64::MAX, float, (float % 7.0) as f32, vec![Some(float), None]);
            Ok(())
        })
        .unwrap();
        let numbers { signed, unsigned, long, float: read_float, short, list, .. } = read(&take_payload(db)).unwrap();
        assert_eq!((signed, unsigned, long), (i128::MIN, u128::MAX, u64::MAX));
        assert_eq!((read_float.to_bits(), short.to_bits()), (float.to_bits(), ((float % 7.0) as f32).to_bits()));
        assert_eq!(list, [Some(float), None]);
    }
}

#[deferred_task(durable)]
fn amount(value: f64) {
    let _ = value;
}

/// C10: any float.
#[test]
fn c10_floats_arrive_to_the_last_bit() {
    let db = &Scratch::<SqliteConnection>::new();
    let conn = std::cell::RefCell::new(ready(db));
    proptest!(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() }, |(values in prop::collection::vec(prop::num::f64::NORMAL, 200))| {
        atomic!(conn = &mut *conn.borrow_mut(), -> QueryResult<()>, {
            for value in &values {
                amount(*value);
            }
            Ok(())
        })
        .unwrap();
        let read: Vec<_> = db.tasks().iter().map(|row| read::<amount>(&row.payload).unwrap().value).collect();
        db.run_sql("DELETE FROM deferred_tasks");
        prop_assert_eq!(values, read);
    });
}

/// The second version of a task, whose first one was `fn report(id: i32, to: String)`.
#[deferred_task(durable, name = "report")]
fn report(
    id: i64,
    #[serde(alias = "to")] recipient: String,
    copy: Option<String>,
    #[serde(default)] urgent: bool,
    #[serde(default = "three")] times: u8,
) {
    let _ = (id, recipient, copy, urgent, times);
}

fn three() -> u8 {
    3
}

/// D15: an argument may be added as an `Option` or with a default, renamed with an alias, widened,
/// and left out.
fn d15_a_row_of_an_older_version_is_read<C: Database>(db: &Scratch<C>) {
    mod v1 {
        #[diesel_deferred::deferred_task(durable, name = "report of the first version")]
        pub(super) fn report(id: i32, to: &str, dropped: bool) {
            let _ = (id, to, dropped);
        }
    }
    let conn = &mut ready(db);
    atomic!(conn, -> QueryResult<()>, {
        v1::report(7, "a@b", true);
        Ok(())
    })
    .unwrap();
    let report { id, recipient, copy, urgent, times, .. } = read(&take_payload(db)).unwrap();
    assert_eq!((id, &*recipient, copy, urgent, times), (7, "a@b", None, false, 3));

    // What cannot be read says which argument, and what to do.
    let error = |payload: &str| read::<report>(payload).unwrap_err();
    assert_eq!(
        error(r#"{"to":"a@b"}"#),
        "its argument `id` is missing: the row is of a version whose task does not have it. Where that is an older one, make the argument an `Option`, or give it a `#[serde(default)]`"
    );
    let error_of = error(r#"{"id":"seven","to":"a@b"}"#);
    assert!(error_of.starts_with("its argument `id` cannot be read: invalid type: string"), "{error_of}");
    let error_of = error(r#"{"id":7}"#);
    assert!(error_of.starts_with("its argument `recipient` cannot be read: missing field"), "{error_of}");
    let error_of = error("[]");
    assert!(error_of.starts_with("the payload is not a JSON object"), "{error_of}");
}

/// 1 MiB is a limit, and it is reached.
#[test]
fn the_largest_payload_is_stored() {
    fn largest<C: Database>() {
        let db = &Scratch::<C>::new();
        let conn = &mut ready(db);
        let text = "x".repeat((1 << 20) - r#"{"text":""}"#.len());
        atomic!(conn, -> QueryResult<()>, {
            for _ in 0..20 {
                second(&text);
            }
            Ok(())
        })
        .unwrap();
        let lengths = "SELECT CAST(SUM(LENGTH(payload)) AS BIGINT) AS number FROM deferred_tasks";
        let lengths = if C::NAME == "MariaDB" { lengths.replace("BIGINT", "SIGNED") } else { lengths.to_owned() };
        assert_eq!(C::number(&mut db.observer(), &lengths), 20 << 20);
    }
    largest::<SqliteConnection>();
    #[cfg(feature = "postgres")]
    largest::<PgConnection>();
    #[cfg(feature = "mysql")]
    largest::<MysqlConnection>();
}

#[deferred_task(durable)]
fn trees(
    plain: serde_json::Value,
    #[serde(default)] wrapped: serde_json::Value,
    #[serde(flatten)] flattened: Flattened,
    leaf: Option<Leaf>,
) {
    let _ = (plain, wrapped, flattened, leaf);
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Flattened {
    inner: serde_json::Value,
}

/// Three levels with its value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Leaf {
    Of { values: (serde_json::Value,) },
}

/// D23: to the level. What writes arguments and what reads them have one limit, whatever attributes
/// an argument has.
fn d23_what_nests_as_deep_as_can_be_read_is_stored<C: Database>(db: &Scratch<C>) {
    let conn = &mut ready(db);
    let call = |levels: [usize; 4]| {
        let [plain, wrapped, inner, leaf] = levels.map(nested);
        trees(plain, wrapped, Flattened { inner }, Some(Leaf::Of { values: (leaf,) }))
    };
    let deepest = [126, 126, 126, 123];
    atomic!(conn, -> QueryResult<()>, {
        call(deepest);
        Ok(())
    })
    .unwrap();
    let trees { plain, wrapped, flattened, leaf, .. } = read(&take_payload(db)).unwrap();
    let expected = call(deepest);
    assert_eq!((plain, wrapped), (expected.plain, expected.wrapped));
    assert_eq!((flattened, leaf), (expected.flattened, expected.leaf));

    for (at, name) in ["plain", "wrapped", "flattened", "leaf"].into_iter().enumerate() {
        let mut levels = deepest;
        levels[at] += 1;
        let result = atomic!(conn, -> QueryResult<()>, {
            call(levels);
            Ok(())
        });
        let text = result.unwrap_err().to_string();
        let says = format!("its argument `{name}` could not be written as JSON: it nests more than 126 levels deep");
        assert!(text.contains(&says), "{text}");
    }
    assert_eq!(db.tasks().len(), 0);
}

#[deferred_task(durable)]
fn of_json(value: serde_json::Value) {
    let _ = value;
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::hash_map(any::<String>(), inner, 0..6).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// D23: what is written is what serde_json writes, and it comes back.
    #[test]
    fn d23_any_json_comes_back(value in any_json()) {
        let payload = of_json(value.clone()).call().expect("a row").payload().to_owned();
        prop_assert_eq!(&payload, &format!("{{\"value\":{}}}", value));
        prop_assert_eq!(read::<of_json>(&payload).map(|call| call.value.clone()), Ok(value));
    }
}
