//! The arguments of a durable call as they are stored: a JSON object with a field for each.
//!
//! Must not know: the table, or which tasks there are.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::finite::all_floats_are_finite;

/// How many bytes the arguments of one call may take as JSON: 1 MiB. A row of a queue is read and
/// written several times; what is larger belongs into a table of its own, and its key into the
/// call.
pub(crate) const MAX_PAYLOAD_BYTES: usize = 1 << 20;

/// An argument of a durable task: it is stored as JSON, and read again by the worker.
#[diagnostic::on_unimplemented(
    message = "a durable task cannot store `{Self}`",
    label = "is not `Serialize + DeserializeOwned + Send + 'static`",
    note = "its arguments are written to a row as JSON, and read by a worker: `#[derive(serde::Serialize, serde::Deserialize)]` on the \
            type, or a type that has both"
)]
pub trait Storable: Serialize + DeserializeOwned + Send + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Send + 'static> Storable for T {}

/// Writes the arguments of one call.
#[derive(Debug, Default)]
pub struct Encoder {
    json: Vec<u8>,
    failed: Option<String>,
}

impl Encoder {
    /// Writes an argument.
    pub fn argument<T: Storable>(&mut self, name: &'static str, value: &T) {
        if self.failed.is_none() {
            self.open_field();
            // Names are identifiers, which JSON needs not escape.
            self.json.extend_from_slice(b"\"");
            self.json.extend_from_slice(name.as_bytes());
            self.json.extend_from_slice(b"\":");
            let start = self.json.len();
            match serde_json::to_writer(&mut self.json, value) {
                Ok(()) => self.look_for_lost_floats(name, start, value),
                Err(error) => self.fail(name, &error),
            }
        }
    }

    /// Writes an argument that has `#[serde(…)]` attributes: as the one field of a struct that has
    /// them too.
    pub fn wrapped<T: Serialize>(&mut self, name: &'static str, wrapper: &T) {
        if self.failed.is_none() {
            match serde_json::to_string(wrapper) {
                // Not `{}`, which is what is left of a field that is skipped.
                Ok(object) if object.len() > 2 => {
                    self.open_field();
                    let start = self.json.len();
                    self.json.extend_from_slice(&object.as_bytes()[1..object.len() - 1]);
                    self.look_for_lost_floats(name, start, wrapper);
                }
                Ok(_) => {}
                Err(error) => self.fail(name, &error),
            }
        }
    }

    fn open_field(&mut self) {
        self.json.push(if self.json.is_empty() { b'{' } else { b',' });
    }

    /// NaN and the infinities were written as `null`. A second look at the value is worth it only
    /// where there is one.
    fn look_for_lost_floats<T: Serialize + ?Sized>(&mut self, name: &'static str, start: usize, value: &T) {
        let has_null = self.json[start..].windows(4).any(|word| word == b"null");
        if has_null && let Err(not_finite) = all_floats_are_finite(value) {
            self.fail(name, &not_finite);
        }
    }

    #[cold]
    fn fail(&mut self, name: &'static str, error: &dyn Error) {
        self.failed = Some(format!("its argument `{name}` could not be written as JSON: {error}"));
    }

    /// The JSON object.
    pub(crate) fn finish(mut self) -> Result<String, String> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        if self.json.is_empty() {
            self.json.push(b'{');
        }
        self.json.push(b'}');
        if self.json.len() > MAX_PAYLOAD_BYTES {
            return Err(format!(
                "its arguments take {} bytes as JSON, and {MAX_PAYLOAD_BYTES} are allowed; store what is large in a table, and pass its key",
                self.json.len()
            ));
        }
        // serde_json writes nothing else.
        String::from_utf8(self.json).map_err(|error| error.to_string())
    }
}

/// The stored arguments of one call.
#[derive(Debug)]
pub struct Decoder<'p> {
    payload: &'p str,
    fields: HashMap<Name<'p>, &'p RawValue>,
}

/// A field's name: not escaped, where the row was written by us.
#[derive(Debug, PartialEq, Eq, Hash, Deserialize)]
struct Name<'p>(#[serde(borrow)] std::borrow::Cow<'p, str>);

