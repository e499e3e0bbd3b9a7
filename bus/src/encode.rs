//! Encodes a value as JSON text and checks it: an accepted value decodes from the text unchanged.
//!
//! `serde_json` writes NaN and infinity as `null`, writes a key twice if a value has it twice, and writes integers and
//! nesting depths that its own decoder refuses. [`encode`] writes the same bytes as `serde_json` and refuses all of
//! these; the error has the path inside the value. [`Writer`] is the only encoder; its constants select what a call
//! needs:
//!
//! | `TEXT` | `PROVE` | for |
//! |---|---|---|
//! | yes | no | values of any type |
//! | yes | yes | values that are decoded at once and compared by their marks |
//! | no | yes | the decoded value of such a pair |
//!
//! A *mark* is a hash over the calls that a value makes to its serializer. Two values of one type with equal marks are
//! equal: their texts are equal, and so is what JSON does not show, such as `None` or `Some(None)`. The order of
//! elements in sequences and maps does not matter, because a decoded hash map has another order.

mod key;

use std::fmt;

use serde::{
    Serialize,
    ser::{self, Serializer},
};
use xxhash_rust::xxh3::xxh3_64;

use key::KeyWriter;

use crate::{cut_text, json_text};

/// Levels of arrays and objects in a stored value. 120: the decoder gives up at 128, and what the runtime wraps around a
/// value (a dead letter, a timer, the result of a call) needs some of them.
pub const NESTING_MAX: u32 = 120;
/// Nested serializer calls that add no level, such as `Some` and newtypes: bounds the recursion.
const CALLS_MAX: u32 = 4 * NESTING_MAX;
/// The longest JSON text. 1 GiB: the highest possible limit of an event; stops the encoding of endless values.
const TEXT_BYTES_MAX: usize = 1 << 30;
/// A struct of this name holds JSON text (`serde_json::value::RawValue`).
const RAW_VALUE: &str = "$serde_json::private::RawValue";
/// Generic readers treat keys with this prefix specially: they decode a map with one such key as the JSON text in its
/// value.
pub(crate) const RESERVED_KEYS: &str = "$serde_json::private::";

/// Why a part of a value was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueFault {
    /// NaN or an infinity.
    #[error("is {0}, which JSON has no number for")]
    NotFinite(&'static str),
    /// An integer that JSON readers turn into a float.
    #[error("is {0}, outside the integers that can be read back ({min} to {max})", min = i64::MIN, max = u64::MAX)]
    IntegerRange(String),
    /// Too many levels of arrays and objects.
    #[error("is nested deeper than {NESTING_MAX} levels")]
    TooDeep,
    /// A map or struct has a key more than once; a reader would see one of the values.
    #[error("has the key {0:?} more than once")]
    DuplicateKey(String),
    /// A map key that the decoder reserves.
    #[error("has the key {0:?}, which the decoder reserves")]
    ReservedKey(String),
    /// A map key that is neither text, number, bool nor a plain variant.
    #[error("has a map key that is {0}, not text")]
    KeyNotText(&'static str),
    /// `Some` of a value that is written as `null`.
    #[error("is Some of a value that JSON writes as null, which is read back as None")]
    SomeNull,
    /// The text is above 1 GiB.
    #[error("is larger than {TEXT_BYTES_MAX} bytes of JSON")]
    TooLarge,
    /// The value's own serializer failed.
    #[error("cannot be encoded: {0}")]
    Serializer(String),
    /// The text is not JSON.
    #[error("is not JSON: {0}")]
    Syntax(String),
}

/// A step from a value to one inside it.
#[derive(Debug, Clone)]
pub(crate) enum Segment {
    Field(&'static str),
    Key(String),
    Index(usize),
}

/// The longest key in a path, in bytes: a path is for people.
const PATH_KEY_BYTES_MAX: usize = 64;

/// `$.levels[3].price`, from segments in order.
pub(crate) fn path_of<'s>(segments: impl Iterator<Item = &'s Segment>) -> String {
    let mut path = String::from("$");
    for segment in segments {
        let key = match segment {
            Segment::Index(index) => {
                path = format!("{path}[{index}]");
                continue;
            }
            Segment::Field(name) => name,
            Segment::Key(key) => key.as_str(),
        };
        let is_plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let key = cut_text(key, PATH_KEY_BYTES_MAX);
        path = if is_plain { format!("{path}.{key}") } else { format!("{path}[{key:?}]") };
    }
    path
}

/// Why a value was refused, and where; boxed, since every level returns it.
#[derive(Debug)]
pub(crate) struct Refusal(Box<(Vec<Segment>, ValueFault)>);

impl Refusal {
    pub(crate) fn new(fault: ValueFault) -> Self {
        Self(Box::new((Vec::new(), fault)))
    }

    /// The refusal as seen from one level above.
    #[cold]
    pub(crate) fn inside(mut self, segment: Segment) -> Self {
        self.0.0.push(segment);
        self
    }

    pub(crate) fn into_parts(self) -> (String, ValueFault) {
        let (segments, fault) = *self.0;
        (path_of(segments.iter().rev()), fault)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.1.fmt(f)
    }
}
impl std::error::Error for Refusal {}
impl ser::Error for Refusal {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(ValueFault::Serializer(cut_text(&message.to_string(), crate::ERROR_BYTES_MAX).into_owned()))
    }
}

