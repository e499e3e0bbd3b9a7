//! The ten guarantees as checkers over what happens: each check is counted, the first violation is kept.
//!
//! What is checked comes from three places: every batch that the store took (the truth), every turn as its agent sees
//! it, and looks from outside now and then. The auditor keeps its own small account of the truth, apart from the store:
//! hashes of facts, the place of each event, what each agent still has to be given.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use atra_bus::{Event, EventId, Interest, Name, Seq, Topic};
use atra_storage::{FactKind, FactRow, Read, StoreError, TeamRow, WriteBatch};
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};

use super::{
    disk::is_flushed,
    engine::{Engine, hash_text, mix},
};
use crate::{Team, supervisor::interest};

/// Violations that are kept: the first tells the story, a few more show how wide it is.
const VIOLATIONS_MAX: usize = 8;
/// Virtual time after which an event that nobody has taken makes a team stuck, in milliseconds. Above the longest
/// planned stall, pause and downtime together.
const STUCK_MS: u64 = 30 * 60_000;

/// A guarantee, as it is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Invariant {
    /// Foreign events reach an agent in journal order, without gap or repeat.
    Order,
    /// What is found after a crash is the state after some whole number of commits.
    Atomic,
    /// Nobody outside a team gets an event that is not committed.
    Isolated,
    /// What was acknowledged is there, as long as its level promises.
    Durable,
    /// No event is in the journal twice.
    ExactlyOnce,
    /// A turn reads what others wrote as of its position.
    AsOf,
    /// Committed decisions are the same when they are made again.
    Deterministic,
    /// Queues stay within their limits.
    Bounded,
    /// A team fails only for what its own agents did; dead letters are earned.
    Contained,
    /// A stop ends in time, in order, and leaves the mark of a clean end.
    CleanStop,
    /// Epochs, step numbers and cursors never go back.
    Fenced,
    /// What a team wants is handled in the end.
    NotStuck,
}

/// A check that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which guarantee, or the name of the test's own invariant.
    pub invariant: String,
    /// Whom it is about: an agent, a team, a key.
    pub key: String,
    /// Virtual time since the begin, in milliseconds.
    pub at_ms: u64,
    /// What was found.
    pub text: String,
}

/// The auditor's handle.
#[derive(Clone)]
pub(crate) struct Audit {
    engine: Engine,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    agents: Vec<AgentAccount>,
    by_name: FxHashMap<Name, usize>,
    /// Places of a team's agents.
    members: FxHashMap<Name, Vec<usize>>,
    teams: FxHashMap<Name, TeamRow>,
    routes: FxHashMap<Topic, Arc<[usize]>>,
    /// The id of seq n at index n − 1.
    ids: Vec<EventId>,
    by_id: FxHashMap<EventId, u64>,
    /// Hashes of facts by hash of their key, and all of them folded into one.
    facts: FxHashMap<u64, u64>,
    facts_fold: u64,
    /// Versions of memory keys: seq, and who wrote (`None`: removed).
    memory: BTreeMap<String, Vec<(u64, Option<EventId>)>>,
    keys: Vec<String>,
    letters: FxHashSet<(Name, EventId)>,
    failures: FxHashMap<(Name, EventId), u32>,
    /// States after commits that are not flushed, oldest first; kept only if power can go.
    volatile: VecDeque<Before>,
    keeps_volatile: bool,
    acks: Vec<(u64, EventId, bool)>,
    stopped: bool,
    counts: BTreeMap<String, u64>,
    violations: Vec<Violation>,
    recent: VecDeque<String>,
}

struct AgentAccount {
    name: Name,
    team: Name,
    wants: Interest,
    owned: Arc<[String]>,
    /// Failures that it takes to give up an event.
    attempts_max: u32,
    /// (seq, committed at) of foreign events that it wants, oldest first.
    wanted: VecDeque<(u64, u64)>,
    /// The last foreign seq that this instance was given.
    last: u64,
    alive: bool,
}

/// What a commit wrote over.
struct Before {
    last: usize,
    fold: u64,
    facts: Vec<(u64, Option<u64>)>,
    teams: Vec<(Name, Option<TeamRow>)>,
    letters: Vec<(Name, EventId)>,
}

