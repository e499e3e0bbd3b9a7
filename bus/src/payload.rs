//! The content of an event: JSON text that was checked when the value was accepted, and what was decoded from it.
//!
//! Every stored value goes through this module: [`encode`](crate::encode) encodes it and refuses a value that does not
//! decode unchanged. Readers get the decoded value, both before and after a restart. There are two forms:
//!
//! - text, and the values that readers decoded from it, one per Rust type. What was published is dropped;
//! - a value of a type that promises to decode as an equal value ([`EventType::EXACT`]): readers of that type share the
//!   value itself, and the text is made on request.
//!
//! A refused value is also a payload, without content: code that accepts payloads calls [`Payload::check`].

use std::{
    any::{Any, TypeId},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    ERROR_BYTES_MAX, EventType, cut_text,
    encode::{Refusal, ValueFault, mark_of, text_and_mark_of, text_of},
    json_text,
};

/// Why a value was refused, or a payload could not be decoded.
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
    /// A part of the value would not decode unchanged.
    #[error("{type_name} cannot be stored: {path} {fault}")]
    Value {
        /// The Rust type that was given.
        type_name: &'static str,
        /// The place, as in `$.levels[3].price`.
        path: String,
        /// What is wrong there.
        fault: ValueFault,
    },
    /// The value has a JSON text, but its type does not decode it.
    #[error("{type_name} cannot be stored: its own JSON text does not decode as one: {cause}")]
    NotReadBack {
        /// The Rust type that was given.
        type_name: &'static str,
        /// What the decoder said.
        cause: String,
    },
    /// The value's JSON text decodes as another value.
    #[error("{type_name} cannot be stored: its JSON text decodes as another value")]
    Changed {
        /// The Rust type that was given.
        type_name: &'static str,
    },
}

impl PayloadError {
    fn value<T: ?Sized>(refusal: Refusal) -> Self {
        let (path, fault) = refusal.into_parts();
        Self::Value { type_name: std::any::type_name::<T>(), path, fault }
    }

    fn shape<T>(error: &serde_json::Error) -> Self {
        Self::Shape { type_name: std::any::type_name::<T>(), cause: cause(error) }
    }
}

fn cause(error: &serde_json::Error) -> String {
    cut_text(&error.to_string(), ERROR_BYTES_MAX).into_owned()
}

/// Returns the JSON text of a value after these checks: floats are finite, integers and nesting can be decoded, no key
/// is duplicate.
///
/// # Errors
/// [`PayloadError::Value`] with the place.
///
/// # Examples
/// ```
/// use std::collections::BTreeMap;
/// let prices = BTreeMap::from([("bid", vec![1.5, f64::NAN])]);
/// let refused = atra_bus::encode(&prices).unwrap_err();
/// assert!(refused.to_string().contains("$.bid[1] is NaN"));
/// ```
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Arc<str>, PayloadError> {
    text_of(value).map(Arc::from).map_err(PayloadError::value::<T>)
}

/// Returns the JSON text of a value and the value decoded from it. Both values are checked to be equal, as far as the
/// serializer shows.
///
/// # Errors
/// As [`encode`], [`PayloadError::NotReadBack`] and [`PayloadError::Changed`].
pub fn round_trip<T: Serialize + DeserializeOwned>(value: &T) -> Result<(Arc<str>, T), PayloadError> {
    let type_name = std::any::type_name::<T>();
    let (text, mark) = text_and_mark_of(value).map_err(PayloadError::value::<T>)?;
    let decoded: T =
        serde_json::from_str(&text).map_err(|error| PayloadError::NotReadBack { type_name, cause: cause(&error) })?;
    // Its serializer now refuses a value that it accepted before.
    if mark_of(&decoded).map_err(PayloadError::value::<T>)? != mark {
        return Err(PayloadError::Changed { type_name });
    }
    Ok((text.into(), decoded))
}

// === what was decoded ===

/// A decoded value that contains a panic of its `Drop`, since the last holder may be a task of the runtime.
struct Held(Option<Box<dyn Any + Send + Sync>>);

impl Held {
    fn new<T: Any + Send + Sync>(value: T) -> Self {
        Self(Some(Box::new(value)))
    }

    fn get<T: 'static>(&self) -> Option<&T> {
        self.0.as_ref()?.downcast_ref()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop_contained(self.0.take());
    }
}