/// What a value came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    hash: u64,
    is_null: bool,
}

impl Mark {
    fn of(tag: u64, bits: u64) -> Self {
        Self { hash: mix(tag, bits), is_null: false }
    }
}

/// Mixes so that sums of it do not cancel out.
fn mix(one: u64, other: u64) -> u64 {
    let mixed = (one.rotate_left(29) ^ other).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93)
}

/// The JSON text of a value of any type.
pub(crate) fn text_of<T: Serialize + ?Sized>(value: &T) -> Result<String, Refusal> {
    let mut writer = Writer::<true, false>::new();
    value.serialize(&mut writer)?;
    writer.into_text()
}

/// The JSON text of a value, and the mark that its decoded value must have.
pub(crate) fn text_and_mark_of<T: Serialize + ?Sized>(value: &T) -> Result<(String, Mark), Refusal> {
    let mut writer = Writer::<true, true>::new();
    let mark = value.serialize(&mut writer)?;
    Ok((writer.into_text()?, mark))
}

/// The mark of a value that was decoded.
pub(crate) fn mark_of<T: Serialize + ?Sized>(value: &T) -> Result<Mark, Refusal> {
    value.serialize(&mut Writer::<false, true>::new())
}

/// The one encoder; see the head of this file.
pub(crate) struct Writer<const TEXT: bool, const PROVE: bool> {
    /// The text so far; without `TEXT`, keys of the maps that are being written.
    out: Vec<u8>,
    depth: u32,
    calls: u32,
    /// Names of fields of the structs that are being written, each above those of the struct around it.
    names: Vec<&'static str>,
}

impl<const TEXT: bool, const PROVE: bool> Writer<TEXT, PROVE> {
    fn new() -> Self {
        // Most events fit, as with `serde_json`.
        let (bytes, names) = if TEXT { (128, 8) } else { (0, 0) };
        Self { out: Vec::with_capacity(bytes), depth: 0, calls: 0, names: Vec::with_capacity(names) }
    }

    fn into_text(self) -> Result<String, Refusal> {
        String::from_utf8(self.out).map_err(ser::Error::custom)
    }

    fn put(&mut self, text: &str) {
        if TEXT {
            self.out.extend_from_slice(text.as_bytes());
        }
    }

    fn put_string(&mut self, text: &str) -> Result<(), Refusal> {
        if TEXT {
            push_string(&mut self.out, text);
        }
        self.room()
    }

    fn room(&self) -> Result<(), Refusal> {
        if self.out.len() > TEXT_BYTES_MAX { Err(Refusal::new(ValueFault::TooLarge)) } else { Ok(()) }
    }

    fn integer(&mut self, tag: u64, value: impl itoa::Integer, bits: u64) -> Result<Mark, Refusal> {
        if TEXT {
            self.put(itoa::Buffer::new().format(value));
        }
        Ok(Mark::of(tag, bits))
    }

