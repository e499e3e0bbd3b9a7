//! What may be deleted from the journal, and what keeps the rest.
//!
//! The journal is deleted from its beginning only. How much goes is what is older than what is to be kept, but never an
//! event that a team has not taken yet: the team that is farthest behind pins everything after its cursor. What facts
//! still need below that (newest memory, dead letters, open effects) stays: see [`Store::prune`](crate::Store::prune).

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use atra_bus::{EventId, Filter, Interest, Name, Seq, Timestamp, Topic};
use serde::{Deserialize, Serialize};

use crate::{FactKind, Read, StoreError, TeamRow, clock_at};

/// Events on it are never deleted: they record the configuration in force, and there are few: one at the first start of
/// a team in a process and one for each ordered restart.
pub(crate) const KEPT_TOPIC: &str = "sys.team.started";

/// Characters of an event id as text.
const ID_CHARS: usize = 36;

/// The event that a fact's key begins with, if it does.
pub(crate) fn event_of(key: &str) -> Option<EventId> {
    key.get(..ID_CHARS)?.parse().ok()
}

/// How much is kept. An event stays if `span` or `events` keeps it; without either, all of the journal stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Keep {
    /// Keeps events that were committed within this time. The events' own times do not matter, since publishers set
    /// them freely.
    pub span: Option<Duration>,
    /// The newest so many events.
    pub events: Option<u64>,
    /// Keeps idempotency keys that were written within this time; `None`: all.
    pub keys: Option<Duration>,
    /// Keeps results of calls to the outside that were written within this time; `None`: all.
    pub results: Option<Duration>,
}

impl Keep {
    /// Whether parts of the journal may be deleted.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.span.is_some() || self.events.is_some()
    }

    /// How long facts of a kind are kept that only a repeated call needs; `None`: for ever.
    #[must_use]
    pub fn of_facts(&self, kind: FactKind) -> Option<Duration> {
        match kind {
            FactKind::Key => self.keys,
            FactKind::Result => self.results,
            _ => None,
        }
    }
}

/// The kinds of facts that expire, in scan order.
pub(crate) const EXPIRING: [FactKind; 2] = [FactKind::Key, FactKind::Result];

/// One piece of a scan that deletes expired facts: see [`Store::expire`](crate::Store::expire).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// [`FactKind::Key`] or [`FactKind::Result`].
    pub kind: FactKind,
    /// Facts written before this time, by the commit clock, are deleted.
    pub before: Timestamp,
    /// The commit clock now. Facts of older versions have no time; they count as written at the first call.
    pub now: Timestamp,
    /// Only facts written at a smaller seq are deleted. For results: once the team has taken an event after the seq of
    /// the result, the input of the call is settled and the call is never repeated.
    pub settled: Seq,
    /// The end of the previous piece.
    pub from: Option<(Name, String)>,
    /// The number of facts to scan.
    pub facts_max: u64,
}

impl Expiry {
    /// The first piece for facts of a kind; `None`: they are kept for ever.
    pub(crate) fn first(kind: FactKind, keep: Keep, now: Timestamp, settled: Seq, facts_max: u64) -> Option<Self> {
        let before = before(now, keep.of_facts(kind)?);
        // Only a caller that repeats a publish needs its key.
        let settled = if kind == FactKind::Key { Seq(u64::MAX >> 1) } else { settled };
        Some(Self { kind, before, now, settled, from: None, facts_max })
    }
}

/// The outcome of one piece of such a scan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expired {
    /// The number of deleted facts.
    pub deleted: u64,
    /// The number of scanned facts that stay.
    pub kept: u64,
    /// Where the next piece begins; `None`: there are no more facts of the kind.
    pub next: Option<(Name, String)>,
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

