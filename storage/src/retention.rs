//! What may be deleted from the journal, and what keeps the rest.
//!
//! The journal is deleted from its beginning only. How much goes is what is older than what is to be kept, but never an
//! event that a team has not taken yet: the team that is farthest behind pins everything after its cursor. What facts
//! still need below that (newest memory, dead letters, open effects) stays: see [`Store::prune`](crate::Store::prune).

use std::{fmt, str::FromStr, time::Duration};

use atra_bus::{EventId, Seq};
use serde::{Deserialize, Serialize};

use crate::{Read, StoreError, TeamRow};

/// Events on it are never deleted: they tell what was in force, and there is one for each start of a team.
pub(crate) const KEPT_TOPIC: &str = "sys.team.started";

/// Characters of an event id as text.
const ID_CHARS: usize = 36;

/// The event that a fact's key begins with, if it does.
pub(crate) fn event_of(key: &str) -> Option<EventId> {
    key.get(..ID_CHARS)?.parse().ok()
}

/// How much of the journal is kept. Of two wishes both hold; without any, all of it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Keep {
    /// What is at most so much older than the newest event, by the events' own times.
    pub span: Option<Duration>,
    /// The newest so many events.
    pub events: Option<u64>,
}

impl Keep {
    /// Whether something may go.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.span.is_some() || self.events.is_some()
    }
}

/// A span of time as people write it: `30d`, `12h`, `90m`, `45s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

/// A text that says no span of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no span of time: write a whole number and s, m, h or d, such as 30d")]
pub struct NoSpan(pub String);

/// Units of a [`Span`] and their seconds, largest first.
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

impl FromStr for Span {
    type Err = NoSpan;

    fn from_str(text: &str) -> Result<Self, NoSpan> {
        let no = || NoSpan(text.to_owned());
        let (_, seconds) = UNITS.into_iter().find(|(unit, _)| text.ends_with(*unit)).ok_or_else(no)?;
        let n: u64 = text[..text.len() - 1].parse().map_err(|_| no())?;
        let span = n.checked_mul(seconds).filter(|span| *span > 0).ok_or_else(no)?;
        Ok(Self(Duration::from_secs(span)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (unit, size) = UNITS.into_iter().find(|(_, size)| seconds.is_multiple_of(*size)).unwrap_or(('s', 1));
        write!(f, "{}{unit}", seconds / size)
    }
}

impl Serialize for Span {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What pruning would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PrunePlan {
    /// The last seq that was pruned before.
    pub floor: Seq,
    /// Events up to here go, if nobody needs them.
    pub upto: Seq,
    /// How far it would go if no team pinned what it has not taken.
    pub wanted: Seq,
    /// The team that is farthest behind, when that is what stops it.
    pub pinned_by: Option<TeamRow>,
    /// The last seq of the journal.
    pub last: Seq,
}

impl PrunePlan {
    /// Whether there is nothing to delete.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.upto <= self.floor
    }
}

/// Finds out what may go.
///
/// # Cancel safety
/// Reads only.
///
/// # Errors
/// Those of reading.
pub async fn plan_prune(read: &dyn Read, keep: Keep) -> Result<PrunePlan, StoreError> {
    let (floor, last) = (read.floor().await?, read.last_seq().await?);
    let mut wanted = if keep.is_limited() { last } else { floor };
    if let Some(n) = keep.events {
        wanted = wanted.min(Seq(last.get().saturating_sub(n)));
    }
    if let Some(span) = keep.span {
        wanted = wanted.min(read.last_older_than(span).await?);
    }
    let wanted = wanted.max(floor);
    let slowest = read.teams().await?.into_iter().min_by_key(|team| team.cursor);
    let pinned_by = slowest.filter(|team| team.cursor < wanted);
    let upto = pinned_by.as_ref().map_or(wanted, |team| team.cursor.max(floor));
    Ok(PrunePlan { floor, upto, wanted, pinned_by, last })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_whole_numbers_with_a_unit() {
        let span = |text: &str| text.parse::<Span>();
        for (text, seconds) in [("30d", 30 * 86_400), ("90m", 5_400), ("7s", 7), ("36h", 36 * 3_600)] {
            assert_eq!(span(text), Ok(Span(Duration::from_secs(seconds))));
            assert_eq!(span(text).map(|span| span.to_string()), Ok(text.to_owned()));
        }
        for bad in [
            "",
            "d",
            "30",
            "0d",
            "-1d",
            "1.5h",
            "30 d",
            "30x",
            "1dd",
            "99999999999999999999d",
            "9999999999999999d",
            "é",
        ] {
            assert_eq!(span(bad), Err(NoSpan(bad.into())), "{bad}");
        }
    }
}
