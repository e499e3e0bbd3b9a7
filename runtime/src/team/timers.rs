//! Pending timers and schedules of a team.
//!
//! On an `events` clock all of them fall due by the team's clock, ordered by (due, id, member). On a `wall` clock a
//! timer of an agent fires when its delay has passed on the monotonic clock, independent of the wall clock; its stored
//! due time only identifies it and is its event's time. A schedule follows the current wall clock.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use atra_bus::{Draft, Event, EventId, Name, Payload, Timestamp, Topic, later};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::{AgentError, AgentSpec, Missed, Schedule};

/// Instants of fired or cancelled timers that are still kept, in case their step is not committed. 1,024: far more than
/// the steps in flight of most teams have. An instant that was dropped is computed again from the wall clock.
const RETIRED_MAX: usize = 1_024;
/// A due time that never comes: after the last multiple of a schedule's interval.
const NEVER: Timestamp = Timestamp::MAX;

/// The stored form of a timer. A schedule's topic and payload come from its spec.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    due: Timestamp,
    /// On a wall clock: the delay in milliseconds, and the wall time when it was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    set: Option<Timestamp>,
    /// Of a schedule: [`Repeats`].
    #[serde(default, skip_serializing_if = "is_zero")]
    again: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used: Option<Timestamp>,
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

/// Times of a schedule that repeat because the wall clock went back: the ids of their events must differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Repeats {
    /// How often it went back.
    again: u32,
    /// Times before this one have been used.
    used: Option<Timestamp>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    due: Timestamp,
    id: Arc<str>,
    member: usize,
}

/// When a timer on a wall clock fires, and which one.
type Ring = (Instant, Place);
/// A member and the id of its timer.
type Key = (usize, Arc<str>);

#[derive(Debug)]
enum What {
    Once(Draft),
    /// The place of the schedule in the member's spec.
    Recurring(usize),
}

/// Data of a pending timer besides its due time.
#[derive(Debug, Clone, Copy)]
struct Known {
    due: Timestamp,
    /// On a wall clock, of a timer that an agent set.
    rings_at: Option<Instant>,
    repeats: Repeats,
}

/// Both clocks of the machine at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) wall: Timestamp,
    pub(crate) at: Instant,
}

/// When the timers of a team fire. Shared by the incarnations of the team in one process, so that a restart of the team
/// does not depend on the wall clock.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rings(Arc<Mutex<BTreeMap<Key, Instant>>>);

