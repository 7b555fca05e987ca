//! Writes a value as JSON, in `serde_json`'s own form, and refuses what would not come back from it
//! as it went in: what nests too deep to be read, a `Some` that would be read as `None`, NaN and
//! the infinities, and two fields of one name.
//!
//! Must not know: tasks, or what is written around the value.

#[cfg(test)]
mod tests;

use std::fmt::{self, Display, Write};
use std::ops::Range;

use serde::Serialize;
use serde::ser::{self, Serializer};

/// How deep arrays and objects may nest: `serde_json` reads no more.
pub(crate) const MAX_DEPTH: usize = 127;

/// Appends values to what is written already.
pub(crate) struct Writer<'j> {
    json: &'j mut Vec<u8>,
    /// How many arrays and objects are open.
    depth: usize,
}

/// Why a value is not written.
#[derive(Debug)]
pub(crate) struct NotWritten(Box<Refusal>);

#[derive(Debug)]
struct Refusal {
    why: String,
    /// Where in the value, from the inside out.
    path: Vec<Step>,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Name(&'static str),
    Index(usize),
    /// The key is not told: it is the user's data.
    Key,
}

type Written = Result<(), NotWritten>;

/// How many steps of a path are told.
const STEPS_TOLD: usize = 16;

impl NotWritten {
    #[cold]
    fn new(why: impl Into<String>) -> Self {
        Self(Box::new(Refusal { why: why.into(), path: Vec::new() }))
    }

    #[cold]
    fn inside(mut self, step: Step) -> Self {
        self.0.path.push(step);
        self
    }

    /// Without the outermost name.
    pub(crate) fn unwrapped(mut self) -> Self {
        self.0.path.pop_if(|step| matches!(step, Step::Name(_)));
        self
    }
}

impl Display for NotWritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { why, path } = &*self.0;
        f.write_str(why)?;
        if path.is_empty() {
            return Ok(());
        }
        f.write_str(" (at `")?;
        for step in path.iter().rev().take(STEPS_TOLD) {
            match step {
                Step::Name(name) => write!(f, ".{name}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key => f.write_str("[_]")?,
            }
        }
        if path.len() > STEPS_TOLD {
            f.write_char('…')?;
        }
        f.write_str("`)")
    }
}

impl std::error::Error for NotWritten {}

impl ser::Error for NotWritten {
    fn custom<T: Display>(message: T) -> Self {
        Self::new(message.to_string())
    }
}

impl<'j> Writer<'j> {
    /// Appends to `json`, in which `depth` arrays and objects are open.
    pub(crate) fn new(json: &'j mut Vec<u8>, depth: usize) -> Self {
        Self { json, depth }
    }