    /// Opens an array or object, `levels` of them if a variant's name is around it.
    fn open(&mut self, bracket: &str, variant: Option<&'static str>) -> Result<(), Refusal> {
        self.depth += 1 + u32::from(variant.is_some());
        if self.depth > NESTING_MAX {
            return Err(Refusal::new(ValueFault::TooDeep));
        }
        self.room()?;
        if let Some(variant) = variant {
            self.put("{");
            self.put_string(variant)?;
            self.put(":");
        }
        self.put(bracket);
        Ok(())
    }

    fn close(&mut self, bracket: &str, variant: Option<&'static str>) {
        self.depth -= 1 + u32::from(variant.is_some());
        self.put(bracket);
        if variant.is_some() {
            self.put("}");
        }
    }

    /// A value that adds no level of its own.
    fn within<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<Mark, Refusal> {
        self.calls += 1;
        if self.calls > CALLS_MAX {
            return Err(Refusal::new(ValueFault::TooDeep));
        }
        let mark = value.serialize(&mut *self)?;
        self.calls -= 1;
        Ok(mark)
    }

    fn items(&mut self, variant: Option<&'static str>, is_ordered: bool) -> Result<Items<'_, TEXT, PROVE>, Refusal> {
        self.open("[", variant)?;
        Ok(Items { writer: self, variant, n: 0, is_ordered, hash: 0 })
    }

    fn fields(&mut self, variant: Option<&'static str>) -> Result<Fields<'_, TEXT, PROVE>, Refusal> {
        self.open("{", variant)?;
        Ok(Fields::new(self, variant))
    }

    /// JSON text inside a value: checked as any text from outside.
    fn raw(&mut self, text: &str) -> Result<Mark, Refusal> {
        json_text::check(text, self.depth)?;
        let text = text.trim();
        self.put(text);
        Ok(Mark { hash: mix(1, xxh3_64(text.as_bytes())), is_null: text == "null" })
    }
}

/// Appends a JSON string.
fn push_string(out: &mut Vec<u8>, text: &str) {
    // Writing into memory does not fail.
    let _ = serde_json::to_writer(out, text);
}

fn not_finite(value: f64) -> Refusal {
    let what = if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "infinity"
    } else {
        "-infinity"
    };
    Refusal::new(ValueFault::NotFinite(what))
}

macro_rules! integers {
    ($($method:ident $type:ty, $tag:literal;)*) => {
        $(fn $method(self, value: $type) -> Result<Mark, Refusal> {
            self.integer($tag, value, value as u64)
        })*
    };
}

macro_rules! large_integers {
    ($($method:ident $type:ty, $tag:literal;)*) => {
        $(fn $method(self, value: $type) -> Result<Mark, Refusal> {
            if u64::try_from(value).is_err() && i64::try_from(value).is_err() {
                return Err(Refusal::new(ValueFault::IntegerRange(value.to_string())));
            }
            self.integer($tag, value, value as u64)
        })*
    };
}

macro_rules! floats {
    ($($method:ident $type:ty, $tag:literal;)*) => {
        $(fn $method(self, value: $type) -> Result<Mark, Refusal> {
            if !value.is_finite() {
                return Err(not_finite(f64::from(value)));
            }
            if TEXT {
                // Writing into memory does not fail.
                let _ = serde_json::to_writer(&mut self.out, &value);
            }
            Ok(Mark::of($tag, u64::from(value.to_bits())))
        })*
    };
}

impl<'w, const TEXT: bool, const PROVE: bool> Serializer for &'w mut Writer<TEXT, PROVE> {
    type Ok = Mark;
    type Error = Refusal;
    type SerializeSeq = Items<'w, TEXT, PROVE>;
    type SerializeTuple = Items<'w, TEXT, PROVE>;
    type SerializeTupleStruct = Items<'w, TEXT, PROVE>;
    type SerializeTupleVariant = Items<'w, TEXT, PROVE>;
    type SerializeMap = Entries<'w, TEXT, PROVE>;
    type SerializeStruct = Fields<'w, TEXT, PROVE>;
    type SerializeStructVariant = Fields<'w, TEXT, PROVE>;

