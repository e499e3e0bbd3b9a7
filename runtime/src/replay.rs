//! Replay: a team's present code over its recorded inputs, compared with what is recorded.
//!
//! The journal holds a team's inputs, where each stood among the others, and all that it decided on them. A replay
//! builds the members in a sandbox and gives them these inputs in this order, each at its recorded position and time;
//! every durable event that they publish must be the one that is recorded. Recorded dead letters are skipped, recorded
//! results of calls to the outside are given back, and nothing is ever called or written.
//!
//! What it leaves to others: which team is meant, and how a recorded configuration becomes one ([`starts`] tells them).

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use atra_bus::{Batch, Committed, Event, EventId, Filter, Interest, Name, Seq};
use atra_storage::{Ancestor, FactKind, Read, StoreError};
use rustc_hash::FxHashSet;
use serde_json::Value;

use crate::{
    AgentSpec, Clock, Team,
    context::{TeamShared, TimerChange, TurnInput},
    coordinator::load_memory,
    ledger::EffectLedger,
    memory::SharedMemory,
    supervisor::{PAGE_KEYS, Stored, interest, start},
    team::{
        CLOCK_TOPIC, Crew, Decided, Member, RoundEvent, Routes, TeamClock, Timers, TurnFailure, TurnRules, TurnWatch,
    },
};

/// Journal rows read at once.
const PAGE_EVENTS: usize = 4_096;
/// The topic on which the runtime says that a team was started.
const STARTED: &str = "sys.team.started";

/// A recorded start of a team.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// Where it stands in the journal.
    pub seq: Seq,
    /// The team.
    pub team: Name,
    /// Its members.
    pub agents: Vec<Name>,
    /// The configuration in force.
    pub config: Value,
}

/// Every recorded start of every team, in order.
///
/// # Cancel safety
/// Reads only.
///
/// # Errors
/// What the reads say.
pub async fn starts(db: &dyn Read) -> Result<Vec<Start>, StoreError> {
    let only = Interest::in_topics(Filter::new(STARTED).into_iter().collect());
    // They are kept when the journal is pruned, so it is read from its end.
    let found = db.journal_tail(&only, usize::MAX).await?;
    let parse = |committed: &Committed| {
        let mut said = committed.event.payload.to_value().ok()?;
        let name = |value: &Value| Name::new(value.as_str()?).ok();
        Some(Start {
            seq: committed.seq,
            team: name(&said["team"])?,
            agents: said["agents"].as_array()?.iter().filter_map(name).collect(),
            config: said["config"].take(),
        })
    };
    Ok(found.iter().filter_map(parse).collect())
}

/// Why a replay could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The journal could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An agent could not be built, or not be saved.
    #[error("agent {agent}: {cause}")]
    Agent {
        /// The agent.
        agent: Name,
        /// What it said.
        cause: String,
    },
}

/// The first thing that is not as it is recorded.
#[derive(Debug, Clone)]
pub struct Difference {
    /// In the cascade of which input, if one was under way.
    pub input: Option<Committed>,
    /// As it is recorded; `None`: it is not.
    pub recorded: Option<Committed>,
    /// As the present code decides it; `None`: it does not.
    pub present: Option<Arc<Event>>,
    /// What differs, in one sentence.
    pub what: String,
}

/// What a replay showed.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// Inputs that were handled again.
    pub inputs: u64,
    /// Turns that this took.
    pub turns: u64,
    /// Recorded events that were decided again as they are.
    pub events: u64,
    /// The last seq that was read.
    pub upto: Seq,
    /// The first difference; `None`: all is equal.
    pub difference: Option<Difference>,
}

/// A replay to be made.
pub struct Replay {
    db: Arc<dyn Read>,
    /// The team as it is built from the configuration in force from a seq on, oldest first.
    teams: VecDeque<(Seq, Team)>,
    agents: BTreeSet<Name>,
    state: Option<Arc<dyn Read>>,
    agent: Option<Name>,
    from: Seq,
    to: Option<Seq>,
}

impl Replay {
    /// A replay of a team. It is given as it is built from the configurations that were in force, each with the seq
    /// from which on; one, from seq 0 on, if it was always the same. `agents` are the names of all agents there were.
    ///
    /// # Panics
    /// When there is no team.
    pub fn new(db: Arc<dyn Read>, teams: Vec<(Seq, Team)>, agents: BTreeSet<Name>) -> Self {
        assert!(!teams.is_empty(), "a replay is of a team");
        Self { db, teams: teams.into(), agents, state: None, agent: None, from: Seq::ZERO, to: None }
    }