    fn again(&mut self) -> Writer<'_> {
        Writer { json: &mut *self.json, depth: self.depth }
    }

    /// What has nothing in it: as `serde_json` writes it.
    fn plain<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        serde_json::to_writer(&mut *self.json, value).map_err(ser::Error::custom)
    }

    fn open(mut self, bracket: u8) -> Result<Self, NotWritten> {
        if self.depth >= MAX_DEPTH {
            let allowed = MAX_DEPTH - 1;
            return Err(NotWritten::new(format!(
                "it nests more than {allowed} levels deep, which nobody could read; store it in a table, and pass its key"
            )));
        }
        self.json.push(bracket);
        self.depth += 1;
        Ok(self)
    }

    fn open_variant(self, name: &'static str) -> Result<Self, NotWritten> {
        let mut variant = self.open(b'{')?;
        variant.plain(name)?;
        variant.json.push(b':');
        Ok(variant)
    }

    fn comma(&mut self, count: usize) {
        if count > 0 {
            self.json.push(b',');
        }
    }

    fn items(self, close: &'static str) -> Result<Items<'j>, NotWritten> {
        Ok(Items { out: self.open(b'[')?, count: 0, close })
    }

    fn fields(self, close: &'static str) -> Result<Fields<'j>, NotWritten> {
        let start = self.json.len();
        Ok(Fields { out: self.open(b'{')?, first: None, close, start, is_raw: false })
    }
}

macro_rules! plain {
    ($($name:ident($type:ty);)*) => {$(
        fn $name(mut self, value: $type) -> Written {
            self.plain(&value)
        }
    )*};
}

impl<'j> Serializer for Writer<'j> {
    type Ok = ();
    type Error = NotWritten;
    type SerializeSeq = Items<'j>;
    type SerializeTuple = Items<'j>;
    type SerializeTupleStruct = Items<'j>;
    type SerializeTupleVariant = Items<'j>;
    type SerializeMap = Entries<'j>;
    type SerializeStruct = Fields<'j>;
    type SerializeStructVariant = Fields<'j>;

    plain! {
        serialize_bool(bool);
        serialize_i8(i8);
        serialize_i16(i16);
        serialize_i32(i32);
        serialize_i64(i64);
        serialize_i128(i128);
        serialize_u8(u8);
        serialize_u16(u16);
        serialize_u32(u32);
        serialize_u64(u64);
        serialize_u128(u128);
        serialize_char(char);
        serialize_str(&str);
    }

    // serde_json would write `null`.
    fn serialize_f32(mut self, value: f32) -> Written {
        if value.is_finite() { self.plain(&value) } else { Err(no_number(value.into())) }
    }

    fn serialize_f64(mut self, value: f64) -> Written {
        if value.is_finite() { self.plain(&value) } else { Err(no_number(value)) }
    }

    fn serialize_bytes(self, value: &[u8]) -> Written {
        value.serialize(self)
    }

    fn serialize_none(self) -> Written {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(mut self, value: &T) -> Written {
        let start = self.json.len();
        value.serialize(self.again())?;
        if &self.json[start..] == b"null" { Err(some_is_none()) } else { Ok(()) }
    }

    fn serialize_unit(mut self) -> Written {
        self.plain(&())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Written {
        self.serialize_unit()
    }

    fn serialize_unit_variant(mut self, _: &'static str, _: u32, variant: &'static str) -> Written {
        self.plain(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Written {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Written {
        let mut out = self.open_variant(variant)?;
        value.serialize(out.again()).map_err(|refused| refused.inside(Step::Name(variant)))?;
        out.json.push(b'}');
        Ok(())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Items<'j>, NotWritten> {
        self.items("]")
    }

    fn serialize_tuple(self, _: usize) -> Result<Items<'j>, NotWritten> {
        self.items("]")
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Items<'j>, NotWritten> {
        self.items("]")
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Items<'j>, NotWritten> {
        self.open_variant(variant)?.items("]}")
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Entries<'j>, NotWritten> {
        // A struct with `#[serde(flatten)]` does not know how many fields it has, a collection
        // does.
        let keys = if length.is_none() { Keys::All(Vec::new()) } else { Keys::First(None) };
        Ok(Entries { out: self.open(b'{')?, is_empty: true, keys })
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Fields<'j>, NotWritten> {
        if name.starts_with(AS_IT_IS) {
            return Ok(Fields { start: self.json.len(), out: self, first: None, close: "", is_raw: true });
        }
        self.fields("}")
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Fields<'j>, NotWritten> {
        self.open_variant(variant)?.fields("}}")
    }
}

/// What `serde_json` calls its structs that hold JSON: a `RawValue`, and a `Number` of any
/// precision.
const AS_IT_IS: &str = "$serde_json::private::";

#[cold]
fn no_number(value: f64) -> NotWritten {
    NotWritten::new(format!("JSON has no number for {value}"))
}

#[cold]
fn some_is_none() -> NotWritten {
    NotWritten::new(
        "a `Some` of what is `null` in JSON would be read as `None`; make it an enum with a name for each case",
    )
}

#[cold]
fn same_name() -> NotWritten {
    NotWritten::new(
        "two fields have one name in JSON, so that not both could be read; rename one of them, or do without \
         `#[serde(flatten)]` or `#[serde(tag)]`",
    )
}

/// An array that is being written.
pub(crate) struct Items<'j> {
    out: Writer<'j>,
    count: usize,
    close: &'static str,
}

impl Items<'_> {
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        self.out.comma(self.count);
        value.serialize(self.out.again()).map_err(|refused| refused.inside(Step::Index(self.count)))?;
        self.count += 1;
        Ok(())
    }

    fn close(self) -> Written {
        self.out.json.extend_from_slice(self.close.as_bytes());
        Ok(())
    }
}

/// An object of a struct that is being written.
pub(crate) struct Fields<'j> {
    out: Writer<'j>,
    /// The tag of `#[serde(tag)]` is written first, and nobody has compared it with the fields.
    first: Option<&'static str>,
    close: &'static str,
    start: usize,
    /// Whether the one field's text is JSON, to be written as it is.
    is_raw: bool,
}

impl Fields<'_> {
    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Written {
        if !self.is_raw {
            if self.first == Some(name) {
                return Err(same_name().inside(Step::Name(name)));
            }
            self.out.comma(self.first.is_some().into());
            self.first.get_or_insert(name);
            self.out.plain(name)?;
            self.out.json.push(b':');
        }
        value.serialize(self.out.again()).map_err(|refused| refused.inside(Step::Name(name)))
    }

    fn close(self) -> Written {
        if self.is_raw {
            let text: String = serde_json::from_slice(&self.out.json[self.start..]).map_err(ser::Error::custom)?;
            self.out.json.truncate(self.start);
            self.out.json.extend_from_slice(text.as_bytes());
        }
        self.out.json.extend_from_slice(self.close.as_bytes());
        Ok(())
    }
}