impl Rings {
    fn with<T>(&self, change: impl FnOnce(&mut BTreeMap<Key, Instant>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Data that only a wall clock needs.
#[derive(Debug)]
struct Wall {
    rings: Rings,
    ringing: BTreeMap<Ring, Draft>,
    retired: VecDeque<Key>,
    /// The last reading: when this incarnation began, at first.
    last: Moment,
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
    /// Due times by the team's clock; on a wall clock only those of schedules.
    pending: BTreeMap<Place, What>,
    /// The index for cancelling, and the number per member.
    known: BTreeMap<Key, Known>,
    /// Of schedules that fell due before: (member, place in its spec).
    topics: FxHashMap<(usize, usize), Topic>,
    /// Whether every schedule has a due time: they get one at the clock's first reading.
    scheduled: bool,
    changed: BTreeMap<Key, Option<Arc<str>>>,
    /// The most missed times of one schedule that fire; older ones are skipped.
    missed_max: u64,
    /// Times that were left out so far.
    n_left_out: u64,
    wall: Option<Wall>,
}

impl Timers {
    /// Timers that fall due by the team's own clock.
    pub(crate) fn new(specs: Vec<Arc<AgentSpec>>, missed_max: u64) -> Self {
        Self { specs, missed_max: missed_max.max(1), ..Self::default() }
    }

    /// The same on a wall clock, as of now.
    pub(crate) fn on_wall(self, rings: Rings, now: Moment) -> Self {
        let wall = Wall { rings, ringing: BTreeMap::new(), retired: VecDeque::new(), last: now };
        Self { wall: Some(wall), ..self }
    }

    /// Restores a stored timer of a member. A schedule that is no longer in the spec is dropped.
    pub(crate) fn restore(&mut self, member: usize, id: &str, json: &str) -> Result<(), AgentError> {
        let stored: Stored = serde_json::from_str(json)?;
        let repeats = Repeats { again: stored.again, used: stored.used };
        match (stored.event, id.strip_prefix(SCHEDULE_PREFIX)) {
            (Some(draft), _) => {
                let draft = Draft {
                    topic: draft.topic,
                    version: draft.version,
                    durable: draft.durable,
                    time: None,
                    payload: Payload::from_journal(draft.payload.get().into()),
                };
                let id: Arc<str> = id.into();
                let rings_at = self.wall.as_ref().map(|wall| {
                    let key = (member, id.clone());
                    let held = wall.rings.with(|rings| rings.get(&key).copied());
                    held.unwrap_or_else(|| {
                        rings_at(left(stored.due, stored.after, stored.set, wall.last.wall), wall.last)
                    })
                });
                self.insert_once(member, id, stored.due, rings_at, draft);
            }
            (None, Some(name)) => match self.specs[member].schedules.iter().position(|s| s.name.as_str() == name) {
                Some(place) => self.insert_recurring(member, id.into(), stored.due, place, repeats),
                None => _ = self.changed.insert((member, id.into()), None),
            },
            (None, None) => return Err(AgentError::new(format!("stored timer {id:?} has no event"))),
        }
        Ok(())
    }

    /// Timers pending of one member.
    pub(crate) fn count_of(&self, member: usize) -> usize {
        self.known.range((member, Arc::default())..(member + 1, Arc::default())).count()
    }

    /// Sets a timer of a member. On a wall clock it fires `delay` after `now`; otherwise only `due` counts.
    pub(crate) fn set(
        &mut self,
        member: usize,
        id: &str,
        due: Timestamp,
        draft: Draft,
        wall: Option<(Duration, Moment)>,
    ) -> Result<(), AgentError> {
        let id: Arc<str> = id.into();
        let stored = Stored {
            due,
            after: wall.map(|(delay, _)| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
            set: wall.map(|(_, now)| now.wall),
            again: 0,
            used: None,
            event: Some(StoredDraft {
                topic: draft.topic.clone(),
                version: draft.version,
                durable: draft.durable,
                payload: RawValue::from_string(draft.payload.json()?.into())?,
            }),
        };
        self.changed.insert((member, id.clone()), Some(serde_json::to_string(&stored)?.into()));
        let rings_at = wall.map(|(delay, now)| rings_at(delay, now));
        self.insert_once(member, id, due, rings_at, draft);
        Ok(())
    }

    /// Cancels a timer that a turn set. Schedules are the spec's: they cannot be cancelled.
    pub(crate) fn cancel(&mut self, member: usize, id: &str) {
        if id.starts_with(SCHEDULE_PREFIX) {
            return;
        }
        let key: Key = (member, id.into());
        if let Some(Known { due, rings_at, .. }) = self.known.remove(&key) {
            let place = Place { due, id: key.1.clone(), member };
            match (rings_at, &mut self.wall) {
                (Some(at), Some(wall)) => drop(wall.ringing.remove(&(at, place))),
                _ => drop(self.pending.remove(&place)),
            }
            self.retire(key);
        }
    }

    /// When the next timer is due by the clock, if any: on a wall clock the next schedule.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.pending.first_key_value().map(|(place, _)| place.due)
    }

    /// When the next timer on a wall clock fires.
    pub(crate) fn next_ring(&self) -> Option<Instant> {
        self.wall.as_ref()?.ringing.first_key_value().map(|((at, _), _)| *at)
    }

    /// Whether nothing will ever fall due as things are.
    pub(crate) fn is_idle(&self) -> bool {
        self.scheduled && self.pending.is_empty() && self.wall.as_ref().is_none_or(|wall| wall.ringing.is_empty())
    }

    /// Gives every schedule its next time: at the first reading of the clock, and on a wall clock whenever that went back.
    /// The stored time is kept as long as it fits spec and clock.
    pub(crate) fn schedule_from(&mut self, now: Timestamp) {
        let is_first = !std::mem::replace(&mut self.scheduled, true);
        let went_back = self.wall.as_mut().is_some_and(|wall| now < std::mem::replace(&mut wall.last.wall, now));
        if let (true, Some(wall)) = (is_first, &self.wall) {
            // A timer that is not stored no longer exists.
            let known = &self.known;
            wall.rings.with(|rings| rings.retain(|key, _| known.contains_key(key)));
        }
        if !is_first && !went_back {
            return;
        }
        for member in 0..self.specs.len() {
            for place in 0..self.specs[member].schedules.len() {
                self.reschedule(member, place, now);
            }
        }
    }

    fn reschedule(&mut self, member: usize, place: usize, now: Timestamp) {
        let schedule = &self.specs[member].schedules[place];
        let every = schedule.every;
        let id: Arc<str> = format!("{SCHEDULE_PREFIX}{}", schedule.name).into();
        let next = now.next_multiple(every).unwrap_or(NEVER);
        let Some(&Known { due: old, mut repeats, .. }) = self.known.get(&(member, id.clone())) else {
            return self.plan(member, id, next, place, Repeats::default());
        };
        let aligned = if old.last_multiple(every) == old { old } else { old.next_multiple(every).unwrap_or(NEVER) };
        let is_far = match self.wall {
            // A schedule waits for two intervals at most, and a small correction of the clock repeats no time.
            Some(_) => aligned.since(now) > every.saturating_mul(2),
            None => aligned > next,
        };
        let due = if is_far { next } else { aligned };
        if due == old {
            return;
        }
        if due < old && self.wall.is_some() {
            repeats.again = repeats.again.saturating_add(1);
            repeats.used = repeats.used.max(Some(old));
        }
        self.pending.remove(&Place { due: old, id: id.clone(), member });
        self.plan(member, id, due, place, repeats);
    }

    /// Takes the first timer that is due at or before `now` on the team's clock, as an event of its member.
    pub(crate) fn take_due(&mut self, now: Timestamp) -> Option<Due> {
        if self.pending.first_key_value()?.0.due > now {
            return None;
        }
        let (Place { due, id, member }, what) = self.pending.pop_first()?;
        match what {
            What::Once(draft) => {
                self.known.remove(&(member, id.clone()));
                self.retire((member, id.clone()));
                Some(self.due(member, &id, due, draft))
            }
            What::Recurring(at) => Some(self.take_recurring(member, &id, due, at, now)),
        }
    }

    /// The same on a wall clock, of timers and schedules: the most overdue one comes first, so that a chain of timers
    /// without delay cannot block a schedule.
    pub(crate) fn take_due_at(&mut self, now: Moment) -> Option<Due> {
        let schedule = self.next_due().filter(|due| *due <= now.wall);
        let wall = self.wall.as_mut()?;
        let ring = wall.ringing.first_key_value().map(|((at, _), _)| *at).filter(|at| *at <= now.at);
        let is_first = |at: Instant| schedule.is_none_or(|due| now.wall.since(due) < now.at - at);
        if !ring.is_some_and(is_first) {
            return if schedule.is_some() { self.take_due(now.wall) } else { None };
        }
        let ((_, Place { due, id, member }), draft) = wall.ringing.pop_first()?;
        self.known.remove(&(member, id.clone()));
        self.retire((member, id.clone()));
        Some(self.due(member, &id, due, draft))
    }

    fn take_recurring(&mut self, member: usize, id: &Arc<str>, planned: Timestamp, at: usize, now: Timestamp) -> Due {
        let spec = self.specs[member].clone();
        let schedule = &spec.schedules[at];
        let repeats = self.known.get(&(member, id.clone())).map_or_else(Repeats::default, |known| known.repeats);
        let due = match schedule.missed {
            Missed::Last => planned.max(now.last_multiple(schedule.every)),
            Missed::All => self.first_missed(&spec, schedule, planned, now),
        };
        let topic = self.topics.entry((member, at));
        let topic = topic.or_insert_with(|| AgentSpec::schedule_topic(&spec.name, &schedule.name)).clone();
        let draft = Draft::new(topic, due);
        let next = due.next_multiple(schedule.every).unwrap_or(NEVER);
        let used = repeats.used.filter(|used| next < *used);
        self.plan(member, id.clone(), next, at, Repeats { used, ..repeats });
        // The id is computed from the stored time, so that a repeated try produces the same id at any time.
        let event_id = match repeats.used {
            Some(used) if planned < used => {
                let again = itoa::Buffer::new().format(repeats.again).to_owned();
                EventId::of_all(&spec.name, &["timer", id, itoa::Buffer::new().format(planned.0), "again", &again])
            }
            _ => timer_event_id(&spec.name, id, planned),
        };
        self.due_as(event_id, member, due, draft)
    }

    /// The first time that is caught up on: the newest `missed_max` are.
    fn first_missed(&mut self, spec: &AgentSpec, schedule: &Schedule, planned: Timestamp, now: Timestamp) -> Timestamp {
        let every_ms = u64::try_from(schedule.every.as_millis()).unwrap_or(u64::MAX).max(1);
        let behind_ms = u64::try_from(now.since(planned).as_millis()).unwrap_or(u64::MAX);
        let Some(left_out) = (behind_ms / every_ms).checked_sub(self.missed_max - 1).filter(|n| *n > 0) else {
            return planned;
        };
        let before = self.n_left_out;
        self.n_left_out = before.saturating_add(left_out);
        // Logged when the sum has doubled: an agent that is slower than its schedule skips times at every firing.
        if before.leading_zeros() != self.n_left_out.leading_zeros() {
            tracing::error!(
                agent = %spec.name, schedule = %schedule.name, every_ms, from = %planned, to = %now, left_out,
                missed_max = self.missed_max, left_out_in_all = self.n_left_out,
                "schedule with Missed::All missed more times than limits.missed_max; the oldest are left out"
            );
        }
        let caught_up = Duration::from_millis(every_ms.saturating_mul(self.missed_max - 1));
        now.last_multiple(schedule.every).before(caught_up).max(planned)
    }

    fn due(&self, member: usize, id: &str, due: Timestamp, draft: Draft) -> Due {
        self.due_as(timer_event_id(&self.specs[member].name, id, due), member, due, draft)
    }

    fn due_as(&self, id: EventId, member: usize, time: Timestamp, draft: Draft) -> Due {
        let event = Arc::new(Event {
            id,
            topic: draft.topic,
            version: draft.version,
            durable: true,
            source: self.specs[member].name.clone(),
            time,
            cause: None,
            root: id,
            hops: 0,
            payload: draft.payload,
        });
        Due { member, event }
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

    fn plan(&mut self, member: usize, id: Arc<str>, due: Timestamp, at: usize, repeats: Repeats) {
        // As `Stored` without an event is written.
        let mut json = ["{\"due\":", itoa::Buffer::new().format(due.0)].concat();
        if repeats.again > 0 {
            json += &format!(",\"again\":{}", repeats.again);
        }
        if let Some(used) = repeats.used {
            json += &format!(",\"used\":{used}");
        }
        json.push('}');
        self.changed.insert((member, id.clone()), Some(json.into()));
        self.insert_recurring(member, id, due, at, repeats);
    }

    fn insert_recurring(&mut self, member: usize, id: Arc<str>, due: Timestamp, at: usize, repeats: Repeats) {
        self.known.insert((member, id.clone()), Known { due, rings_at: None, repeats });
        if due != NEVER {
            self.pending.insert(Place { due, id, member }, What::Recurring(at));
        }
    }

    fn insert_once(&mut self, member: usize, id: Arc<str>, due: Timestamp, rings_at: Option<Instant>, draft: Draft) {
        let key = (member, id.clone());
        self.known.insert(key.clone(), Known { due, rings_at, repeats: Repeats::default() });
        let place = Place { due, id, member };
        match (rings_at, &mut self.wall) {
            (Some(at), Some(wall)) => {
                wall.rings.with(|rings| rings.insert(key, at));
                wall.ringing.insert((at, place), draft);
            }
            _ => _ = self.pending.insert(place, What::Once(draft)),
        }
    }

    /// Removes a timer that fired or was cancelled. Its instant is kept for a while, since its step may not be
    /// committed.
    fn retire(&mut self, key: Key) {
        self.changed.insert(key.clone(), None);
        let Some(wall) = &mut self.wall else { return };
        wall.retired.push_back(key);
        if wall.retired.len() > RETIRED_MAX
            && let Some(oldest) = wall.retired.pop_front()
        {
            wall.rings.with(|rings| rings.remove(&oldest));
        }
    }
}

/// What is left of a stored timer's delay when a process begins. Never more than the delay: a wall clock that went back
/// must not make it longer. Older versions stored no delay; then the due time counts.
fn left(due: Timestamp, after: Option<u64>, set: Option<Timestamp>, now: Timestamp) -> Duration {
    match (after, set) {
        (Some(after), Some(set)) => Duration::from_millis(after).saturating_sub(now.since(set)),
        _ => due.since(now),
    }
}

fn rings_at(delay: Duration, now: Moment) -> Instant {
    later(now.at, delay)
}

/// The id of the event that a timer falls due as.
fn timer_event_id(agent: &Name, id: &str, planned: Timestamp) -> EventId {
    EventId::of_all(agent, &["timer", id, itoa::Buffer::new().format(planned.0)])
}