    /// Begins with the state in this database, a backup for example, instead of with the journal.
    #[must_use]
    pub fn state(mut self, state: Arc<dyn Read>) -> Self {
        self.state = Some(state);
        self
    }

    /// Compares only what this member decides.
    #[must_use]
    pub fn agent(mut self, agent: Name) -> Self {
        self.agent = Some(agent);
        self
    }

    /// Compares recorded events from this seq on, up to that one.
    #[must_use]
    pub fn span(mut self, from: Seq, to: Option<Seq>) -> Self {
        (self.from, self.to) = (from, to);
        self
    }

    /// Makes it; `told` hears how far it is. Writes nothing and calls nobody.
    ///
    /// # Errors
    /// [`ReplayError`]; a pruned journal is one, unless [`Replay::state`] is of after what was pruned.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is left behind.
    pub async fn run(mut self, mut told: impl FnMut(Seq)) -> Result<Replayed, ReplayError> {
        let Some((_, first)) = self.teams.pop_front() else { unreachable!("checked when it was made") };
        // The cursor first: what it stands for is in the journal up to a last seq that is read after it.
        let row = self.db.teams().await?.into_iter().find(|row| row.team == *first.name());
        let cursor = row.map_or(Seq::ZERO, |row| row.cursor);
        let last = self.db.last_seq().await?;
        let to = self.to.unwrap_or(last).min(last);
        let mut sandbox = Sandbox::new(&self, first).await?;
        let (state_at, mut at) = sandbox.begins_at(self.state.as_deref()).await?;
        let taken = at;
        while let Some((_, team)) = self.teams.pop_front_if(|(seq, _)| *seq <= state_at) {
            sandbox.change(team).await?;
        }
        let everything = Interest::in_topics(Filter::new(">").into_iter().collect());
        let mut found = None;
        while at < to && found.is_none() {
            let (rows, upto) = self.db.journal(at, to, &everything, PAGE_EVENTS).await?;
            for row in rows {
                if let Some((_, team)) = self.teams.pop_front_if(|(seq, _)| *seq <= row.seq) {
                    sandbox.change(team).await?;
                }
                let is_new = row.seq > state_at;
                found = sandbox.row(row, taken, is_new).await;
                if found.is_some() {
                    break;
                }
            }
            at = upto;
            told(at);
        }
        if found.is_none() {
            found = sandbox.end(cursor, to == last).await;
        }
        let Sandbox { inputs, turns, comparison, .. } = sandbox;
        Ok(Replayed { inputs, turns, events: comparison.equal, upto: at, difference: found })
    }
}

// === the sandbox ===

/// The team, its surroundings as recorded, and the comparison.
struct Sandbox {
    team: Team,
    wants: Interest,
    stored: Stored,
    shared: Arc<TeamShared>,
    crew: Crew,
    routes: Routes,
    timers: Timers,
    time: TeamClock,
    position: Arc<AtomicU64>,
    letters: Arc<BTreeSet<(Name, EventId)>>,
    /// Foreign inputs of which it is not known yet whether the team had taken them before its next own one.
    pending: VecDeque<Committed>,
    comparison: Comparison,
    inputs: u64,
    turns: u64,
}

impl Sandbox {
    async fn new(replay: &Replay, team: Team) -> Result<Self, ReplayError> {
        let stored = match &replay.state {
            Some(state) => Stored::read(&**state, &team, None).await?,
            None => Stored::empty(&team),
        };
        let memory = SharedMemory::default();
        if let Some(state) = &replay.state {
            load_memory(&**state, &memory).await?;
            memory.set_loaded(state.last_seq().await?);
        }
        let mut letters = BTreeSet::new();
        for spec in team.specs() {
            let mut from = Some(String::new());
            while let Some(key) = from {
                let page = replay.db.facts_page(FactKind::DeadLetter, &spec.name, &key, PAGE_KEYS).await?;
                let events = page.facts.iter().filter_map(|letter| letter.key.parse().ok());
                letters.extend(events.map(|event| (spec.name.clone(), event)));
                from = page.next;
            }
        }
        let position = memory.position_of(team.name());
        let shared =
            surroundings(&team, replay.db.clone(), memory, Arc::new(replay.agents.iter().cloned().collect()), &stored);
        let (crew, timers) = build(&team, &shared, &stored).await?;
        Ok(Self {
            wants: interest(&team),
            routes: Routes::new(team.specs.clone()),
            time: stored.clock,
            team,
            stored,
            shared,
            crew,
            timers,
            position,
            letters: Arc::new(letters),
            pending: VecDeque::new(),
            comparison: Comparison::new(replay.agent.clone(), replay.from),
            inputs: 0,
            turns: 0,
        })
    }

