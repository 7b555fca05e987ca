//! D23: what is written is `serde_json`'s own, and comes back, or it is refused.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::net::IpAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{MAX_DEPTH, Writer};

fn written<T: Serialize + ?Sized>(value: &T) -> Result<String, String> {
    let mut json = b"before".to_vec();
    value.serialize(Writer::new(&mut json, 0)).map_err(|refused| refused.to_string())?;
    Ok(String::from_utf8(json.split_off("before".len())).expect("UTF-8"))
}

#[track_caller]
fn comes_back<T: Serialize + DeserializeOwned + Debug + PartialEq>(value: T) {
    let json = written(&value).expect("it is written");
    assert_eq!(Ok(&json), serde_json::to_string(&value).as_ref().map_err(drop));
    let read: T = serde_json::from_str(&json).expect("it is read");
    assert_eq!(read, value, "{json}");
}

#[track_caller]
fn is_refused<T: Serialize + ?Sized>(value: &T, says: &str, at: &str) {
    let error = written(value).expect_err("it is refused");
    assert!(error.contains(says), "{error}");
    let place = error.rsplit_once(" (at `").map_or("", |(_, place)| place.trim_end_matches("`)"));
    assert_eq!(place, at, "{error}");
}

const AS_NONE: &str = "would be read as `None`";
const ONE_NAME: &str = "two fields have one name";

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct Unit;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct New<T>(T);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Pair<T>(u8, T);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Named<T> {
    #[serde(rename = "quoted \" and ü")]
    first: u8,
    second: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    third: Option<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
enum Outside<T> {
    Unit,
    New(T),
    Pair(u8, T),
    Named { of: T },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
enum Inside<T> {
    Unit,
    New(T),
    Named { of: T },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "of")]
enum Beside<T> {
    Unit,
    New(T),
    Pair(u8, T),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Bare<T> {
    Nothing,
    Of { of: T },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Flat<T> {
    own: u8,
    #[serde(flatten)]
    more: T,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Own {
    own: u8,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Typed {
    r#type: u8,
}

#[test]
fn d23_values_of_all_kinds_come_back() {
    comes_back((true, false, (), Unit, 'ü', "text \u{0} \u{7f} \u{2028} \" \\ \n".to_owned()));
    comes_back((i8::MIN, i16::MIN, i32::MIN, i64::MIN, i128::MIN));
    comes_back((u8::MAX, u16::MAX, u32::MAX, u64::MAX, u128::MAX));
    comes_back((0.1_f32 + 0.2, f32::MAX, f32::from_bits(1), -0.0_f32));
    comes_back((0.1 + 0.2, f64::MAX, f64::from_bits(1), 1e300, 9_007_199_254_740_993_i64 as f64));
    let zero: f64 = serde_json::from_str(&written(&-0.0).expect("it is written")).expect("it is read");
    assert_eq!(zero.to_bits(), (-0.0_f64).to_bits());
    comes_back((vec![0_u8, 255], [1, 2], Vec::<u8>::new(), BTreeMap::<String, u8>::new()));
    comes_back((Some(1), None::<u8>, vec![None, Some(2)], Some(vec![None::<u8>]), Some(Some(3))));
    comes_back((IpAddr::from([127, 0, 0, 1]), std::time::Duration::new(1, 2), Ok::<(), u8>(()), Err::<u8, ()>(())));
    comes_back((New(1), Pair(2, None::<u8>), Named { first: 1, second: New(()), third: None }));
    comes_back([Outside::Unit, Outside::New(None), Outside::Pair(1, Some(2)), Outside::Named { of: Some(3) }]);
    comes_back([Inside::Unit, Inside::New(Own { own: 1 }), Inside::Named { of: Own { own: 2 } }]);
    comes_back([Beside::Unit, Beside::New(None), Beside::Pair(1, Some(2))]);
    comes_back([Bare::Nothing, Bare::Of { of: Some(1) }]);
    comes_back(Flat { own: 1, more: BTreeMap::from([("a".to_owned(), Value::Null)]) });
    comes_back(Flat { own: 1, more: Some(Typed { r#type: 2 }) });
    comes_back(serde_json::json!({"a": [1, -1, 1.5, null, "b", {"c": {}}, []], "": true}));
}

/// Also as keys, which JSON has as texts.
#[test]
fn d23_what_may_be_a_key_comes_back() {
    fn keyed<K: Serialize + DeserializeOwned + Debug + Ord>(keys: impl IntoIterator<Item = K>) {
        comes_back(keys.into_iter().zip(0_u8..).collect::<BTreeMap<K, u8>>());
    }
    keyed(["".to_owned(), "a \"\0".to_owned(), "null".to_owned()]);
    keyed(['a', '"']);
    keyed([true, false]);
    keyed([i64::MIN, 0]);
    keyed([i128::MIN, 0]);
    keyed([u128::MAX, 0]);
    keyed([Some(1), Some(2)]);
    keyed([Outside::<u8>::Unit]);
    keyed([IpAddr::from([127, 0, 0, 1]), IpAddr::from([0; 16])]);
    for error in [
        written(&BTreeMap::from([(None::<u8>, 1)])),
        written(&BTreeMap::from([((), 1)])),
        written(&BTreeMap::from([((1, 2), 1)])),
        written(&BTreeMap::from([(Outside::New(1), 1)])),
        written(&BTreeMap::from([(vec![1], 1)])),
    ] {
        assert_eq!(error, Err("key must be a string".to_owned()));
    }
}

#[test]
fn d23_a_some_that_would_be_none_is_refused() {
    is_refused(&Some(None::<u8>), AS_NONE, "");
    is_refused(&Some(Some(None::<u8>)), AS_NONE, "");
    is_refused(&Some(()), AS_NONE, "");
    is_refused(&Some(Unit), AS_NONE, "");
    is_refused(&Some(Value::Null), AS_NONE, "");
    is_refused(&Some(New(New(None::<u8>))), AS_NONE, "");
    is_refused(&Some(Box::new(None::<u8>)), AS_NONE, "");
    is_refused(&Some(Bare::<u8>::Nothing), AS_NONE, "");
    is_refused(&Some(RawValue::from_string("null".to_owned()).expect("JSON")), AS_NONE, "");
    is_refused(&vec![None, Some(Some(1)), Some(None)], AS_NONE, "[2]");
    is_refused(&(1, Some(())), AS_NONE, "[1]");
    is_refused(&Pair(1, Some(())), AS_NONE, "[1]");
    is_refused(&HashMap::from([("private", Some(()))]), AS_NONE, "[_]");
    is_refused(&Named { first: 1, second: vec![Some(())], third: None }, AS_NONE, ".second[0]");
    is_refused(&Outside::New(Some(())), AS_NONE, ".New");
    is_refused(&Outside::Pair(1, Some(())), AS_NONE, "[1]");
    is_refused(&Outside::Named { of: Some(()) }, AS_NONE, ".of");
    is_refused(&Beside::New(Some(())), AS_NONE, ".of");
    is_refused(&Flat { own: 1, more: Outside::Named { of: Some(()) } }, AS_NONE, "[_].of");
}

#[test]
fn d23_no_number_is_refused_where_it_is() {
    is_refused(&f32::NAN, "JSON has no number for NaN", "");
    is_refused(&vec![(1, f64::INFINITY)], "JSON has no number for inf", "[0][1]");
    is_refused(&Some(f64::NEG_INFINITY), "JSON has no number for -inf", "");
}

#[test]
fn d23_what_a_field_would_hide_is_refused() {
    let more = |name: &str| BTreeMap::from([(name.to_owned(), 2), ("z".to_owned(), 3)]);
    comes_back(Flat { own: 1, more: more("other") });
    is_refused(&Flat { own: 1, more: more("own") }, ONE_NAME, "");
    is_refused(&vec![Flat { own: 1, more: Own { own: 2 } }], ONE_NAME, "[0]");
    is_refused(&Inside::New(Typed { r#type: 1 }), ONE_NAME, ".type");
    is_refused(&Inside::New(more("type")), ONE_NAME, "");
}

/// Nothing in it is looked at, and it is read without counting levels.
#[test]
fn d23_a_raw_value_goes_as_it_is() {
    for text in ["null", " [1,  2] ", r#"{"a":"\u00fc\\"}"#, &("[".repeat(500) + &"]".repeat(500))] {
        let value = RawValue::from_string(text.trim().to_owned()).expect("JSON");
        let json = written(&vec![&value]).expect("it is written");
        assert_eq!(json, format!("[{}]", text.trim()));
        let read: Vec<Box<RawValue>> = serde_json::from_str(&json).expect("it is read");
        assert_eq!(read[0].get(), value.get());
    }
}

/// One level for each bracket, as `serde_json` counts them.
#[test]
fn d23_the_deepest_that_is_written_is_the_deepest_that_is_read() {
    #[derive(Debug, Serialize, Deserialize)]
    enum Chain {
        End,
        New(Box<Chain>),
        Pair(u8, Box<Chain>),
        Named { next: Box<Chain> },
        Some(Option<Box<Chain>>),
    }
    let kinds: [fn(Box<Chain>) -> Chain; 4] =
        [Chain::New, |next| Chain::Pair(1, next), |next| Chain::Named { next }, |next| Chain::Some(Some(next))];
    for kind in kinds {
        let mut chain = Chain::End;
        loop {
            let json = serde_json::to_string(&chain).expect("serde_json writes anything");
            let read = serde_json::from_str::<Chain>(&json);
            match written(&chain) {
                Ok(ours) => assert_eq!((ours, read.is_ok()), (json, true)),
                Err(refused) => {
                    assert!(refused.contains("more than 126 levels deep"), "{refused}");
                    assert!(read.is_err(), "{json}");
                    break;
                }
            }
            chain = kind(Box::new(chain));
        }
    }
    assert_eq!(written(&"[".repeat(MAX_DEPTH + 1)).map_err(drop), Ok(format!("\"{}\"", "[".repeat(MAX_DEPTH + 1))));
}
