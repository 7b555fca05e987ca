//! The arguments of a durable call as they are stored: a JSON object with a field for each.
//!
//! Must not know: the table, or which tasks there are.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::json::{NotWritten, Writer};
use crate::report::SECRET;

/// How many bytes the arguments of one call may take as JSON: 1 MiB. A row of a queue is read and
/// written several times; what is larger belongs into a table of its own, and its key into the
/// call.
pub(crate) const MAX_PAYLOAD_BYTES: usize = 1 << 20;

/// An argument of a durable task: it is stored as JSON, and read again by the worker.
#[diagnostic::on_unimplemented(
    message = "a durable task cannot store `{Self}`",
    label = "is not `Serialize + DeserializeOwned + Send + 'static`",
    note = "its arguments are written to a row as JSON, and read by a worker: `#[derive(serde::Serialize, serde::Deserialize)]` on the \
            type, or a type that has both",
    note = "what the task needs to run, such as a pool or a mailer, is no argument of the call: write `#[state]` in front of it, and give \
            it to the worker with `.state(…)`"
)]
pub trait Storable: Serialize + DeserializeOwned + Send + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Send + 'static> Storable for T {}

/// Writes the arguments of one call.
#[derive(Default)]
pub struct Encoder {
    json: Vec<u8>,
    failed: Option<Failed>,
    /// Where the argument begins that was written last, if it was.
    last: Option<usize>,
    hidden: Vec<Hidden>,
    /// Whether the names of some fields are not those of the arguments.
    has_wrapped: bool,
}

/// What could not be written, and why.
struct Failed {
    name: &'static str,
    cause: Option<String>,
}

/// Where a `#[secret]` argument is in the JSON: its field, with what is shown in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hidden {
    field: Range<usize>,
    name: &'static str,
}

/// The arguments of one call, as they are stored.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Payload {
    json: String,
    hidden: Vec<Hidden>,
}

impl Payload {
    /// As it is stored.
    pub(crate) fn json(&self) -> &str {
        &self.json
    }

    /// As it is shown: without the arguments that are `#[secret]`.
    pub(crate) fn shown(&self) -> String {
        let mut shown = String::with_capacity(self.json.len());
        let mut end = 0;
        for Hidden { field, name } in &self.hidden {
            shown.push_str(&self.json[end..field.start]);
            shown.push_str(&format!("\"{name}\":\"{SECRET}\""));
            end = field.end;
        }
        shown.push_str(&self.json[end..]);
        shown
    }
}

/// How much it is: arguments are nothing for a log.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.json.len())
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoder({} bytes)", self.json.len())
    }
}

impl Encoder {
    /// Writes an argument.
    pub fn argument<T: Storable>(&mut self, name: &'static str, value: &T) {
        self.last = None;
        if self.failed.is_none() {
            self.open_field();
            // Names are identifiers, which JSON needs not escape.
            self.json.extend_from_slice(b"\"");
            self.json.extend_from_slice(name.as_bytes());
            self.json.extend_from_slice(b"\":");
            // In the object of the arguments.
            if let Err(not_written) = value.serialize(Writer::new(&mut self.json, 1)) {
                self.fail(name, &not_written);
            }
        }
    }

    /// Writes an argument that has `#[serde(…)]` attributes: as the one field of a struct that has
    /// them too.
    pub fn wrapped<T: Serialize>(&mut self, name: &'static str, wrapper: &T) {
        self.last = None;
        if self.failed.is_none() {
            self.has_wrapped = true;
            let start = self.json.len();
            match wrapper.serialize(Writer::new(&mut self.json, 0)) {
                // Nothing is left of a field that is skipped.
                Ok(()) if self.json[start..] == *b"{}" => self.json.truncate(start),
                Ok(()) => {
                    self.json.pop();
                    if start > 0 {
                        self.json[start] = b',';
                    }
                    self.last = Some(start + 1);
                }
                Err(not_written) => self.fail(name, &not_written.unwrapped()),
            }
        }
    }

    fn open_field(&mut self) {
        self.json.push(if self.json.is_empty() { b'{' } else { b',' });
        self.last = Some(self.json.len());
    }

    /// The argument that was written just now is `#[secret]`: nothing shows its value, and nothing
    /// tells what its `Serialize` said, which may quote it.
    pub fn hide(&mut self, name: &'static str) {
        match &mut self.failed {
            Some(failed) if failed.name == name => failed.cause = None,
            Some(_) => {}
            None => self.hidden.extend(self.last.map(|start| Hidden { field: start..self.json.len(), name })),
        }
    }

    #[cold]
    fn fail(&mut self, name: &'static str, not_written: &NotWritten) {
        self.failed = Some(Failed { name, cause: Some(not_written.to_string()) });
    }