    /// The last seq that is in the state it begins with, and the one up to which the team had taken what it wants then.
    async fn begins_at(&self, state: Option<&dyn Read>) -> Result<(Seq, Seq), StoreError> {
        let Some(state) = state else { return Ok((Seq::ZERO, Seq::ZERO)) };
        let row = state.teams().await?.into_iter().find(|row| row.team == *self.team.name());
        let last = state.last_seq().await?;
        Ok((last, row.map_or(last, |row| row.cursor.min(last))))
    }

    /// The team goes on with other settings: its members are built anew from what they save.
    async fn change(&mut self, team: Team) -> Result<(), ReplayError> {
        let saved = self.crew.save().await;
        let saved = saved.map_err(|(agent, fault)| ReplayError::Agent { agent, cause: fault.to_string() })?;
        let facts = saved.into_iter().flat_map(|(place, writes)| writes.into_iter().map(move |write| (place, write)));
        for (place, (key, value)) in facts {
            put(&mut self.stored.members[place].state, key, value);
        }
        for ((place, id), value) in self.timers.take_changed() {
            put(&mut self.stored.members[place].timers, id.to_string(), value);
        }
        let mut members = std::mem::take(&mut self.stored.members);
        let mut old: Vec<Name> = self.team.specs().map(|spec| spec.name.clone()).collect();
        for spec in team.specs() {
            let found = old.iter().position(|name| *name == spec.name);
            let facts = found.map(|place| (old.remove(place), members.remove(place)));
            self.stored.members.push(facts.map(|(_, facts)| facts).unwrap_or_default());
        }
        let view = self.shared.view.read().unwrap_or_else(PoisonError::into_inner).clone();
        self.stored.memory = view;
        let TeamShared { memory, reader, agents, .. } = &*self.shared;
        self.shared = surroundings(&team, reader.clone(), memory.clone(), agents.clone(), &self.stored);
        (self.crew, self.timers) = build(&team, &self.shared, &self.stored).await?;
        (self.wants, self.routes) = (interest(&team), Routes::new(team.specs.clone()));
        self.team = team;
        Ok(())
    }

    /// One row of the journal. `taken`: up to where foreign inputs are part of the state; `is_new`: the row is not.
    async fn row(&mut self, row: Committed, taken: Seq, is_new: bool) -> Option<Difference> {
        let place = self.team.specs().position(|spec| spec.name == row.event.source);
        let Some(place) = place else {
            if is_new && row.event.topic.memory_key().is_some() {
                self.shared.memory.apply(&Batch { events: vec![row.clone()] });
            }
            if is_new {
                self.shared.memory.set_released(row.seq);
            }
            if row.seq > taken && self.wants.wants(row.event.topic.as_str(), &row.event.source) {
                self.pending.push_back(row);
            }
            return None;
        };
        if !is_new {
            return None;
        }
        // An own input says what came before it; an effect of a foreign input tells that it has been taken.
        let is_pending = |seq: &Seq| self.pending.binary_search_by_key(seq, |row| row.seq).is_ok();
        let before = row.seen.or_else(|| row.cause_seq.filter(is_pending));
        if let Some(difference) = self.foreign_upto(before.unwrap_or_default()).await {
            return Some(difference);
        }
        if row.seen.is_none() {
            self.comparison.recorded(row);
            return self.comparison.compare();
        }
        if row.event.topic == CLOCK_TOPIC {
            self.time.take_row(&row.event);
            return None;
        }
        let position = row.seen.unwrap_or_default();
        match self.own(place, &row) {
            Ok(to) => self.input(row, position, to).await,
            Err(what) => Some(Difference { input: None, recorded: Some(row), present: None, what }),
        }
    }

    async fn foreign_upto(&mut self, upto: Seq) -> Option<Difference> {
        while self.pending.front().is_some_and(|next| next.seq <= upto) {
            let next = self.pending.pop_front()?;
            let position = next.seq;
            if let Some(difference) = self.input(next, position, None).await {
                return Some(difference);
            }
        }
        None
    }