fn drop_contained<T>(value: T) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        tracing::error!("drop of a value panicked; the panic was contained");
        // Its own Drop could panic too.
        std::mem::forget(panic);
    }
}

/// The values decoded for readers, one per type, in a list that only grows: a read as one type does not affect other
/// types.
#[derive(Default)]
struct Decoded {
    first: OnceLock<Box<Node>>,
}

struct Node {
    of: TypeId,
    value: Held,
    next: OnceLock<Box<Node>>,
}

impl Decoded {
    fn with<T: Any + Send + Sync>(value: T) -> Self {
        Self { first: OnceLock::from(Box::new(Node::new(value))) }
    }

    /// The value as a `T`, made of `json` once.
    fn get<T: DeserializeOwned + Send + Sync + 'static>(&self, json: &str) -> Result<&T, PayloadError> {
        let mut at = &self.first;
        while let Some(node) = at.get() {
            if node.of == TypeId::of::<T>() {
                break;
            }
            at = &node.next;
        }
        if at.get().is_none() {
            let value: T = serde_json::from_str(json).map_err(|error| PayloadError::shape::<T>(&error))?;
            let mut node = Box::new(Node::new(value));
            // Other readers may add values in the meantime: then this one is appended, unless one of them has the same
            // type.
            while let Err(back) = at.set(node) {
                let Some(other) = at.get() else { unreachable!("it was full") };
                if other.of == TypeId::of::<T>() {
                    break;
                }
                (node, at) = (back, &other.next);
            }
        }
        match at.get().and_then(|node| node.value.get()) {
            Some(value) => Ok(value),
            None => unreachable!("the node is of this type"),
        }
    }
}

impl Node {
    fn new<T: Any + Send + Sync>(value: T) -> Self {
        Self { of: TypeId::of::<T>(), value: Held::new(value), next: OnceLock::new() }
    }
}

// === the payload ===

struct Text {
    json: Arc<str>,
    decoded: Decoded,
}

/// A value of a type that promises to decode as an equal value.
trait Content: Send + Sync {
    fn value(&self) -> &(dyn Any + Send + Sync);
    fn encode(&self) -> Result<Arc<str>, PayloadError>;
}

struct Exact<T>(Option<T>);

impl<T: Serialize + Send + Sync + 'static> Content for Exact<T> {
    fn value(&self) -> &(dyn Any + Send + Sync) {
        match &self.0 {
            Some(value) => value,
            None => unreachable!("it is taken when it is dropped"),
        }
    }
    fn encode(&self) -> Result<Arc<str>, PayloadError> {
        self.0.as_ref().map_or_else(|| unreachable!("it is taken when it is dropped"), encode)
    }
}

impl<T> Drop for Exact<T> {
    fn drop(&mut self) {
        drop_contained(self.0.take());
    }
}

struct Shared<C: ?Sized> {
    json: OnceLock<Result<Arc<str>, PayloadError>>,
    decoded: Decoded,
    content: C,
}

#[derive(Clone)]
enum Repr {
    Text(Arc<Text>),
    Exact(Arc<Shared<dyn Content>>),
    Refused(Arc<PayloadError>),
}

/// The content of an event. Cheap to clone; immutable.
#[derive(Clone)]
pub struct Payload(Repr);

impl Payload {
    /// A payload of the value's JSON text. A value that cannot be stored gives a refused payload: see [`Payload::check`].
    pub fn typed<T: Serialize>(value: T) -> Self {
        match encode(&value) {
            Ok(json) => Self::from_journal(json),
            Err(error) => Self::refused(error),
        }
    }

    /// A payload of an event type's value: readers of that type, now and after a restart, get the value decoded from
    /// its text. Both values are checked to be equal, as far as the serializer shows.
    pub fn of_event<T: EventType>(value: T) -> Self {
        match T::EXACT {
            Some(same) => Self::exact(value, same),
            None => match round_trip(&value) {
                Ok((json, decoded)) => Self(Repr::Text(Arc::new(Text { json, decoded: Decoded::with(decoded) }))),
                Err(error) => Self::refused(error),
            },
        }
    }

