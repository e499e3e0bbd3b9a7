//! Map keys as JSON text.

use std::fmt;

use serde::{
    Serialize,
    ser::{self, Serializer},
};

use super::{CALLS_MAX, Refusal, ValueFault, not_finite, push_string, shown};

/// Writes a map key as `serde_json` does: text as it is, numbers and bools in quotes.
pub(super) struct KeyWriter<'w> {
    out: &'w mut Vec<u8>,
    calls: u32,
}

impl<'w> KeyWriter<'w> {
    pub(super) fn new(out: &'w mut Vec<u8>) -> Self {
        Self { out, calls: 0 }
    }

    fn quoted(self, text: &str) -> Result<(), Refusal> {
        self.out.push(b'"');
        self.out.extend_from_slice(text.as_bytes());
        self.out.push(b'"');
        Ok(())
    }

    fn within<T: Serialize + ?Sized>(mut self, value: &T) -> Result<(), Refusal> {
        self.calls += 1;
        if self.calls > CALLS_MAX {
            return Err(Refusal::new(ValueFault::TooDeep));
        }
        value.serialize(self)
    }
}

fn no_key<T>(what: &'static str) -> Result<T, Refusal> {
    Err(Refusal::new(ValueFault::KeyNotText(what)))
}

macro_rules! number_keys {
    ($($method:ident $type:ty;)*) => {
        $(fn $method(self, value: $type) -> Result<(), Refusal> {
            self.quoted(itoa::Buffer::new().format(value))
        })*
    };
}

macro_rules! float_keys {
    ($($method:ident $type:ty;)*) => {
        $(fn $method(self, value: $type) -> Result<(), Refusal> {
            if !value.is_finite() {
                return Err(not_finite(f64::from(value)));
            }
            let text = serde_json::to_string(&value).map_err(ser::Error::custom)?;
            self.quoted(&text)
        })*
    };
}

impl Serializer for KeyWriter<'_> {
    type Ok = ();
    type Error = Refusal;
    type SerializeSeq = ser::Impossible<(), Refusal>;
    type SerializeTuple = ser::Impossible<(), Refusal>;
    type SerializeTupleStruct = ser::Impossible<(), Refusal>;
    type SerializeTupleVariant = ser::Impossible<(), Refusal>;
    type SerializeMap = ser::Impossible<(), Refusal>;
    type SerializeStruct = ser::Impossible<(), Refusal>;
    type SerializeStructVariant = ser::Impossible<(), Refusal>;

    number_keys! {
        serialize_i8 i8; serialize_i16 i16; serialize_i32 i32; serialize_i64 i64; serialize_i128 i128;
        serialize_u8 u8; serialize_u16 u16; serialize_u32 u32; serialize_u64 u64; serialize_u128 u128;
    }
    float_keys! { serialize_f32 f32; serialize_f64 f64; }

    fn serialize_bool(self, value: bool) -> Result<(), Refusal> {
        self.quoted(if value { "true" } else { "false" })
    }
    fn serialize_char(self, value: char) -> Result<(), Refusal> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }
    fn serialize_str(self, value: &str) -> Result<(), Refusal> {
        push_string(self.out, value);
        Ok(())
    }
    fn serialize_bytes(self, _: &[u8]) -> Result<(), Refusal> {
        no_key("bytes")
    }
    fn serialize_none(self) -> Result<(), Refusal> {
        no_key("None")
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Refusal> {
        self.within(value)
    }
    fn serialize_unit(self) -> Result<(), Refusal> {
        no_key("()")
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Refusal> {
        no_key("a unit struct")
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Refusal> {
        self.serialize_str(variant)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Refusal> {
        self.within(value)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Refusal> {
        no_key("a variant with content")
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Refusal> {
        no_key("a sequence")
    }
    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Refusal> {
        no_key("a tuple")
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, Refusal> {
        no_key("a tuple struct")
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Refusal> {
        no_key("a variant with content")
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Refusal> {
        no_key("a map")
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, Refusal> {
        no_key("a struct")
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Refusal> {
        no_key("a variant with content")
    }
    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<(), Refusal> {
        self.serialize_str(&shown(value)?)
    }
}