/// Events of the account's own that a failure shows.
const RECENT_MAX: usize = 24;

fn fact_key(kind: FactKind, owner: &Name, key: &str) -> u64 {
    let owner = if kind == FactKind::Memory { 0 } else { hash_text(owner.as_str()) };
    mix(mix(kind as u64, owner), hash_text(key))
}

fn fact_hash(key: u64, value: &str) -> u64 {
    mix(key, hash_text(value))
}

// === the truth ===

impl Audit {
    pub(crate) fn new(engine: Engine, teams: &[Team], keeps_volatile: bool) -> Self {
        let mut state = State { keeps_volatile, ..State::default() };
        for team in teams {
            let owned: Arc<[String]> = team.specs().flat_map(|spec| spec.owns.iter().cloned()).collect();
            let whole = interest(team);
            for spec in team.specs() {
                let own = format!("to.{}.>", spec.name);
                let mut filters = spec.subscribes.clone();
                filters.extend(atra_bus::Filter::new(&own));
                let wants = Interest { filters, except: whole.except.clone() };
                let place = state.agents.len();
                state.by_name.insert(spec.name.clone(), place);
                state.members.entry(team.name().clone()).or_default().push(place);
                state.agents.push(AgentAccount {
                    name: spec.name.clone(),
                    team: team.name().clone(),
                    wants,
                    owned: owned.clone(),
                    attempts_max: spec.attempts_max,
                    wanted: VecDeque::new(),
                    last: 0,
                    alive: false,
                });
            }
        }
        Self { engine, state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a check; keeps it if it failed.
    pub(crate) fn check(&self, invariant: Invariant, ok: bool, key: &str, text: impl FnOnce() -> String) {
        let at_ms = self.engine.now_ms();
        self.state().check(at_ms, invariant, ok, key, text);
    }

    /// Counts a check of the test's own.
    pub(crate) fn check_own(&self, name: &str, outcome: Result<(), String>) {
        let at_ms = self.engine.now_ms();
        let mut state = self.state();
        *state.counts.entry(name.to_owned()).or_insert(0) += 1;
        if let Err(text) = outcome {
            state.violate(Violation { invariant: name.into(), key: String::new(), at_ms, text });
        }
    }

    /// The store took a batch.
    pub(crate) fn committed(&self, batch: &WriteBatch) {
        let at_ms = self.engine.now_ms();
        let mut state = self.state();
        let mut hash = batch.events.len() as u64;
        let mut before = Before {
            last: state.ids.len(),
            fold: state.facts_fold,
            facts: Vec::new(),
            teams: Vec::new(),
            letters: Vec::new(),
        };
        // Letters first: they excuse what a cursor passes over.
        for fact in &batch.facts {
            state.fact(at_ms, fact, &mut before);
        }
        // Own inputs by team, once: a batch may be of a thousand teams.
        let mut seen: FxHashMap<Name, Vec<(Seq, Seq)>> = FxHashMap::default();
        for committed in &batch.events {
            if let (Some(at), Some(&place)) = (committed.seen, state.by_name.get(&committed.event.source)) {
                seen.entry(state.agents[place].team.clone()).or_default().push((committed.seq, at));
            }
        }
        for moved in &batch.teams {
            let own = seen.get(&moved.to.team).map_or(&[][..], Vec::as_slice);
            state.move_team(at_ms, moved.to.clone(), own, &mut before);
        }
        for committed in &batch.events {
            hash = mix(hash, committed.event.id.seed());
            state.event(at_ms, committed.seq.get(), &committed.event);
        }
        hash = mix(hash, state.facts_fold);
        if state.keeps_volatile {
            state.volatile.push_back(before);
            if is_flushed(batch.level) {
                state.volatile.clear();
            }
        }
        let line = format!(
            "{at_ms} ms: committed up to seq {} ({} events, {} facts, {} teams)",
            state.ids.len(),
            batch.events.len(),
            batch.facts.len(),
            batch.teams.len()
        );
        state.remember(line);
        drop(state);
        self.engine.note("commit", hash);
    }

    /// Everything committed so far is on the disk for good.
    pub(crate) fn synced(&self) {
        self.state().volatile.clear();
    }

    /// A caller was told that its publish is committed.
    pub(crate) fn acknowledged(&self, seq: Seq, id: EventId, survives_power: bool) {
        let at_ms = self.engine.now_ms();
        let mut state = self.state();
        let there = state.by_id.get(&id) == Some(&seq.get());
        state.check(at_ms, Invariant::Durable, there, id.to_string().as_str(), || {
            format!("publish was answered with seq {seq}, but the store has not committed it there")
        });
        state.acks.push((seq.get(), id, survives_power));
    }

    /// The store was opened again: what is in it must be what the account says.
    pub(crate) async fn reopened(&self, reader: &dyn Read, power: bool) -> Result<(), StoreError> {
        let last = reader.last_seq().await?;
        let teams: FxHashMap<Name, TeamRow> =
            reader.teams().await?.into_iter().map(|row| (row.team.clone(), row)).collect();
        let mut fold = 0;
        for kind in FactKind::ALL {
            for row in reader.facts(kind, None).await? {
                fold ^= fact_hash(fact_key(kind, &row.owner, &row.key), row.value.as_deref().unwrap_or_default());
            }
        }
        let at_ms = self.engine.now_ms();
        let mut state = self.state();
        let same =
            |state: &State| state.ids.len() as u64 == last.get() && state.teams == teams && state.facts_fold == fold;
        while power && !same(&state) {
            let Some(before) = state.volatile.pop_back() else { break };
            state.take_back(before);
        }
        // A process that dies flushes nothing; only what survived a power cut is on the disk for good.
        if power {
            state.volatile.clear();
        }
        let found = same(&state);
        let text = format!(
            "found seq {last}, {} teams, facts {fold:016x}; no state between commits is like it (expected seq {}, facts {:016x})",
            teams.len(),
            state.ids.len(),
            state.facts_fold
        );
        state.check(at_ms, Invariant::Atomic, found, "store", || text);
        let lost: Vec<_> = {
            let there = |seq: u64, id: EventId| state.ids.get(seq as usize - 1) == Some(&id);
            state.acks.iter().filter(|(seq, id, _)| !there(*seq, *id)).copied().collect()
        };
        for (seq, id, survives_power) in &lost {
            let ok = power && !survives_power;
            state.check(at_ms, Invariant::Durable, ok, &id.to_string(), || {
                format!("acknowledged event at seq {seq} is gone")
            });
        }
        if lost.is_empty() {
            state.check(at_ms, Invariant::Durable, true, "", String::new);
        }
        state.acks.retain(|ack| !lost.contains(ack));
        for agent in &mut state.agents {
            agent.alive = false;
        }
        state.stopped = false;
        let line = format!("{at_ms} ms: opened at seq {last}");
        state.remember(line);
        Ok(())
    }

    // === turns ===

    /// An agent was built from committed state.
    pub(crate) fn started(&self, agent: &Name) {
        let mut state = self.state();
        let Some(&place) = state.by_name.get(agent) else { return };
        let team = state.agents[place].team.clone();
        let cursor = state.teams.get(&team).map_or(0, |row| row.cursor.get());
        let account = &mut state.agents[place];
        account.last = cursor;
        account.alive = true;
        let at_ms = self.engine.now_ms();
        state.remember(format!("{at_ms} ms: {agent} starts after seq {cursor}"));
    }

    /// A turn begins.
    pub(crate) fn turn(&self, agent: &Name, event: &Event, position: Seq) {
        let at_ms = self.engine.now_ms();
        let mut state = self.state();
        let Some(&place) = state.by_name.get(agent) else { return };
        let stopped = state.stopped;
        state.check(at_ms, Invariant::CleanStop, !stopped, agent.as_str(), || {
            format!("had a turn on {} after the runtime had stopped", event.topic)
        });
        let teammate =
            state.by_name.get(&event.source).is_some_and(|&of| state.agents[of].team == state.agents[place].team);
        if teammate {
            return;
        }
        let Some(&seq) = state.by_id.get(&event.id) else {
            state.check(at_ms, Invariant::Isolated, false, agent.as_str(), || {
                format!("was given {} {} of {}, which is not committed", event.topic, event.id, event.source)
            });
            return;
        };
        state.check(at_ms, Invariant::Isolated, true, "", String::new);
        let (last, wanted_from) = (state.agents[place].last, &state.agents[place].wanted);
        let at = wanted_from.partition_point(|(wanted, _)| *wanted <= last);
        let missed = wanted_from
            .iter()
            .skip(at)
            .map(|(wanted, _)| *wanted)
            .take_while(|wanted| *wanted < seq)
            .find(|wanted| !state.letters.contains(&(agent.clone(), state.ids[*wanted as usize - 1])));
        let ok = seq > last && missed.is_none();
        state.check(at_ms, Invariant::Order, ok, agent.as_str(), || match missed {
            Some(missed) => format!("was given seq {seq} and never seq {missed}, which it wants"),
            None => format!("was given seq {seq} after seq {last}"),
        });
        state.check(at_ms, Invariant::AsOf, position.get() >= seq, agent.as_str(), || {
            format!("handles seq {seq} at position {position}")
        });
        state.agents[place].last = seq.max(last);
    }

    /// A turn failed.
    pub(crate) fn failed(&self, agent: &Name, event: &Event) {
        *self.state().failures.entry((agent.clone(), event.id)).or_insert(0) += 1;
    }

    /// A key that nobody in the agent's team owns, drawn by `draw`, and who wrote it last as of `at`.
    pub(crate) fn sample(&self, agent: &Name, draw: u64, at: Seq) -> Option<(String, Option<EventId>)> {
        let state = self.state();
        let account = &state.agents[*state.by_name.get(agent)?];
        let key = state.keys.get((draw % state.keys.len().max(1) as u64) as usize)?;
        if account.owned.iter().any(|prefix| key.starts_with(prefix.as_str())) {
            return None;
        }
        Some((key.clone(), state.as_of(key, at)))
    }

    /// A key, drawn by `draw`, and who wrote it last as of `at`.
    pub(crate) fn sample_outside(&self, draw: u64, at: Seq) -> Option<(String, Option<EventId>)> {
        let state = self.state();
        let key = state.keys.get((draw % state.keys.len().max(1) as u64) as usize)?;
        Some((key.clone(), state.as_of(key, at)))
    }

    // === looks from outside ===

    /// The runtime says that it has stopped.
    pub(crate) fn stopped(&self) {
        self.state().stopped = true;
    }

    /// Whether every agent has taken, or its team passed over, what it wants. With `all`, whatever its age.
    pub(crate) fn look_for_stuck(&self, all: bool, excused: &BTreeSet<Name>) {
        let at_ms = self.engine.now_ms();
        let mut guard = self.state();
        let state = &mut *guard;
        let mut stuck = Vec::new();
        for agent in &mut state.agents {
            let cursor = state.teams.get(&agent.team).map_or(0, |row| row.cursor.get());
            let settled = if all { cursor.max(agent.last) } else { cursor };
            // Power may take a cursor back, so what is behind it is kept while that can happen.
            if !state.keeps_volatile || state.volatile.is_empty() {
                while agent.wanted.front().is_some_and(|(seq, _)| *seq <= cursor) {
                    agent.wanted.pop_front();
                }
            }
            let at = agent.wanted.partition_point(|(seq, _)| *seq <= settled);
            let Some((seq, since)) = agent.wanted.get(at) else { continue };
            if !excused.contains(&agent.team) && (all || since + STUCK_MS < at_ms) {
                stuck.push((agent.name.clone(), *seq, *since));
            }
        }
        if stuck.is_empty() {
            state.check(at_ms, Invariant::NotStuck, true, "", String::new);
        }
        for (name, seq, since) in stuck {
            state.check(at_ms, Invariant::NotStuck, false, name.as_str(), || {
                format!("has not settled seq {seq}, which was committed at {since} ms")
            });
        }
    }

    /// Events in the journal.
    pub(crate) fn n_events(&self) -> u64 {
        self.state().ids.len() as u64
    }

    /// (checks, violations, the last events).
    pub(crate) fn outcome(&self) -> (BTreeMap<String, u64>, Vec<Violation>, Vec<String>) {
        let state = self.state();
        (state.counts.clone(), state.violations.clone(), state.recent.iter().cloned().collect())
    }
}

// === impl State ===

impl State {
    fn check(&mut self, at_ms: u64, invariant: Invariant, ok: bool, key: &str, text: impl FnOnce() -> String) {
        let name = name_of(invariant);
        match self.counts.get_mut(name) {
            Some(count) => *count += 1,
            None => _ = self.counts.insert(name.into(), 1),
        }
        if !ok {
            self.violate(Violation { invariant: name.into(), key: key.into(), at_ms, text: text() });
        }
    }

    fn violate(&mut self, violation: Violation) {
        if self.violations.len() < VIOLATIONS_MAX {
            let line = format!(
                "{} ms: {} of {} broken: {}",
                violation.at_ms, violation.invariant, violation.key, violation.text
            );
            self.remember(line);
            self.violations.push(violation);
        }
    }

    fn remember(&mut self, line: String) {
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(line);
    }

    /// `own`: seq and recorded position of the team's own inputs in the batch.
    fn move_team(&mut self, at_ms: u64, to: TeamRow, own: &[(Seq, Seq)], before: &mut Before) {
        let old = self.teams.get(&to.team);
        let ok = old.is_none_or(|old| {
            to.epoch >= old.epoch
                && to.number >= old.number
                && to.cursor >= old.cursor
                && (to.epoch, to.number) != (old.epoch, old.number)
        });
        let old = old.cloned();
        self.check(at_ms, Invariant::Fenced, ok, to.team.as_str(), || format!("moved from {old:?} to {to:?}"));
        let from = old.as_ref().map_or(Seq::ZERO, |old| old.cursor);
        let odd = own.iter().find(|(_, seen)| *seen < from || *seen > to.cursor);
        let cursor = to.cursor;
        self.check(at_ms, Invariant::Order, odd.is_none(), to.team.as_str(), || {
            format!("own input at {odd:?} was not taken between cursors {from} and {cursor}")
        });
        let passed = self.passed_over(&to);
        self.check(at_ms, Invariant::Order, passed.is_none(), to.team.as_str(), || {
            format!(
                "cursor moved to {cursor}, past seq {:?}, which {:?} wants and never had",
                passed.as_ref().map(|found| found.1),
                passed.as_ref().map(|found| &found.0)
            )
        });
        before.teams.push((to.team.clone(), old));
        self.teams.insert(to.team.clone(), to);
    }

    /// An event that a member wants, has not been given, has not given up, and that the cursor leaves behind.
    fn passed_over(&self, to: &TeamRow) -> Option<(Name, u64)> {
        let members = self.members.get(&to.team)?;
        members.iter().map(|&place| &self.agents[place]).find_map(|agent| {
            if !agent.alive {
                return None;
            }
            let at = agent.wanted.partition_point(|(seq, _)| *seq <= agent.last);
            let left = agent.wanted.iter().skip(at).map(|(seq, _)| *seq).take_while(|seq| *seq <= to.cursor.get());
            let mut left = left.filter(|seq| {
                let id = self.ids.get(*seq as usize - 1);
                id.is_some_and(|id| !self.letters.contains(&(agent.name.clone(), *id)))
            });
            left.next().map(|seq| (agent.name.clone(), seq))
        })
    }

    fn event(&mut self, at_ms: u64, seq: u64, event: &Event) {
        let follows = seq == self.ids.len() as u64 + 1;
        self.check(at_ms, Invariant::Order, follows, event.source.as_str(), || {
            format!("seq {seq} does not follow the journal")
        });
        let first = self.by_id.insert(event.id, seq);
        self.check(at_ms, Invariant::ExactlyOnce, first.is_none(), event.source.as_str(), || {
            format!("event {} on {} is at seq {first:?} and at {seq}", event.id, event.topic)
        });
        self.ids.push(event.id);
        if let Some(key) = event.topic.memory_key() {
            let removed = event.payload.json().is_ok_and(|json| json == "null");
            if !self.memory.contains_key(key) {
                self.keys.push(key.into());
            }
            self.memory.entry(key.into()).or_default().push((seq, (!removed).then_some(event.id)));
        }
        let route = self.route(&event.topic);
        let team = self.by_name.get(&event.source).map(|&place| self.agents[place].team.clone());
        for &place in route.iter() {
            let agent = &mut self.agents[place];
            if team.as_ref() != Some(&agent.team) {
                agent.wanted.push_back((seq, at_ms));
            }
        }
    }

    fn route(&mut self, topic: &Topic) -> Arc<[usize]> {
        if let Some(route) = self.routes.get(topic) {
            return route.clone();
        }
        let wants = |agent: &AgentAccount| match topic.addressee() {
            Some(name) => agent.name.as_str() == name,
            None => agent.wants.filters.iter().any(|filter| filter.matches(topic.as_str())),
        };
        let route: Arc<[usize]> = (0..self.agents.len()).filter(|&place| wants(&self.agents[place])).collect();
        self.routes.insert(topic.clone(), route.clone());
        route
    }

    fn fact(&mut self, at_ms: u64, fact: &FactRow, before: &mut Before) {
        let key = fact_key(fact.kind, &fact.owner, &fact.key);
        let old = match &fact.value {
            Some(value) => {
                let hash = fact_hash(key, value);
                self.facts_fold ^= hash;
                self.facts.insert(key, hash)
            }
            None => self.facts.remove(&key),
        };
        self.facts_fold ^= old.unwrap_or(0);
        before.facts.push((key, old));
        if fact.kind == FactKind::DeadLetter
            && let (Ok(event), Some(value)) = (fact.key.parse::<EventId>(), &fact.value)
        {
            let failures = self.failures.get(&(fact.owner.clone(), event)).copied().unwrap_or(0);
            let attempts_max = self.by_name.get(&fact.owner).map_or(1, |&place| self.agents[place].attempts_max);
            let earned = failures >= attempts_max || value.contains("above");
            self.check(at_ms, Invariant::Contained, earned, fact.owner.as_str(), || {
                format!("gave up on {event} after {failures} failures of {attempts_max}: {value}")
            });
            self.letters.insert((fact.owner.clone(), event));
            before.letters.push((fact.owner.clone(), event));
        }
    }

    fn take_back(&mut self, before: Before) {
        for id in self.ids.drain(before.last..) {
            self.by_id.remove(&id);
        }
        let last = before.last as u64;
        for agent in &mut self.agents {
            while agent.wanted.back().is_some_and(|(seq, _)| *seq > last) {
                agent.wanted.pop_back();
            }
        }
        for versions in self.memory.values_mut() {
            while versions.last().is_some_and(|(seq, _)| *seq > last) {
                versions.pop();
            }
        }
        for (key, old) in before.facts.into_iter().rev() {
            match old {
                Some(old) => _ = self.facts.insert(key, old),
                None => _ = self.facts.remove(&key),
            }
        }
        for (team, old) in before.teams {
            match old {
                Some(old) => _ = self.teams.insert(team, old),
                None => _ = self.teams.remove(&team),
            }
        }
        for letter in before.letters {
            self.letters.remove(&letter);
        }
        self.facts_fold = before.fold;
    }

    fn as_of(&self, key: &str, at: Seq) -> Option<EventId> {
        let versions = self.memory.get(key)?;
        versions.iter().rev().find(|(seq, _)| *seq <= at.get())?.1
    }
}

fn name_of(invariant: Invariant) -> &'static str {
    match invariant {
        Invariant::Order => "order",
        Invariant::Atomic => "atomic",
        Invariant::Isolated => "isolated",
        Invariant::Durable => "durable",
        Invariant::ExactlyOnce => "exactly_once",
        Invariant::AsOf => "as_of",
        Invariant::Deterministic => "deterministic",
        Invariant::Bounded => "bounded",
        Invariant::Contained => "contained",
        Invariant::CleanStop => "clean_stop",
        Invariant::Fenced => "fenced",
        Invariant::NotStuck => "not_stuck",
    }
}

impl Invariant {
    /// Its name, as in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        name_of(self)
    }
}
