//! Event ids: derived, never drawn.
//!
//! An id is XXH3-128 over (publisher, id of the handled event, place among what that turn published), or
//! over (source, offset) for what a source produced. So it depends on neither seq, step, clock nor
//! placement, and a repeated turn makes the same ids. Printed as a UUID of version 8 (RFC 9562).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xxhash_rust::xxh3::xxh3_128;

use crate::Name;

/// The identity of an event, 128 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(uuid::Uuid);

impl EventId {
    /// The id of the `order`-th event that `publisher` published while it handled `cause`.
    #[must_use]
    pub fn derive(publisher: &Name, cause: EventId, order: u32) -> Self {
        // A fixed buffer: names are bounded, and this runs once per event.
        let mut bytes = [0_u8; crate::name::NAME_BYTES_MAX + 20];
        let n = publisher.as_str().len();
        bytes[..16].copy_from_slice(cause.0.as_bytes());
        bytes[16..20].copy_from_slice(&order.to_le_bytes());
        bytes[20..20 + n].copy_from_slice(publisher.as_str().as_bytes());
        Self::from_hash(xxh3_128(&bytes[..20 + n]))
    }

    /// The id that belongs to a text: a source's offset, an idempotency key, a timer and its due time.
    #[must_use]
    pub fn of(owner: &Name, text: &str) -> Self {
        Self::of_all(owner, &[text])
    }

    /// The id that belongs to several texts: as [`EventId::of`] of them with a zero between two.
    #[must_use]
    pub fn of_all(owner: &Name, texts: &[&str]) -> Self {
        let mut bytes = Vec::with_capacity(texts.iter().fold(owner.as_str().len(), |n, text| n + 1 + text.len()));
        bytes.extend_from_slice(owner.as_str().as_bytes());
        for text in texts {
            bytes.push(0);
            bytes.extend_from_slice(text.as_bytes());
        }
        Self::from_hash(xxh3_128(&bytes))
    }

    /// An id from random bits, for callers outside any turn; the bits come from [`Env`](crate::Env).
    #[must_use]
    pub fn from_bits(bits: u128) -> Self {
        Self::from_hash(bits)
    }

    fn from_hash(bits: u128) -> Self {
        Self(uuid::Uuid::new_v8(bits.to_be_bytes()))
    }

    /// The 16 bytes that are stored.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Reads stored bytes back; `None` when there are not 16.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        uuid::Uuid::from_slice(bytes).ok().map(Self)
    }

    /// 64 bits of the id that are spread evenly: a seed for what a turn draws.
    #[must_use]
    pub fn seed(&self) -> u64 {
        let bits = self.0.as_u128();
        (bits >> 64) as u64 ^ bits as u64
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventId({})", self.0)
    }
}
impl std::str::FromStr for EventId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        uuid::Uuid::parse_str(text).map(Self)
    }
}
impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}
impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_depends_on_publisher_cause_and_order_and_nothing_else() {
        let a = Name::new("a").expect("a name");
        let root = EventId::of(&a, "1");
        assert_eq!(EventId::derive(&a, root, 0), EventId::derive(&a, root, 0));
        assert_ne!(EventId::derive(&a, root, 0), EventId::derive(&a, root, 1));
        assert_ne!(EventId::derive(&a, root, 0), EventId::derive(&Name::new("b").expect("a name"), root, 0));
        assert_ne!(root, EventId::of(&a, "2"));
        assert_eq!(EventId::of_all(&a, &["timer", "x"]), EventId::of(&a, "timer\0x"));
        // Stored ids must keep their meaning across builds.
        assert_eq!(EventId::from_slice(root.as_bytes()), Some(root));
        assert_eq!(root.to_string().parse::<EventId>().expect("an id"), root);
    }
}
