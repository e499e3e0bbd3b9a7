//! Which parts of a desk are halted, read from committed facts, whether or not a runtime has the file.
//!
//! Risk keeps the list of halts in memory under `risk.state`. A `risk.kill` or `risk.resume` that the desk has not
//! handled yet is in the journal after the desk's cursor; it stays there until a runtime runs.

use atra_bus::{EventType, Filter, Interest, Name, Seq, Timestamp};
use atra_storage::{FactKind, Read, StoreError};
use serde::Serialize;

use crate::{
    desk::TEAM,
    events::{Halt, HaltedBy, Kill, Resume, StateChanged},
    market::risk::RiskState,
};

/// Commands read at once; between two inputs there are seldom more than a few.
const WAITING_MAX: usize = 64;
/// The largest number of reads, so that the time does not depend on the journal's length.
const READS_MAX: usize = 16;

/// What a desk may do, and what is halted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Halted {
    /// The last state that risk recorded; active if there is none.
    pub state: RiskState,
    /// Everything that is halted, oldest first.
    pub halts: Vec<Halt>,
    /// Commands that the desk has not handled yet, oldest first.
    pub waiting: Vec<Waiting>,
}

/// A command that the desk has not handled yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// Its place in the journal.
    pub seq: Seq,
    /// Its time.
    pub time: Timestamp,
    /// `risk.kill` or `risk.resume`.
    pub topic: String,
    /// Who gave it.
    pub caller: String,
    /// Why.
    pub reason: String,
}

impl Halted {
    /// Reads it from committed data.
    ///
    /// # Cancel safety
    /// Reads only.
    ///
    /// # Errors
    /// What the reads say.
    pub async fn read(db: &dyn Read) -> Result<Self, StoreError> {
        let mut found = Self::default();
        // A literal that is a name.
        let Ok(risk) = Name::new("risk") else { return Ok(found) };
        if let Some(fact) = db.fact(FactKind::Memory, &risk, "risk.state").await?
            && let Some(said) = fact.value.and_then(|json| serde_json::from_str::<StateChanged>(&json).ok())
        {
            found.state = said.state;
            found.halts = match said.halts.is_empty() {
                false => said.halts,
                // An older build recorded no more; the newest write of a key is always in the journal.
                true => {
                    let since = db.event(fact.version).await?.map_or(0, |committed| committed.event.time.millis());
                    told_before(said, since)
                }
            };
        }
        let cursor = db.teams().await?.into_iter().find(|row| row.team.as_str() == TEAM).map(|row| row.cursor);
        let Some(mut after) = cursor else { return Ok(found) };
        after = after.max(db.floor().await?);
        let topics = [Kill::TOPIC, Resume::TOPIC];
        let interest = Interest::in_topics(topics.iter().map(Filter::exactly).collect());
        let last = db.last_seq().await?;
        for _ in 0..READS_MAX {
            if after >= last {
                break;
            }
            let (events, complete) = db.journal(after, last, &interest, WAITING_MAX).await?;
            found.waiting.extend(events.iter().map(|committed| {
                let event = &committed.event;
                let kill = event.get::<Kill>().map(|kill| kill.reason.clone());
                let reason = kill.or_else(|_| event.get::<Resume>().map(|resume| resume.reason.clone()));
                Waiting {
                    seq: committed.seq,
                    time: event.time,
                    topic: event.topic.to_string(),
                    caller: event.source.to_string(),
                    reason: reason.unwrap_or_default(),
                }
            }));
            if complete <= after {
                break;
            }
            after = complete;
        }
        Ok(found)
    }

    /// Whether nothing is halted and no command waits.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.halts.is_empty() && self.waiting.is_empty()
    }

    /// A line for each.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let halts = self.halts.iter().map(ToString::to_string);
        let waiting = self.waiting.iter().map(|waiting| {
            let Waiting { seq, topic, caller, reason, .. } = waiting;
            let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            format!("{topic} by {caller} is event {seq}; the desk takes it before its next candle{reason}")
        });
        halts.chain(waiting).collect()
    }
}

/// The halts in the state, without waiting commands.
fn told_before(said: StateChanged, since: i64) -> Vec<Halt> {
    let halt = |series, by| Halt { series, since, by, reason: String::new() };
    let by = match said.state {
        _ if said.killed => Some(HaltedBy::Caller("unknown".into())),
        RiskState::Active => None,
        RiskState::Reducing => Some(HaltedBy::DailyLossMax),
        RiskState::Halted => Some(HaltedBy::DrawdownMax),
    };
    let of_series = said.stopped.into_iter().map(|series| halt(Some(series), HaltedBy::SeriesDrawdownMax));
    by.map(|by| halt(None, by)).into_iter().chain(of_series).collect()
}
