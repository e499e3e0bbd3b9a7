//! The check value of each batch, chained through the journal.
//!
//! The last event of a batch carries a [`Link`]: a hash over the link before it and everything that the
//! batch's rows hold. So no event can be changed, lost, added or moved without the check of a file noticing,
//! and naming the batch in which it happened. It finds damage, not an attacker: XXH3 is no signature.
//!
//! A link stands in the journal's own row, so it costs no page of its own, and whoever deletes old events needs
//! to keep one thing: where the rest begins, and the link before it ([`Origin`]).
//! Facts, teams and blocks are overwritten and so cannot be chained: each row has its own check value, see
//! [`sums`](super::sums).

use atra_bus::{Committed, Seq};
use xxhash_rust::xxh3::Xxh3;

use crate::CommitTime;

/// The key of the [`Origin`] in the `meta` table; without it the chain begins with the journal.
pub(super) const ORIGIN_KEY: &str = "chain_origin";

/// A check value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Link([u8; 16]);

impl Link {
    /// What comes before the first batch, and after events that have no links.
    pub(super) const START: Self = Self([0; 16]);

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl std::fmt::Display for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// The check value of a batch of these rows after a batch with that one: what [`SqliteStore`](super::SqliteStore) writes,
/// for who wants to know what it costs.
#[must_use]
pub fn check_value(before: [u8; 16], rows: &[Committed], committed_at: Option<CommitTime>) -> [u8; 16] {
    let mut linking = Linking::after(Link(before));
    for row in rows {
        // A payload that is no JSON is refused before it comes here.
        linking.add(row, row.event.payload.json().unwrap_or_default());
    }
    linking.finish(committed_at).0
}

/// Where the chain begins: after this seq, and with this link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Origin {
    pub(super) seq: Seq,
    pub(super) link: Link,
}

impl Origin {
    /// Reads `<seq> <32 hexadecimal digits>`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (seq, link) = text.split_once(' ')?;
        let link = u128::from_str_radix(link, 16).ok().filter(|_| link.len() == 32)?;
        Some(Self { seq: Seq(seq.parse().ok()?), link: Link(link.to_be_bytes()) })
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.seq, self.link)
    }
}

/// The link of a batch in the making.
pub(super) struct Linking {
    hash: Xxh3,
    /// Kept between rows, so that it is allocated once.
    head: Vec<u8>,
}

impl Linking {
    pub(super) fn after(link: Link) -> Self {
        let mut hash = Xxh3::new();
        hash.update(&link.0);
        Self { hash, head: Vec::with_capacity(256) }
    }

    /// Adds a row. Lengths go before texts and a mark before what may be missing, so that no two rows look alike.
    /// Topic and source go in as texts, not as their numbers: the names table is covered too.
    pub(super) fn add(&mut self, row: &Committed, payload: &str) {
        let (event, head) = (&row.event, &mut self.head);
        head.clear();
        head.extend(row.seq.get().to_le_bytes());
        head.extend(event.id.as_bytes());
        head.extend(event.root.as_bytes());
        head.extend(event.time.millis().to_le_bytes());
        head.extend(event.version.to_le_bytes());
        head.extend(event.hops.to_le_bytes());
        for seq in [row.cause_seq, row.seen] {
            head.push(u8::from(seq.is_some()));
            head.extend(seq.map_or(0, Seq::get).to_le_bytes());
        }
        head.push(u8::from(event.cause.is_some()));
        if let Some(cause) = &event.cause {
            head.extend(cause.as_bytes());
        }
        for text in [event.topic.as_str(), event.source.as_str()] {
            head.extend((text.len() as u32).to_le_bytes());
            head.extend(text.as_bytes());
        }
        head.extend((payload.len() as u64).to_le_bytes());
        self.hash.update(head);
        self.hash.update(payload.as_bytes());
    }

    /// The link. Batches of older versions have no commit time, and one that is absent adds nothing.
    pub(super) fn finish(&mut self, committed_at: Option<CommitTime>) -> Link {
        if let Some(CommitTime { wall, clock }) = committed_at {
            self.hash.update(&wall.millis().to_le_bytes());
            self.hash.update(&clock.millis().to_le_bytes());
        }
        Link(self.hash.digest128().to_be_bytes())
    }
}