    /// The JSON object.
    pub(crate) fn finish(mut self) -> Result<Payload, String> {
        if let Some(Failed { name, cause }) = self.failed {
            let cause = cause.map_or_else(|| NOT_TOLD.to_owned(), |cause| format!(": {cause}"));
            return Err(format!("its argument `{name}` could not be written as JSON{cause}"));
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
        // Nothing but UTF-8 was written.
        let json = String::from_utf8(self.json).map_err(|error| error.utf8_error().to_string())?;
        if self.has_wrapped && has_fields_of_one_name(&json) {
            return Err("two of its arguments have one name in JSON, so that not both could be read; rename one of them, or do without \
                        `#[serde(flatten)]`"
                .to_owned());
        }
        Ok(Payload { json, hidden: self.hidden })
    }
}

/// In place of the reason.
const NOT_TOLD: &str = "; the reason is not told, because it may quote what is `#[secret]`";

/// Whether a field of the arguments would hide another one. Of a value that nobody can read it is
/// not known.
fn has_fields_of_one_name(json: &str) -> bool {
    let fields: Result<Fields<'_>, _> = serde_json::from_str(json);
    fields.is_ok_and(|Fields { count, names }| names.len() < count)
}

/// The fields of an object.
struct Fields<'p> {
    count: usize,
    names: HashSet<Name<'p>>,
}

impl<'p> Deserialize<'p> for Fields<'p> {
    fn deserialize<D: Deserializer<'p>>(deserializer: D) -> Result<Self, D::Error> {
        struct Count;

        impl<'p> Visitor<'p> for Count {
            type Value = Fields<'p>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'p>>(self, mut map: A) -> Result<Fields<'p>, A::Error> {
                let mut fields = Fields { count: 0, names: HashSet::new() };
                while let Some((name, IgnoredAny)) = map.next_entry()? {
                    fields.count += 1;
                    fields.names.insert(name);
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(Count)
    }
}

/// The stored arguments of one call.
pub struct Decoder<'p> {
    payload: &'p str,
    fields: HashMap<Name<'p>, &'p RawValue>,
}

impl fmt::Debug for Decoder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Decoder({} bytes)", self.payload.len())
    }
}

/// A field's name: not escaped, where the row was written by us.
#[derive(PartialEq, Eq, Hash, Deserialize)]
struct Name<'p>(#[serde(borrow)] std::borrow::Cow<'p, str>);

impl<'p> Decoder<'p> {
    /// Finds the fields.
    ///
    /// # Errors
    /// Where it is not a JSON object.
    pub fn new(payload: &'p str) -> Result<Self, Undecodable> {
        // Not serde's text, which quotes what it found: nobody can say whether that was a secret.
        let fields = serde_json::from_str(payload).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            Undecodable {
                text: format!("the payload is not a JSON object (line {line}, column {column})"),
                cause: None,
            }
        })?;
        Ok(Self { payload, fields })
    }

    /// Reads an argument. One that is not there may still be an `Option`.
    ///
    /// # Errors
    /// Where it is missing, or of another type.
    pub fn argument<T: Storable>(&self, name: &'static str) -> Result<T, Undecodable> {
        match self.fields.get(&Name(name.into())) {
            Some(value) => serde_json::from_str(value.get()).map_err(|error| Undecodable::argument(name, &error)),
            None => serde_json::from_str("null").map_err(|_| {
                let missing = format!(
                    "its argument `{name}` is missing: the row is of a version whose task does not have it. Where that is an older one, \
                     make the argument an `Option`, or give it a `#[serde(default)]`"
                );
                Undecodable { text: missing, cause: None }
            }),
        }
    }

    /// Reads an argument that has `#[serde(…)]` attributes.
    ///
    /// # Errors
    /// Where it is missing, or of another type.
    pub fn wrapped<T: DeserializeOwned>(&self, name: &'static str) -> Result<T, Undecodable> {
        serde_json::from_str(self.payload).map_err(|error| Undecodable::argument(name, &error))
    }
}

/// Why a row's arguments are not those of its task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undecodable {
    text: String,
    /// What serde says.
    cause: Option<String>,
}

impl Undecodable {
    fn argument(name: &str, error: &serde_json::Error) -> Self {
        Self { text: format!("its argument `{name}` cannot be read"), cause: Some(error.to_string()) }
    }

    /// The same where serde's text may quote a `#[secret]` argument.
    #[must_use]
    pub fn without_cause(self) -> Self {
        match self.cause {
            Some(_) => Self { text: self.text + NOT_TOLD, cause: None },
            None => self,
        }
    }
}

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        self.cause.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl Error for Undecodable {}

#[cfg(test)]
mod tests {
    use super::{Decoder, Encoder, MAX_PAYLOAD_BYTES};

    fn encoded(write: impl FnOnce(&mut Encoder)) -> Result<String, String> {
        let mut encoder = Encoder::default();
        write(&mut encoder);
        encoder.finish().map(|payload| payload.json)
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
