//! Events as a person and as a program read them.

use atra::{Committed, EventId, Name, Read, Seq, Timestamp, Topic};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    error::CliError,
    output::{Output, SHORT_CHARS, Style, short},
    time::Moment,
};

/// An event as one JSON object.
#[derive(Serialize)]
pub(crate) struct EventJson<'a> {
    seq: Seq,
    id: EventId,
    topic: &'a Topic,
    version: u16,
    /// Milliseconds since 1970, UTC.
    time: Timestamp,
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
pub(crate) async fn not_there(seq: Seq, db: &dyn Read) -> Result<CliError, CliError> {
    let (floor, last) = (db.floor().await?, db.last_seq().await?);
    let what = if seq <= floor { format!("event {seq} was pruned") } else { format!("the journal has no event {seq}") };
    let next = match last {
        Seq(0) => "it is empty: run something with 'atra run' first".to_owned(),
        last => format!("its events are {} to {last}; see the newest with 'atra journal tail'", floor.next()),
    };
    Ok(CliError::NotFound { what, next })
}
