//! Pending timers and schedules of a team, ordered by (due, id, member).

use std::{collections::BTreeMap, sync::Arc};

use atra_bus::{Draft, Event, EventId, Name, Payload, Timestamp, Topic};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{AgentError, AgentSpec, Missed};

/// The stored form of a timer. A schedule's topic and payload come from its spec.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    due: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    event: Option<StoredDraft>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredDraft {
    topic: Topic,
    version: u16,
    durable: bool,
    payload: Box<RawValue>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    due: Timestamp,
    id: Arc<str>,
    member: usize,
}

#[derive(Debug)]
enum What {
    Once(Draft),
    /// The place of the schedule in the member's spec.
    Recurring(usize),
}

/// A timer that fell due: an own input for the member that set it.
#[derive(Debug)]
pub(crate) struct Due {
    pub(crate) member: usize,
    pub(crate) event: Arc<Event>,
}

const SCHEDULE_PREFIX: &str = "schedule.";

/// The timers of a team, and which of them changed since the last step.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    specs: Vec<Arc<AgentSpec>>,
    pending: BTreeMap<Place, What>,
    /// (member, id) → due: the index for cancelling, and the number per member.
    known: BTreeMap<(usize, Arc<str>), Timestamp>,
    /// Of schedules that fell due before: (member, place in its spec).
    topics: FxHashMap<(usize, usize), Topic>,
    /// Whether every schedule has a due time: they get one at the clock's first reading.
    scheduled: bool,
    changed: BTreeMap<(usize, Arc<str>), Option<Arc<str>>>,
}

impl Timers {
    pub(crate) fn new(specs: Vec<Arc<AgentSpec>>) -> Self {
        Self { specs, ..Self::default() }
    }

    /// Restores a stored timer of a member. A schedule that is no longer in the spec is dropped.
    pub(crate) fn restore(&mut self, member: usize, id: &str, json: &str) -> Result<(), AgentError> {
        let stored: Stored = serde_json::from_str(json)?;
        let what = match (stored.event, id.strip_prefix(SCHEDULE_PREFIX)) {
            (Some(draft), _) => What::Once(Draft {
                topic: draft.topic,
                version: draft.version,
                durable: draft.durable,
                time: None,
                payload: Payload::from_json(draft.payload.get().into()),
            }),
            (None, Some(name)) => {
                let place = self.specs[member].schedules.iter().position(|s| s.name.as_str() == name);
                let Some(place) = place else {
                    self.changed.insert((member, id.into()), None);
                    return Ok(());
                };
                What::Recurring(place)
            }
            (None, None) => return Err(AgentError::new(format!("stored timer {id:?} has no event"))),
        };
        self.insert(member, id.into(), stored.due, what);
        Ok(())
    }

    /// Timers pending of one member.
    pub(crate) fn count_of(&self, member: usize) -> usize {
        self.known.range((member, Arc::default())..(member + 1, Arc::default())).count()
    }

    pub(crate) fn set(&mut self, member: usize, id: &str, due: Timestamp, draft: Draft) -> Result<(), AgentError> {
        let id: Arc<str> = id.into();
        let stored = Stored {
            due,
            event: Some(StoredDraft {
                topic: draft.topic.clone(),
                version: draft.version,
                durable: draft.durable,
                payload: RawValue::from_string(draft.payload.json()?.into())?,
            }),
        };
        self.changed.insert((member, id.clone()), Some(serde_json::to_string(&stored)?.into()));
        self.insert(member, id, due, What::Once(draft));
        Ok(())
    }

    /// Cancels a timer that a turn set. Schedules are the spec's: they cannot be cancelled.
    pub(crate) fn cancel(&mut self, member: usize, id: &str) {
        if id.starts_with(SCHEDULE_PREFIX) {
            return;
        }
        let id: Arc<str> = id.into();
        if let Some(due) = self.known.remove(&(member, id.clone())) {
            self.pending.remove(&Place { due, id: id.clone(), member });
            self.changed.insert((member, id), None);
        }
    }