    /// Whom an own input is for: a timer or a first start for its member alone, a product for everybody. An error is an
    /// input that the present code would not have had.
    fn own(&mut self, place: usize, row: &Committed) -> Result<Option<usize>, String> {
        let (event, spec) = (&row.event, &self.team.specs[place]);
        let is_schedule = |name: &Name| AgentSpec::schedule_topic(&spec.name, name) == event.topic;
        let is_timer = event.topic.as_str().starts_with("sys.schedule.");
        if event.topic.subject() == "sys.init" || spec.schedules.iter().any(|schedule| is_schedule(&schedule.name)) {
            return Ok(Some(place));
        }
        if let Some(draft) = self.timers.take_recorded(place, event) {
            let same = draft.topic == event.topic && draft.payload.json().ok() == event.payload.json().ok();
            let what = || format!("agent {} set this timer with another event than is recorded", spec.name);
            return if same { Ok(Some(place)) } else { Err(what()) };
        }
        if is_timer || !spec.is_source {
            return Err(format!("agent {} was given a timer that the present code does not set", spec.name));
        }
        match self.timers.next_due() {
            Some(due) if self.team.clock == Clock::Events && due <= event.time => {
                Err(format!("the present code has a timer that is due at {due}, before this input; none is recorded"))
            }
            _ => Ok(None),
        }
    }

    /// Handles an input again: its whole cascade.
    async fn input(&mut self, input: Committed, position: Seq, to: Option<usize>) -> Option<Difference> {
        let is_own = input.seen.is_some() && input.event.topic.subject() != "sys.init";
        match self.team.clock {
            // Timers and first starts are for one member.
            Clock::Wall if to.is_none() => self.time.follow(input.event.time),
            Clock::Events if !is_own => {}
            _ => self.time.advance(input.event.time),
        }
        // Relaxed: one task; only how long old versions are kept depends on it.
        self.position.store(position.get(), Ordering::Relaxed);
        let at = TurnInput { now: self.time.now, position, attempt: 1 };
        let rules = TurnRules { input: at, skips: Some(self.letters.clone()), gate: None };
        self.inputs += 1;
        if let Err(failure) = self.cascade(&input, to, &rules).await {
            let TurnFailure { agent, event, fault } = failure;
            let what = format!("agent {agent} fails on {} {}: {fault}; that is not recorded", event.topic, event.id);
            return Some(Difference { input: Some(input), recorded: None, present: None, what });
        }
        self.comparison.compare()
    }

    async fn cascade(&mut self, input: &Committed, to: Option<usize>, rules: &TurnRules) -> Result<(), TurnFailure> {
        let first = RoundEvent { event: input.event.clone(), from: None, to, anchor: Ancestor::None };
        let (mut round, mut decided) = (vec![first], Decided::default());
        while !round.is_empty() {
            self.crew.round(&round, &mut self.routes, rules, &mut decided).await?;
            self.turns += std::mem::take(&mut decided.turns);
            round.clear();
            for (_, member, event) in decided.events.drain(..) {
                if event.durable {
                    self.shared.remember(&event);
                    self.comparison.present(input, event.clone());
                }
                round.push(RoundEvent { event, from: Some(member), to: None, anchor: Ancestor::None });
            }
            for (member, change) in decided.timers.drain(..) {
                match change {
                    // What has no JSON form was refused at the call.
                    TimerChange::Set { id, due, draft, .. } => drop(self.timers.set(member, &id, due, draft, None)),
                    TimerChange::Cancel { id } => self.timers.cancel(member, &id),
                }
            }
        }
        Ok(())
    }

    /// The journal is at its end, or at the end of what was asked for.
    async fn end(&mut self, cursor: Seq, is_whole: bool) -> Option<Difference> {
        if is_whole && let Some(difference) = self.foreign_upto(cursor).await {
            return Some(difference);
        }
        self.comparison.end(is_whole)
    }
}

fn put(facts: &mut std::collections::BTreeMap<String, Arc<str>>, key: String, value: Option<Arc<str>>) {
    match value {
        Some(value) => drop(facts.insert(key, value)),
        None => drop(facts.remove(&key)),
    }
}

fn surroundings(
    team: &Team,
    reader: Arc<dyn Read>,
    memory: SharedMemory,
    agents: Arc<FxHashSet<Name>>,
    stored: &Stored,
) -> Arc<TeamShared> {
    let acting = team.specs().find(|spec| spec.acting);
    Arc::new(TeamShared {
        limits: team.limits.clone(),
        memory,
        drops: Arc::default(),
        ledger: acting.map(|spec| EffectLedger::recorded_only(spec.name.clone(), reader.clone())),
        reader,
        view: RwLock::new(stored.memory.clone()),
        owned: team.specs().flat_map(|spec| spec.owns.iter().cloned()).collect(),
        members: team.specs().map(|spec| spec.name.clone()).collect(),
        agents,
    })
}