    integers! {
        serialize_i8 i8, 10; serialize_i16 i16, 11; serialize_i32 i32, 12; serialize_i64 i64, 13;
        serialize_u8 u8, 14; serialize_u16 u16, 15; serialize_u32 u32, 16; serialize_u64 u64, 17;
    }
    large_integers! { serialize_i128 i128, 18; serialize_u128 u128, 19; }
    floats! { serialize_f32 f32, 20; serialize_f64 f64, 21; }

    fn serialize_bool(self, value: bool) -> Result<Mark, Refusal> {
        self.put(if value { "true" } else { "false" });
        Ok(Mark::of(22, u64::from(value)))
    }

    fn serialize_char(self, value: char) -> Result<Mark, Refusal> {
        self.put_string(value.encode_utf8(&mut [0; 4]))?;
        Ok(Mark::of(23, u64::from(value)))
    }

    fn serialize_str(self, value: &str) -> Result<Mark, Refusal> {
        self.put_string(value)?;
        Ok(Mark::of(24, if PROVE { xxh3_64(value.as_bytes()) } else { 0 }))
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<Mark, Refusal> {
        let mut items = self.items(None, true)?;
        value.iter().try_for_each(|byte| items.add(byte))?;
        Ok(items.finish(25))
    }

    fn serialize_none(self) -> Result<Mark, Refusal> {
        self.put("null");
        Ok(Mark { hash: 2, is_null: true })
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Mark, Refusal> {
        let mark = self.within(value)?;
        // `PROVE` compares the decoded value anyway: some types write `None` as a missing field.
        if mark.is_null && !PROVE {
            return Err(Refusal::new(ValueFault::SomeNull));
        }
        Ok(Mark { hash: mix(3, mark.hash), is_null: mark.is_null })
    }

    fn serialize_unit(self) -> Result<Mark, Refusal> {
        self.put("null");
        Ok(Mark { hash: 4, is_null: true })
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<Mark, Refusal> {
        self.put("null");
        Ok(Mark { hash: 5, is_null: true })
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<Mark, Refusal> {
        self.put_string(variant)?;
        Ok(Mark::of(26, if PROVE { xxh3_64(variant.as_bytes()) } else { 0 }))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<Mark, Refusal> {
        self.within(value)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Mark, Refusal> {
        let mut fields = self.fields(None)?;
        fields.add(variant, value)?;
        Ok(fields.finish(27))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Items<'w, TEXT, PROVE>, Refusal> {
        self.items(None, false)
    }

    fn serialize_tuple(self, _: usize) -> Result<Items<'w, TEXT, PROVE>, Refusal> {
        self.items(None, true)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Items<'w, TEXT, PROVE>, Refusal> {
        self.items(None, true)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Items<'w, TEXT, PROVE>, Refusal> {
        self.items(Some(variant), true)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Entries<'w, TEXT, PROVE>, Refusal> {
        self.open("{", None)?;
        Ok(Entries { writer: self, keys: Vec::new(), is_sorted: true, hash: 0 })
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Fields<'w, TEXT, PROVE>, Refusal> {
        if name == RAW_VALUE {
            return Ok(Fields { is_raw: true, ..Fields::new(self, None) });
        }
        self.fields(None)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Fields<'w, TEXT, PROVE>, Refusal> {
        self.fields(Some(variant))
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<Mark, Refusal> {
        self.serialize_str(&shown(value)?)
    }
}

/// The text of a value's `Display`; a user's formatter may fail.
fn shown<T: fmt::Display + ?Sized>(value: &T) -> Result<String, Refusal> {
    use fmt::Write as _;
    let mut text = String::new();
    write!(text, "{value}").map_err(|_| ser::Error::custom("its Display implementation returned an error"))?;
    Ok(text)
}

// === arrays ===

/// The elements of a sequence or tuple.
pub(crate) struct Items<'w, const TEXT: bool, const PROVE: bool> {
    writer: &'w mut Writer<TEXT, PROVE>,
    variant: Option<&'static str>,
    n: usize,
    is_ordered: bool,
    hash: u64,
}

impl<const TEXT: bool, const PROVE: bool> Items<'_, TEXT, PROVE> {
    fn add<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refusal> {
        if self.n > 0 {
            self.writer.put(",");
        }
        let mark = value.serialize(&mut *self.writer).map_err(|refusal| self.refused(refusal))?;
        self.n += 1;
        self.hash = if self.is_ordered { mix(self.hash, mark.hash) } else { self.hash.wrapping_add(mix(6, mark.hash)) };
        Ok(())
    }

    #[cold]
    fn refused(&self, refusal: Refusal) -> Refusal {
        let refusal = refusal.inside(Segment::Index(self.n));
        self.variant.into_iter().map(Segment::Field).fold(refusal, Refusal::inside)
    }

    fn finish(self, tag: u64) -> Mark {
        self.writer.close("]", self.variant);
        Mark::of(tag, mix(variant_bits::<PROVE>(self.variant), mix(self.n as u64, self.hash)))
    }
}

fn variant_bits<const PROVE: bool>(variant: Option<&'static str>) -> u64 {
    if PROVE { variant.map_or(0, |variant| xxh3_64(variant.as_bytes())) } else { 0 }
}

macro_rules! items {
    ($($trait:ident $method:ident;)*) => {
        $(impl<const TEXT: bool, const PROVE: bool> ser::$trait for Items<'_, TEXT, PROVE> {
            type Ok = Mark;
            type Error = Refusal;
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refusal> {
                self.add(value)
            }
            fn end(self) -> Result<Mark, Refusal> {
                Ok(self.finish(28))
            }
        })*
    };
}

items! {
    SerializeSeq serialize_element; SerializeTuple serialize_element;
    SerializeTupleStruct serialize_field; SerializeTupleVariant serialize_field;
}

// === structs ===

/// The fields of a struct or struct variant.
pub(crate) struct Fields<'w, const TEXT: bool, const PROVE: bool> {
    writer: &'w mut Writer<TEXT, PROVE>,
    variant: Option<&'static str>,
    first_name: usize,
    n: usize,
    /// A bit for each name that was written: names with different bits differ.
    letters: u64,
    hash: u64,
    /// The one field is JSON text.
    is_raw: bool,
    raw: Mark,
}

impl<'w, const TEXT: bool, const PROVE: bool> Fields<'w, TEXT, PROVE> {
    fn new(writer: &'w mut Writer<TEXT, PROVE>, variant: Option<&'static str>) -> Self {
        let (first_name, raw) = (writer.names.len(), Mark::of(0, 0));
        Self { writer, variant, first_name, n: 0, letters: 0, hash: 0, is_raw: false, raw }
    }

    fn add<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Refusal> {
        if self.is_raw {
            // The only value here is a string.
            let text = serde_json::to_value(value).map_err(ser::Error::custom)?;
            self.raw = self.writer.raw(text.as_str().unwrap_or_default())?;
            return Ok(());
        }
        if self.n > 0 {
            self.writer.put(",");
        }
        self.n += 1;
        self.note(name)?;
        self.writer.put_string(name)?;
        self.writer.put(":");
        let mark = value.serialize(&mut *self.writer).map_err(|refusal| self.refused(refusal, name))?;
        if PROVE {
            self.hash = mix(self.hash, mix(xxh3_64(name.as_bytes()), mark.hash));
        }
        Ok(())
    }

    /// Refuses a name that was written before: a tag beside a field of the same name, or two that are renamed alike.
    fn note(&mut self, name: &'static str) -> Result<(), Refusal> {
        if !TEXT {
            return Ok(());
        }
        let bytes = name.as_bytes();
        let ends = bytes.first().map_or(0, |first| u32::from(*first) + 7 * u32::from(bytes[bytes.len() - 1]));
        let letter = 1 << ((ends + 13 * bytes.len() as u32) % 64);
        if self.letters & letter != 0 && self.writer.names[self.first_name..].contains(&name) {
            return Err(Refusal::new(ValueFault::DuplicateKey(name.into())));
        }
        self.letters |= letter;
        self.writer.names.push(name);
        Ok(())
    }

    #[cold]
    fn refused(&self, refusal: Refusal, name: &'static str) -> Refusal {
        let refusal = refusal.inside(Segment::Field(name));
        self.variant.into_iter().map(Segment::Field).fold(refusal, Refusal::inside)
    }

    fn finish(self, tag: u64) -> Mark {
        if self.is_raw {
            return self.raw;
        }
        self.writer.names.truncate(self.first_name);
        self.writer.close("}", self.variant);
        Mark::of(tag, mix(variant_bits::<PROVE>(self.variant), self.hash))
    }
}

macro_rules! fields {
    ($($trait:ident;)*) => {
        $(impl<const TEXT: bool, const PROVE: bool> ser::$trait for Fields<'_, TEXT, PROVE> {
            type Ok = Mark;
            type Error = Refusal;
            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Refusal> {
                self.add(name, value)
            }
            fn end(self) -> Result<Mark, Refusal> {
                Ok(self.finish(29))
            }
        })*
    };
}

fields! { SerializeStruct; SerializeStructVariant; }

// === maps ===

/// The entries of a map.
pub(crate) struct Entries<'w, const TEXT: bool, const PROVE: bool> {
    writer: &'w mut Writer<TEXT, PROVE>,
    /// Where the keys are in the writer's bytes, with their quotes.
    keys: Vec<(usize, usize)>,
    /// Whether every key is above the one before it, so that none is there twice.
    is_sorted: bool,
    hash: u64,
}

impl<const TEXT: bool, const PROVE: bool> Entries<'_, TEXT, PROVE> {
    fn key(&self, (start, end): (usize, usize)) -> &[u8] {
        &self.writer.out[start..end]
    }

