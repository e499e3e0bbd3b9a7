//! Events as a person and as a program read them, and how a command names one: by seq or id.

use std::{fmt, str::FromStr};

use atra::{Committed, EventId, Filter, Name, Read, Seq, Timestamp, Topic, bus::Interest};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    error::CliError,
    output::{Output, SHORT_CHARS, Style, short},
    time::Moment,
};

/// Events read at once while one is looked for by its id.
const PAGE_EVENTS: usize = 4_096;
/// The shortest prefix of an id that is accepted. 4: a shorter one could be an incomplete seq.
const ID_CHARS_MIN: usize = 4;

/// An event as a command line names it: `1234`, `#1234`, or an id such as `6f1c2d3e-…`, or the beginning of an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EventRef {
    Seq(Seq),
    /// In lower case.
    Id(String),
}

impl FromStr for EventRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Ok(seq) = text.strip_prefix('#').unwrap_or(text).parse::<u64>() {
            return if (1..=i64::MAX as u64).contains(&seq) {
                Ok(Self::Seq(Seq(seq)))
            } else {
                Err("a seq is a whole number from 1 on".into())
            };
        }
        let is_id = text.len() >= ID_CHARS_MIN && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
        if is_id && text.contains(|c: char| c != '-') && !text.starts_with('-') {
            return Ok(Self::Id(text.to_ascii_lowercase()));
        }
        Err("an event is named by its seq, a whole number from 1 on, or by its id".into())
    }
}

impl fmt::Display for EventRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seq(seq) => write!(f, "{seq}"),
            Self::Id(id) => f.write_str(id),
        }
    }
}

impl EventRef {
    /// Finds the event. The search by id starts at the newest event and goes back, since the journal has no index of
    /// ids.
    ///
    /// # Errors
    /// [`CliError::NotFound`] if it is not there, or more than one id begins so.
    pub(crate) async fn find(&self, db: &dyn Read) -> Result<Committed, CliError> {
        let id = match self {
            Self::Seq(seq) => {
                return match db.event(*seq).await? {
                    Some(committed) => Ok(committed),
                    None => Err(not_there(*seq, db).await?),
                };
            }
            Self::Id(id) => id,
        };
        let (all, mut before, mut found) = (Interest::in_topics(vec![Filter::all()]), Seq(u64::MAX), None);
        while before > Seq(1) {
            let (page, after) = db.journal_before(before, &all, PAGE_EVENTS).await?;
            before = after.next();
            for committed in page.into_iter().rev().filter(|row| row.event.id.to_string().starts_with(id)) {
                // A whole id is one event's.
                if committed.event.id.to_string() == *id {
                    return Ok(committed);
                }
                if let Some(other) = found.replace(committed) {
                    return Err(CliError::NotFound {
                        what: format!("more than one event's id begins with {id}"),
                        next: format!("give more of it: one is {}", other.event.id),
                    });
                }
            }
        }
        found.ok_or_else(|| CliError::NotFound {
            what: format!("the journal has no event {id}"),
            next: "it may be ephemeral or pruned; see the newest with 'atra journal tail'".into(),
        })
    }

    /// The event's seq; a seq is taken as it is.
    pub(crate) async fn seq(&self, db: &dyn Read) -> Result<Seq, CliError> {
        match self {
            Self::Seq(seq) => Ok(*seq),
            Self::Id(_) => Ok(self.find(db).await?.seq),
        }
    }
}

/// An event as one JSON object.
#[derive(Serialize)]
pub(crate) struct EventJson<'a> {
    seq: Seq,
    id: EventId,
    topic: &'a Topic,
    version: u16,
    /// Milliseconds since 1970, UTC.
    time: Timestamp,
    /// When it was committed, where that is looked up and known.
    #[serde(skip_serializing_if = "Option::is_none")]
    committed: Option<Timestamp>,
    source: &'a Name,
    cause: Option<EventId>,
    cause_seq: Option<Seq>,
    root: EventId,
    hops: u16,
    /// For a team's own input: the team's cursor when it was taken.
    seen: Option<Seq>,
    payload: &'a RawValue,
}

impl<'a> EventJson<'a> {
    pub(crate) fn new(committed: &'a Committed) -> Result<Self, CliError> {
        let event = &committed.event;
        let bad = |cause: String| CliError::NotFound {
            what: format!("payload of event {} is no JSON: {cause}", committed.seq),
            next: "check the file with 'atra db check'".into(),
        };
        let json = event.payload.json().map_err(|error| bad(error.to_string()))?;
        Ok(Self {
            seq: committed.seq,
            id: event.id,
            topic: &event.topic,
            version: event.version,
            time: event.time,
            committed: None,
            source: &event.source,
            cause: event.cause,
            cause_seq: committed.cause_seq,
            root: event.root,
            hops: event.hops,
            seen: committed.seen,
            payload: serde_json::from_str(json).map_err(|error| bad(error.to_string()))?,
        })
    }
}

impl EventJson<'_> {
    /// The same with the time of its commit.
    pub(crate) fn committed_at(self, committed: Option<Timestamp>) -> Self {
        Self { committed, ..self }
    }
}

/// An event on one line: seq, time, topic, source, short payload.
pub(crate) fn line(committed: &Committed, out: &Output) -> String {
    let event = &committed.event;
    let payload = short(event.payload.json().unwrap_or("(no JSON)"), SHORT_CHARS);
    format!(
        "{} {}  {}  {}  {}",
        out.paint(Style::Bold, &format!("#{}", committed.seq)),
        out.paint(Style::Dim, &Moment(event.time.millis()).to_string()),
        out.paint(Style::Green, event.topic.as_str()),
        event.source,
        payload
    )
}

/// The error for a seq that the journal does not have, or not any more.
async fn not_there(seq: Seq, db: &dyn Read) -> Result<CliError, CliError> {
    let (floor, last) = (db.floor().await?, db.last_seq().await?);
    let what = if seq <= floor { format!("event {seq} was pruned") } else { format!("the journal has no event {seq}") };
    let next = match last {
        Seq(0) => "it is empty: run something with 'atra run' first".to_owned(),
        last => format!("its events are {} to {last}; see the newest with 'atra journal tail'", floor.next()),
    };
    Ok(CliError::NotFound { what, next })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_named_by_seq_or_id() {
        let of = |text: &str| text.parse::<EventRef>();
        assert_eq!((of("#7"), of("7")), (Ok(EventRef::Seq(Seq(7))), Ok(EventRef::Seq(Seq(7)))));
        let id = "6f1c2d3e-0000-8000-8000-00000000000a";
        assert_eq!(of(&id.to_uppercase()), Ok(EventRef::Id(id.into())));
        assert_eq!(of("6f1c"), Ok(EventRef::Id("6f1c".into())));
        assert!(["0", "-1", "x", "", "6f", "-6f1c", "6f1c!", "#x"].iter().all(|text| of(text).is_err()));
    }
}