    /// When the next timer is due, if any.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.pending.first_key_value().map(|(place, _)| place.due)
    }

    /// Gives every new schedule its first time: the first multiple after `now`.
    pub(crate) fn schedule_from(&mut self, now: Timestamp) {
        if std::mem::replace(&mut self.scheduled, true) {
            return;
        }
        for member in 0..self.specs.len() {
            for place in 0..self.specs[member].schedules.len() {
                let schedule = &self.specs[member].schedules[place];
                let id: Arc<str> = format!("{SCHEDULE_PREFIX}{}", schedule.name).into();
                if !self.known.contains_key(&(member, id.clone())) {
                    let every = interval(schedule);
                    let due = Timestamp((now.0.div_euclid(every) + 1) * every);
                    self.plan(member, id, due, place);
                }
            }
        }
    }

    /// Takes the first timer that is due at or before `now`, as an event of its member.
    pub(crate) fn take_due(&mut self, now: Timestamp) -> Option<Due> {
        if self.pending.first_key_value()?.0.due > now {
            return None;
        }
        let (place, what) = self.pending.pop_first()?;
        let Place { mut due, id, member } = place;
        // The id comes from the time that is stored: a repeated try must make the same, whatever time it is now.
        let planned = due;
        let draft = match what {
            What::Once(draft) => {
                self.known.remove(&(member, id.clone()));
                self.changed.insert((member, id.clone()), None);
                draft
            }
            What::Recurring(at) => {
                let spec = &self.specs[member];
                let schedule = &spec.schedules[at];
                let every = interval(schedule);
                if schedule.missed == Missed::Last {
                    due = Timestamp(due.0.max(now.0.div_euclid(every) * every));
                }
                let topic = self.topics.entry((member, at));
                let topic = topic.or_insert_with(|| AgentSpec::schedule_topic(&spec.name, &schedule.name)).clone();
                let draft = Draft::new(topic, due);
                self.plan(member, id.clone(), Timestamp(due.0 + every), at);
                draft
            }
        };
        let name = &self.specs[member].name;
        let event_id = timer_event_id(name, &id, planned);
        let event = Arc::new(Event {
            id: event_id,
            topic: draft.topic,
            version: draft.version,
            durable: true,
            source: name.clone(),
            time: due,
            cause: None,
            root: event_id,
            hops: 0,
            payload: draft.payload,
        });
        Some(Due { member, event })
    }

    /// Whether an id is a schedule's.
    pub(crate) fn is_schedule(id: &str) -> bool {
        id.starts_with(SCHEDULE_PREFIX)
    }

    /// Takes the timer of a member that fell due as this recorded event, if it is pending.
    pub(crate) fn take_recorded(&mut self, member: usize, event: &Event) -> Option<Draft> {
        let name = &self.specs[member].name;
        let is_it = |place: &&Place| place.member == member && timer_event_id(name, &place.id, place.due) == event.id;
        let place = self.pending.keys().find(is_it)?.clone();
        let What::Once(draft) = self.pending.remove(&place)? else { return None };
        self.known.remove(&(member, place.id.clone()));
        self.changed.insert((member, place.id), None);
        Some(draft)
    }

    /// Whether anything changed since the last [`Timers::take_changed`].
    pub(crate) fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// What changed since the last call: (member, id, JSON or removal), sorted.
    pub(crate) fn take_changed(&mut self) -> BTreeMap<(usize, Arc<str>), Option<Arc<str>>> {
        std::mem::take(&mut self.changed)
    }

    fn plan(&mut self, member: usize, id: Arc<str>, due: Timestamp, at: usize) {
        // As `Stored` without an event is written.
        let json = ["{\"due\":", itoa::Buffer::new().format(due.0), "}"].concat();
        self.changed.insert((member, id.clone()), Some(json.into()));
        self.insert(member, id, due, What::Recurring(at));
    }

    fn insert(&mut self, member: usize, id: Arc<str>, due: Timestamp, what: What) {
        self.known.insert((member, id.clone()), due);
        self.pending.insert(Place { due, id, member }, what);
    }
}

/// The id of the event that a timer falls due as.
fn timer_event_id(agent: &Name, id: &str, planned: Timestamp) -> EventId {
    EventId::of_all(agent, &["timer", id, itoa::Buffer::new().format(planned.0)])
}

fn interval(schedule: &crate::Schedule) -> i64 {
    i64::try_from(schedule.every.as_millis()).unwrap_or(i64::MAX).max(1)
}