    fn last(&self) -> &[u8] {
        self.keys.last().map_or(b"", |range| self.key(*range))
    }

    #[cold]
    fn segment(&self) -> Segment {
        Segment::Key(unquoted(self.last()))
    }

    fn refuse_duplicates(&mut self) -> Result<(), Refusal> {
        if self.is_sorted {
            return Ok(());
        }
        let mut keys = std::mem::take(&mut self.keys);
        keys.sort_unstable_by(|one, other| self.key(*one).cmp(self.key(*other)));
        match keys.windows(2).find(|pair| self.key(pair[0]) == self.key(pair[1])) {
            Some(pair) => Err(Refusal::new(ValueFault::DuplicateKey(unquoted(self.key(pair[0]))))),
            None => Ok(()),
        }
    }
}

/// A JSON string as its text, cut for people.
fn unquoted(json: &[u8]) -> String {
    let text = serde_json::from_slice::<String>(json).unwrap_or_default();
    cut_text(&text, PATH_KEY_BYTES_MAX).into_owned()
}

impl<const TEXT: bool, const PROVE: bool> ser::SerializeMap for Entries<'_, TEXT, PROVE> {
    type Ok = Mark;
    type Error = Refusal;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Refusal> {
        if !self.keys.is_empty() {
            self.writer.put(",");
        }
        let start = self.writer.out.len();
        key.serialize(KeyWriter::new(&mut self.writer.out))?;
        let range = (start, self.writer.out.len());
        if self.key(range)[1..].starts_with(RESERVED_KEYS.as_bytes()) {
            return Err(Refusal::new(ValueFault::ReservedKey(unquoted(self.key(range)))));
        }
        self.is_sorted &= self.keys.is_empty() || self.last() < self.key(range);
        self.keys.push(range);
        self.writer.put(":");
        self.writer.room()
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refusal> {
        let mark = value.serialize(&mut *self.writer).map_err(|refusal| refusal.inside(self.segment()))?;
        if PROVE {
            self.hash = self.hash.wrapping_add(mix(xxh3_64(self.last()), mark.hash));
        }
        Ok(())
    }

    fn end(mut self) -> Result<Mark, Refusal> {
        let n = self.keys.len() as u64;
        let first = self.keys.first().map(|(start, _)| *start);
        self.refuse_duplicates()?;
        if let Some(first) = first.filter(|_| !TEXT) {
            self.writer.out.truncate(first);
        }
        self.writer.close("}", None);
        Ok(Mark::of(30, mix(n, self.hash)))
    }
}