/// Members and timers, from stored state.
async fn build(team: &Team, shared: &Arc<TeamShared>, stored: &Stored) -> Result<(Crew, Timers), ReplayError> {
    let mut timers = Timers::new(team.specs.clone(), team.limits.missed_max);
    let mut members = Vec::new();
    for (place, spec) in team.specs.iter().enumerate() {
        let facts = &stored.members[place];
        let failed = |cause: String| ReplayError::Agent { agent: spec.name.clone(), cause };
        // Schedules are not planned: each time that they fired is an input.
        for (id, json) in facts.timers.iter().filter(|(id, _)| !Timers::is_schedule(id)) {
            timers.restore(place, id, json).map_err(|error| failed(error.to_string()))?;
        }
        let agent = start(team, place, &facts.state, &shared.drops).await.map_err(failed)?;
        members.push(Member::new(place, spec.clone(), agent, shared.clone(), Arc::new(TurnWatch::default())));
    }
    Ok((Crew::together(members), timers))
}

// === the comparison ===

/// What is recorded and what is decided now, each in its order.
struct Comparison {
    agent: Option<Name>,
    from: Seq,
    /// Whether both stand at the same event: not yet, where the comparison begins in the middle.
    is_begun: bool,
    recorded: VecDeque<Committed>,
    present: VecDeque<(Committed, Arc<Event>)>,
    equal: u64,
}

impl Comparison {
    fn new(agent: Option<Name>, from: Seq) -> Self {
        let is_begun = from <= Seq(1);
        Self { agent, from, is_begun, recorded: VecDeque::new(), present: VecDeque::new(), equal: 0 }
    }

    fn is_of(&self, event: &Event) -> bool {
        self.agent.as_ref().is_none_or(|agent| *agent == event.source)
    }

    fn recorded(&mut self, row: Committed) {
        if row.seq >= self.from && self.is_of(&row.event) {
            self.recorded.push_back(row);
        }
    }

    fn present(&mut self, input: &Committed, event: Arc<Event>) {
        if self.is_of(&event) {
            self.present.push_back((input.clone(), event));
        }
    }

    fn compare(&mut self) -> Option<Difference> {
        if !self.is_begun {
            // What was decided before `from` has nobody to be compared with.
            let first = self.recorded.front().map(|row| row.event.id);
            let at = first.and_then(|id| self.present.iter().position(|(_, event)| event.id == id));
            match at {
                Some(at) => drop(self.present.drain(..at)),
                None if first.is_none() => self.present.clear(),
                None => return None,
            }
            self.is_begun = first.is_some();
        }
        while let (Some(row), Some((_, event))) = (self.recorded.front(), self.present.front()) {
            if let Some(what) = differing(&row.event, event) {
                let (input, present) = self.present.pop_front()?;
                let what = format!("agent {} decides otherwise: {what}", row.event.source);
                let recorded = self.recorded.pop_front();
                return Some(Difference { input: Some(input), recorded, present: Some(present), what });
            }
            self.recorded.pop_front();
            self.present.pop_front();
            self.equal += 1;
        }
        None
    }

    fn end(&mut self, is_whole: bool) -> Option<Difference> {
        if let Some(row) = self.recorded.pop_front() {
            let what = format!("agent {} does not decide this any more", row.event.source);
            return Some(Difference { input: None, recorded: Some(row), present: None, what });
        }
        let (input, event) = self.present.pop_front().filter(|_| is_whole && self.is_begun)?;
        let what = format!("agent {} decides this, and it is not recorded", event.source);
        Some(Difference { input: Some(input), recorded: None, present: Some(event), what })
    }
}

/// Which parts of two events differ; `None` if none does.
fn differing(recorded: &Event, present: &Event) -> Option<String> {
    let parts = [
        ("publisher", recorded.source != present.source),
        ("topic", recorded.topic != present.topic),
        ("version", recorded.version != present.version),
        ("content", recorded.payload.json().ok() != present.payload.json().ok()),
        ("time", recorded.time != present.time),
        ("cause", (recorded.cause, recorded.root, recorded.hops) != (present.cause, present.root, present.hops)),
        ("id", recorded.id != present.id),
    ];
    let found: Vec<&str> = parts.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect();
    if found.is_empty() { None } else { Some(found.join(", ")) }
}