impl<'p> Decoder<'p> {
    /// Finds the fields.
    ///
    /// # Errors
    /// Where it is not a JSON object.
    pub fn new(payload: &'p str) -> Result<Self, Undecodable> {
        let fields = serde_json::from_str(payload)
            .map_err(|error| Undecodable(format!("the payload is not a JSON object: {error}")))?;
        Ok(Self { payload, fields })
    }

    /// Reads an argument. One that is not there may still be an `Option`.
    ///
    /// # Errors
    /// Where it is missing, or of another type.
    pub fn argument<T: Storable>(&self, name: &'static str) -> Result<T, Undecodable> {
        match self.fields.get(&Name(name.into())) {
            Some(value) => serde_json::from_str(value.get())
                .map_err(|error| Undecodable(format!("its argument `{name}` cannot be read: {error}"))),
            None => serde_json::from_str("null").map_err(|_| {
                Undecodable(format!(
                    "its argument `{name}` is missing; the task may have got it after the row was written: make it an `Option`, or give \
                     it a `#[serde(default)]`"
                ))
            }),
        }
    }

    /// Reads an argument that has `#[serde(…)]` attributes.
    ///
    /// # Errors
    /// Where it is missing, or of another type.
    pub fn wrapped<T: DeserializeOwned>(&self, name: &'static str) -> Result<T, Undecodable> {
        serde_json::from_str(self.payload)
            .map_err(|error| Undecodable(format!("its argument `{name}` cannot be read: {error}")))
    }
}

/// Why a row's arguments are not those of its task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undecodable(pub(crate) String);

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Undecodable {}

#[cfg(test)]
mod tests {
    use super::{Decoder, Encoder, MAX_PAYLOAD_BYTES};

    fn encoded(write: impl FnOnce(&mut Encoder)) -> Result<String, String> {
        let mut encoder = Encoder::default();
        write(&mut encoder);
        encoder.finish()
    }

    #[test]
    fn arguments_come_back_as_they_went() {
        let payload = encoded(|payload| {
            payload.argument("id", &7_i64);
            payload.argument("text", &"a \"b\" \0 ü".to_owned());
            payload.argument("none", &None::<i32>);
        });
        let payload = payload.expect("encodes");
        assert_eq!(payload, r#"{"id":7,"text":"a \"b\" \u0000 ü","none":null}"#);
        let decoder = Decoder::new(&payload).expect("an object");
        assert_eq!(decoder.argument::<i64>("id"), Ok(7));
        assert_eq!(decoder.argument::<String>("text").as_deref(), Ok("a \"b\" \0 ü"));
        assert_eq!(decoder.argument::<Option<i32>>("none"), Ok(None));
    }

    #[test]
    fn an_argument_that_is_not_there_is_none_or_a_mistake() {
        let decoder = Decoder::new("{}").expect("an object");
        assert_eq!(decoder.argument::<Option<i32>>("new"), Ok(None));
        let error = decoder.argument::<i32>("new").expect_err("missing").to_string();
        assert!(error.contains("`new` is missing"), "{error}");
    }

    #[test]
    fn no_argument_is_an_empty_object_and_anything_else_is_refused() {
        assert_eq!(encoded(|_| {}), Ok("{}".to_owned()));
        assert!(Decoder::new("[1]").is_err());
        assert!(Decoder::new("{\"id\":").is_err());
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let keyed = std::collections::BTreeMap::from([((1, 2), 3)]);
        let error = encoded(|payload| payload.argument("pairs", &PairMap(keyed))).expect_err("keys are strings");
        assert!(error.contains("`pairs`"), "{error}");
        let large = "x".repeat(MAX_PAYLOAD_BYTES);
        let error = encoded(|payload| payload.argument("text", &large)).expect_err("too large");
        assert!(error.contains("1048576 are allowed"), "{error}");
    }

    #[derive(serde::Serialize, serde::Deserialize)]
    struct PairMap(std::collections::BTreeMap<(i32, i32), i32>);
}
