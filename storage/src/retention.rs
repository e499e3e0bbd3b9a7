//! What may be deleted from the journal, and what keeps the rest.
//!
//! The journal is deleted from its beginning only. How much goes is what is older than what is to be kept, but never an
//! event that a team has not taken yet: the team that is farthest behind pins everything after its cursor. What facts
//! still need below that (newest memory, dead letters, open effects) stays: see [`Store::prune`](crate::Store::prune).

use std::{str::FromStr, time::Duration};

use atra_bus::{EventId, Seq};
use serde::Serialize;

use crate::{Read, StoreError, TeamRow};

/// Events on it are never deleted: they tell what was in force, and there is one for each start of a team.
pub(crate) const KEPT_TOPIC: &str = "sys.team.started";

/// Characters of an event id as text.
const ID_CHARS: usize = 36;

/// The event that a fact's key begins with, if it does.
pub(crate) fn event_of(key: &str) -> Option<EventId> {
    key.get(..ID_CHARS)?.parse().ok()
}

/// How much of the journal is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The newest so many events.
    Events(u64),
    /// What is at most so much older than the newest event, by the events' own times.
    Span(Duration),
}

/// A text that says no span of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no span of time: write a whole number and s, m, h or d, such as 30d")]
pub struct NoSpan(pub String);

impl FromStr for Keep {
    type Err = NoSpan;

    /// A span such as `30d`, `12h`, `90m` or `45s`.
    fn from_str(text: &str) -> Result<Self, NoSpan> {
        let no = || NoSpan(text.to_owned());
        let unit = text.chars().last().ok_or_else(no)?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return Err(no()),
        };
        let n: u64 = text[..text.len() - 1].parse().map_err(|_| no())?;
        let span = n.checked_mul(seconds).filter(|span| *span > 0).ok_or_else(no)?;
        Ok(Self::Span(Duration::from_secs(span)))
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
    let wanted = match keep {
        Keep::Events(n) => Seq(last.get().saturating_sub(n)),
        Keep::Span(span) => read.last_older_than(span).await?,
    };
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
        let span = |text: &str| text.parse::<Keep>();
        assert_eq!(span("30d"), Ok(Keep::Span(Duration::from_secs(30 * 86_400))));
        assert_eq!(span("90m"), Ok(Keep::Span(Duration::from_secs(5_400))));
        for bad in
            ["", "d", "30", "0d", "-1d", "1.5h", "30 d", "30x", "99999999999999999999d", "9999999999999999d", "é"]
        {
            assert_eq!(span(bad), Err(NoSpan(bad.into())), "{bad}");
        }
    }
}