    /// A payload of JSON text from outside, which is checked.
    ///
    /// # Errors
    /// [`PayloadError::Value`] when it is not JSON, or is JSON that could not be read back.
    pub fn from_json(json: impl AsRef<str>) -> Result<Self, PayloadError> {
        let refused = |refusal: Refusal| {
            let (path, fault) = refusal.into_parts();
            PayloadError::Value { type_name: "JSON text", path, fault }
        };
        json_text::check(json.as_ref(), 0).map_err(refused)?;
        Ok(Self::from_journal(json.as_ref().trim().into()))
    }

    /// A payload of JSON text that was accepted before: the journal's. Not checked again, since text from an older
    /// build must stay readable.
    #[must_use]
    pub fn from_journal(json: Arc<str>) -> Self {
        Self(Repr::Text(Arc::new(Text { json, decoded: Decoded::default() })))
    }

    fn refused(error: PayloadError) -> Self {
        Self(Repr::Refused(Arc::new(error)))
    }

    fn exact<T: EventType>(value: T, same: fn(&T, &T) -> bool) -> Self {
        if cfg!(debug_assertions) {
            // The promise, kept in tests and simulations; a release build takes it as given.
            match round_trip(&value) {
                Ok((_, decoded)) if same(&value, &decoded) => {}
                Ok(_) => return Self::refused(PayloadError::Changed { type_name: std::any::type_name::<T>() }),
                Err(error) => return Self::refused(error),
            }
        }
        let json = OnceLock::new();
        // A journalled event needs its text anyway and is checked with it; a passing event is never read from a store.
        if T::DURABLE {
            match encode(&value) {
                Ok(text) => _ = json.set(Ok(text)),
                Err(error) => return Self::refused(error),
            }
        }
        let content = Exact(Some(value));
        Self(Repr::Exact(Arc::new(Shared { json, decoded: Decoded::default(), content })))
    }

    /// Checks that there is content, and returns the size of its text (without a text yet, about the size in memory).
    /// Code that accepts a payload calls this first.
    ///
    /// # Errors
    /// Why the value was refused.
    pub fn check(&self) -> Result<usize, PayloadError> {
        match &self.0 {
            Repr::Text(text) => Ok(text.json.len()),
            Repr::Exact(shared) => match shared.json.get() {
                Some(json) => json.as_ref().map(|json| json.len()).map_err(PayloadError::clone),
                None => Ok(size_of_val(shared.content.value())),
            },
            Repr::Refused(error) => Err(PayloadError::clone(error)),
        }
    }

    /// The JSON text.
    ///
    /// # Errors
    /// Why the value was refused.
    pub fn json(&self) -> Result<&str, PayloadError> {
        self.shared_json().map(|text| &**text)
    }

    /// The JSON text as it is shared, to keep it beyond the payload's life without a copy.
    ///
    /// # Errors
    /// As [`Payload::json`].
    pub fn shared_json(&self) -> Result<&Arc<str>, PayloadError> {
        match &self.0 {
            Repr::Text(text) => Ok(&text.json),
            Repr::Exact(shared) => {
                shared.json.get_or_init(|| shared.content.encode()).as_ref().map_err(PayloadError::clone)
            }
            Repr::Refused(error) => Err(PayloadError::clone(error)),
        }
    }

    /// Whether it is exactly `null`: as a memory value, the removal of its key.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.json().is_ok_and(|json| json == "null")
    }

    /// The value as a `T`: decoded once for each requested type, then shared. Requests of other readers, in any order,
    /// do not affect the result.
    ///
    /// # Errors
    /// [`PayloadError::Shape`] when the JSON is not a `T`, or why the value was refused.
    pub fn get<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Result<&T, PayloadError> {
        match &self.0 {
            Repr::Text(text) => text.decoded.get(&text.json),
            Repr::Exact(shared) => match shared.content.value().downcast_ref() {
                Some(value) => Ok(value),
                None => shared.decoded.get(self.json()?),
            },
            Repr::Refused(error) => Err(PayloadError::clone(error)),
        }
    }

    /// The payload as a JSON value, for people and generic code.
    ///
    /// # Errors
    /// As [`Payload::json`].
    pub fn to_value(&self) -> Result<serde_json::Value, PayloadError> {
        serde_json::from_str(self.json()?).map_err(|error| PayloadError::shape::<serde_json::Value>(&error))
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.json() {
            Ok(json) => f.write_str(json),
            Err(error) => write!(f, "({error})"),
        }
    }
}
