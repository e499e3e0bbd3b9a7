//! The content of an event: a typed value, its JSON text, or both, each made at most once.
//!
//! A value published in this process is handed to local subscribers as it is and is written as JSON only
//! if it is journalled. A value read back from the journal is decoded once and then shared.

use std::{
    any::{Any, TypeId},
    fmt,
    sync::{Arc, OnceLock},
};

use serde::{Serialize, de::DeserializeOwned};

/// Why a payload could not be encoded or decoded.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// The JSON does not have the shape that was asked for.
    #[error("payload is not a {type_name}: {cause}")]
    Shape {
        /// The Rust type that was asked for.
        type_name: &'static str,
        /// What the decoder said.
        cause: String,
    },
    /// The value cannot be written as JSON (a map with keys that are no strings, a failing serializer).
    #[error("value of type {type_name} cannot be encoded as JSON: {cause}")]
    Encode {
        /// The Rust type that was given.
        type_name: &'static str,
        /// What the encoder said.
        cause: String,
    },
}

trait Content: Send + Sync {
    fn value(&self) -> &(dyn Any + Send + Sync);
    fn encode(&self) -> Result<Arc<str>, PayloadError>;
}

struct Typed<T>(T);

impl<T: Serialize + Send + Sync + 'static> Content for Typed<T> {
    fn value(&self) -> &(dyn Any + Send + Sync) {
        &self.0
    }
    fn encode(&self) -> Result<Arc<str>, PayloadError> {
        serde_json::to_string(&self.0)
            .map(Arc::from)
            .map_err(|error| PayloadError::Encode { type_name: std::any::type_name::<T>(), cause: error.to_string() })
    }
}

type Decoded = (TypeId, Box<dyn Any + Send + Sync>);

struct Inner<C: ?Sized> {
    json: OnceLock<Result<Arc<str>, PayloadError>>,
    decoded: OnceLock<Decoded>,
    content: C,
}

#[derive(Clone)]
enum Repr {
    Typed(Arc<Inner<dyn Content>>),
    Stored(Arc<Inner<()>>),
}

/// The content of an event. Cheap to clone; immutable.
#[derive(Clone)]
pub struct Payload(Repr);

impl Payload {
    /// A payload from a value. Nothing is encoded yet.
    pub fn typed<T: Serialize + Send + Sync + 'static>(value: T) -> Self {
        Self(Repr::Typed(Arc::new(Inner { json: OnceLock::new(), decoded: OnceLock::new(), content: Typed(value) })))
    }

    /// A payload from JSON text that was encoded before (the journal's).
    #[must_use]
    pub fn from_json(json: Arc<str>) -> Self {
        let inner = Inner { json: OnceLock::from(Ok(json)), decoded: OnceLock::new(), content: () };
        Self(Repr::Stored(Arc::new(inner)))
    }

    /// The JSON text; encoded at the first call, shared afterwards.
    ///
    /// # Errors
    /// [`PayloadError::Encode`] when the value has no JSON form.
    pub fn json(&self) -> Result<&str, PayloadError> {
        self.shared_json().map(|text| &**text)
    }

    /// The JSON text as it is shared, for who keeps it beyond the payload's life without a copy.
    ///
    /// # Errors
    /// As [`Payload::json`].
    pub fn shared_json(&self) -> Result<&Arc<str>, PayloadError> {
        let made = match &self.0 {
            Repr::Typed(inner) => inner.json.get_or_init(|| inner.content.encode()),
            Repr::Stored(inner) => inner.json.get_or_init(|| Ok("null".into())),
        };
        match made {
            Ok(text) => Ok(text),
            Err(error) => Err(error.clone()),
        }
    }

    /// The value as a `T`: the published one itself, or decoded once from JSON and then shared.
    ///
    /// # Errors
    /// [`PayloadError::Shape`] when the JSON is not a `T`, or when this payload was already decoded as
    /// another type (a topic has one Rust type per process).
    pub fn get<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Result<&T, PayloadError> {
        let decoded = match &self.0 {
            Repr::Typed(inner) => {
                if let Some(value) = inner.content.value().downcast_ref::<T>() {
                    return Ok(value);
                }
                &inner.decoded
            }
            Repr::Stored(inner) => &inner.decoded,
        };
        let shape = |cause: String| PayloadError::Shape { type_name: std::any::type_name::<T>(), cause };
        if decoded.get().is_none() {
            let value: T = serde_json::from_str(self.json()?).map_err(|error| shape(error.to_string()))?;
            // Losing a race is fine: both decoded the same text.
            let _ = decoded.set((TypeId::of::<T>(), Box::new(value)));
        }
        let held = decoded.get().and_then(|(_, value)| value.downcast_ref::<T>());
        held.ok_or_else(|| shape("it was decoded as another type before".into()))
    }

    /// The payload as a JSON value, for people and generic code.
    ///
    /// # Errors
    /// As [`Payload::json`].
    pub fn to_value(&self) -> Result<serde_json::Value, PayloadError> {
        serde_json::from_str(self.json()?)
            .map_err(|error| PayloadError::Shape { type_name: "JSON value", cause: error.to_string() })
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.json().unwrap_or("(not JSON)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typed_value_is_shared_and_a_stored_one_is_decoded_once() {
        let typed = Payload::typed(vec![1.5_f64, 0.1]);
        assert_eq!(typed.get::<Vec<f64>>().expect("itself"), &[1.5, 0.1]);
        assert_eq!(typed.json().expect("JSON"), "[1.5,0.1]");
        let stored = Payload::from_json("[1.5,0.1]".into());
        let first = stored.get::<Vec<f64>>().expect("decoded") as *const _;
        assert_eq!(first, stored.get::<Vec<f64>>().expect("decoded") as *const _);
        assert!(stored.get::<String>().is_err());
    }

    /// Killed runs once differed from whole ones because the default float parser is not exact.
    #[test]
    fn floats_survive_a_round_trip_bit_for_bit() {
        let mut bits = 0x3ff0_0000_0000_0001_u64;
        for _ in 0..10_000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = f64::from_bits(bits);
            if value.is_finite() {
                let text = serde_json::to_string(&value).expect("JSON");
                let back: f64 = serde_json::from_str(&text).expect("a number");
                assert_eq!(back.to_bits(), value.to_bits(), "serde_json must be built with float_roundtrip");
            }
        }
    }
}