/// The time so long before another.
pub(crate) fn before(now: Timestamp, span: Duration) -> Timestamp {
    Timestamp(now.millis().saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
}

/// The commit clock for a command: no runtime runs, so it is computed from the wall clock.
///
/// # Cancel safety
/// Reads only.
///
/// # Errors
/// Those of reading.
pub async fn clock_of(read: &dyn Read, wall: Timestamp) -> Result<Timestamp, StoreError> {
    let last = read.commit_time(read.last_seq().await?).await?;
    Ok(clock_at(last, wall))
}

/// Determines what may be deleted. `now` is from the commit clock.
///
/// # Cancel safety
/// Reads only.
///
/// # Errors
/// Those of reading.
pub async fn plan_prune(read: &dyn Read, keep: Keep, now: Timestamp) -> Result<PrunePlan, StoreError> {
    let (floor, last) = (read.floor().await?, read.last_seq().await?);
    let mut wanted = if keep.is_limited() { last } else { floor };
    if let Some(n) = keep.events {
        wanted = wanted.min(Seq(last.get().saturating_sub(n)));
    }
    if let Some(span) = keep.span {
        wanted = wanted.min(read.last_committed_before(before(now, span)).await?);
    }
    let wanted = wanted.max(floor);
    let slowest = read.teams().await?.into_iter().min_by_key(|team| team.cursor);
    let pinned_by = slowest.filter(|team| team.cursor < wanted);
    let upto = pinned_by.as_ref().map_or(wanted, |team| team.cursor.max(floor));
    Ok(PrunePlan { floor, upto, wanted, pinned_by, last })
}

/// What forgetting a team would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ForgetPlan {
    /// Its row.
    pub team: TeamRow,
    /// Its members, as its last start in the journal names them, without those that another team has now.
    pub agents: Vec<Name>,
    /// Facts that go: state, offsets, timers, attempt marks and marks of the runtime.
    pub facts: u64,
    /// The last seq that was pruned.
    pub floor: Seq,
    /// How far the journal can be pruned now: the smallest cursor there is.
    pub pinned: Seq,
    /// How far it could be pruned without the team.
    pub freed: Seq,
    /// The last seq of the journal.
    pub last: Seq,
}

impl ForgetPlan {
    /// Whose facts go.
    pub fn owners(&self) -> impl Iterator<Item = &Name> {
        // An agent may be called like its team.
        std::iter::once(&self.team.team).chain(self.agents.iter().filter(|agent| **agent != self.team.team))
    }
}

/// What a team goes on with after a stop.
const FORGOTTEN: [FactKind; 5] =
    [FactKind::State, FactKind::Offset, FactKind::Timer, FactKind::Attempt, FactKind::Meta];
/// Starts of teams that are looked back on for members. 65,536: beyond that a team counts as one without any.
const STARTS_MAX: usize = 1 << 16;

/// Finds out what forgetting a team would do. What stays: what it published and wrote to memory, its dead letters, and
/// the recorded results of its calls to the outside, which are not to be made again.
///
/// # Cancel safety
/// Reads only.
///
/// # Errors
/// [`StoreError::UnknownTeam`], and those of reading.
pub async fn plan_forget(read: &dyn Read, team: &Name) -> Result<ForgetPlan, StoreError> {
    let rows = read.teams().await?;
    let (floor, last) = (read.floor().await?, read.last_seq().await?);
    let row = rows.iter().find(|row| row.team == *team).cloned();
    let row = row.ok_or_else(|| StoreError::UnknownTeam(team.clone()))?;
    let others = rows.iter().filter(|row| row.team != *team);
    let freed = others.clone().map(|row| row.cursor).min().unwrap_or(last);
    let mut members = members(read, &rows).await?;
    let mut agents = members.remove(team).unwrap_or_default();
    agents.retain(|agent| !members.values().flatten().any(|other| other == agent));
    let mut plan = ForgetPlan { pinned: row.cursor.min(freed), team: row, agents, facts: 0, floor, freed, last };
    let owners: Vec<Name> = plan.owners().cloned().collect();
    for owner in &owners {
        for kind in FORGOTTEN {
            plan.facts += read.count_facts(kind, Some(owner)).await?;
        }
    }
    Ok(plan)
}

/// The members of each team, from its newest start in the journal.
async fn members(read: &dyn Read, rows: &[TeamRow]) -> Result<BTreeMap<Name, Vec<Name>>, StoreError> {
    let starts = Interest::in_topics(vec![Filter::from(Topic::literal(KEPT_TOPIC))]);
    let mut limit = 64;
    loop {
        let events = read.journal_tail(&starts, limit).await?;
        let mut members = BTreeMap::new();
        for started in events.iter().rev().filter_map(|committed| committed.event.payload.to_value().ok()) {
            let name = |value: &serde_json::Value| Name::new(value.as_str()?).ok();
            let agents = started["agents"].as_array().into_iter().flatten().filter_map(name);
            if let Some(team) = name(&started["team"]) {
                members.entry(team).or_insert_with(|| agents.collect());
            }
        }
        if events.len() < limit || limit >= STARTS_MAX || rows.iter().all(|row| members.contains_key(&row.team)) {
            return Ok(members);
        }
        limit *= 4;
    }
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