/// An object of a map that is being written.
pub(crate) struct Entries<'j> {
    out: Writer<'j>,
    is_empty: bool,
    keys: Keys,
}

/// Where the keys are that the others are compared with.
enum Keys {
    /// See [`Fields::first`].
    First(Option<Range<usize>>),
    All(Vec<Range<usize>>),
}

/// `serde_json` knows what may be a key, and how it is written: this is `{"key":null}`.
struct KeyOnly<'k, K: ?Sized>(&'k K);

impl<K: Serialize + ?Sized> Serialize for KeyOnly<'_, K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map([(self.0, ())])
    }
}

impl Entries<'_> {
    /// The key was written from `start` on.
    fn compare(&mut self, start: usize) -> Written {
        let json = &*self.out.json;
        let key = start..json.len();
        match &mut self.keys {
            Keys::First(first) => match first {
                Some(first) if json[first.clone()] == json[key.clone()] => return Err(same_name()),
                Some(_) => {}
                None => *first = Some(key),
            },
            Keys::All(keys) => keys.push(key),
        }
        Ok(())
    }
}

impl ser::SerializeMap for Entries<'_> {
    type Ok = ();
    type Error = NotWritten;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Written {
        let start = self.out.json.len();
        self.out.plain(&KeyOnly(key))?;
        let json = &mut *self.out.json;
        json.truncate(json.len() - ":null}".len());
        if self.is_empty {
            self.is_empty = false;
            json.remove(start);
            self.compare(start)
        } else {
            json[start] = b',';
            self.compare(start + 1)
        }
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        self.out.json.push(b':');
        value.serialize(self.out.again()).map_err(|refused| refused.inside(Step::Key))
    }

    fn end(self) -> Written {
        if let Keys::All(mut keys) = self.keys {
            let json = &*self.out.json;
            keys.sort_unstable_by_key(|key| &json[key.clone()]);
            if keys.windows(2).any(|pair| json[pair[0].clone()] == json[pair[1].clone()]) {
                return Err(same_name());
            }
        }
        self.out.json.push(b'}');
        Ok(())
    }
}

macro_rules! parts {
    ($($trait:ident for $type:ident: $method:ident($($name:ident: $key:ty)?) = $part:ident;)*) => {$(
        impl ser::$trait for $type<'_> {
            type Ok = ();
            type Error = NotWritten;

            fn $method<T: Serialize + ?Sized>(&mut self, $($name: $key,)? value: &T) -> Written {
                self.$part($($name,)? value)
            }

            fn end(self) -> Written {
                self.close()
            }
        }
    )*};
}

parts! {
    SerializeSeq for Items: serialize_element() = item;
    SerializeTuple for Items: serialize_element() = item;
    SerializeTupleStruct for Items: serialize_field() = item;
    SerializeTupleVariant for Items: serialize_field() = item;
    SerializeStruct for Fields: serialize_field(name: &'static str) = field;
    SerializeStructVariant for Fields: serialize_field(name: &'static str) = field;
}
