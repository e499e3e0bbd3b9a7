//! The ten guarantees as checkers over what happens: each check is counted, the first violation is kept.
//!
//! What is checked comes from three places: every batch that the store took (the truth), every turn as its agent sees
//! it, and looks from outside now and then. The auditor keeps its own small account of the truth, apart from the store:
//! hashes of facts, the place of each event, what each agent still has to be given.

mod routes;
mod timers;
mod undo;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use atra_bus::{Event, EventId, Interest, Name, Seq};
use atra_storage::{FactKind, FactRow, Read, StoreError, TeamRow, WriteBatch};
use routes::Route;
use rustc_hash::{FxHashMap, FxHashSet};
use timers::Timers;

use super::{
    disk::is_flushed,
    engine::{Engine, hash_text, mix},
    invariant::{Invariant, Outcome, Violation},
    places::Ids,
};
use crate::{Team, supervisor::interest};

/// Violations that are kept: the first tells the story, a few more show how wide it is.
const VIOLATIONS_MAX: usize = 8;
/// Virtual time after which an event that nobody has taken makes a team stuck, in milliseconds. Above the longest
/// planned stall, pause and downtime together.
const STUCK_MS: u64 = 30 * 60_000;
/// The same without further faults: how long a busy team may take to reach a timer.
const LATE_MS: u64 = 60_000;

/// The auditor's handle.
#[derive(Clone)]
pub(crate) struct Audit {
    engine: Engine,
    state: Arc<Mutex<State>>,
}

/// Names are looked up once, where something comes in; from there on agents and teams are places in lists. A run has
/// millions of events, and each of them passes here several times.
#[derive(Default)]
struct State {
    agents: Vec<AgentAccount>,
    by_name: FxHashMap<Name, usize>,
    teams: Vec<TeamAccount>,
    team_by_name: FxHashMap<Name, usize>,
    /// By the hash of the topic: what a run has seen lies far apart, and to compare texts is to fetch them.
    routes: FxHashMap<u64, Route>,
    ids: Ids,
    /// Hashes of facts by hash of their key, and all of them folded into one.
    facts: FxHashMap<u64, u64>,
    facts_fold: u64,
    timers: Timers,
    /// Versions of memory keys, in the order in which the keys were first written.
    memory: Vec<(Arc<str>, Vec<Version>)>,
    letters: FxHashSet<(usize, EventId)>,
    failures: FxHashMap<(usize, EventId), u32>,
    /// Agents of which a turn failed that was not planned to.
    failed_itself: BTreeSet<usize>,
    /// States after commits that are not flushed, oldest first; kept only if power can go.
    volatile: VecDeque<Before>,
    keeps_volatile: bool,
    acks: Vec<(u64, EventId, bool)>,
    stopped: bool,
    /// Looks from outside.
    n_looks: u64,
    /// Whether a cursor ever passed something that an agent of its team wants.
    was_taken: bool,
    /// By [`Invariant`].
    counts: [u64; Invariant::ALL.len()],
    own_counts: BTreeMap<String, u64>,
    violations: Vec<Violation>,
    recent: VecDeque<(u64, Recent)>,
}

/// A version of a memory key; who wrote it stands in the journal.
struct Version {
    seq: u64,
    is_removed: bool,
}

struct TeamAccount {
    name: Name,
    row: Option<Row>,
    /// Places of its agents.
    members: Vec<usize>,
    /// Of the batch that is being looked at: seq and recorded position of its own inputs. Empty between batches.
    own: Vec<(Seq, Seq)>,
}

/// A team's row without its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    epoch: u64,
    number: u64,
    cursor: Seq,
}

impl From<&TeamRow> for Row {
    fn from(row: &TeamRow) -> Self {
        Self { epoch: row.epoch, number: row.number, cursor: row.cursor }
    }
}

/// What happened, told in words only when somebody asks.
enum Recent {
    Committed { last: usize, events: usize, facts: usize, teams: usize },
    Opened(Seq),
    Starts { agent: usize, after: u64 },
    Broken { invariant: String, key: String, text: String },
}

/// What each event and turn looks at lies close together; the rest is elsewhere.
struct AgentAccount {
    spec: Box<Spec>,
    team: usize,
    /// (seq, committed at) of foreign events that it wants, oldest first.
    wanted: VecDeque<(u64, u64)>,
    /// The last foreign seq that this instance was given.
    last: u64,
    alive: bool,
}

/// What does not change of an agent.
struct Spec {
    name: Name,
    wants: Interest,
    owned: Arc<[String]>,
    /// Failures that it takes to give up an event.
    attempts_max: u32,
}

/// What a commit wrote over.
struct Before {
    last: usize,
    fold: u64,
    facts: Vec<(u64, Option<u64>)>,
    teams: Vec<(usize, Option<Row>)>,
    letters: Vec<(usize, EventId)>,
}

const NEVER_LOOKED: &str = "the run was too short for a look";
/// Agents that a deadlock names.
const UNSETTLED_MAX: usize = 12;
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
            let team_place = state.team(team.name());
            for spec in team.specs() {
                let own = format!("to.{}.>", spec.name);
                let mut filters = spec.subscribes.clone();
                filters.extend(atra_bus::Filter::new(&own));
                let wants = Interest { filters, except: whole.except.clone() };
                let place = state.agents.len();
                state.by_name.insert(spec.name.clone(), place);
                state.teams[team_place].members.push(place);
                state.agents.push(AgentAccount {
                    spec: Box::new(Spec {
                        name: spec.name.clone(),
                        wants,
                        owned: owned.clone(),
                        attempts_max: spec.attempts_max,
                    }),
                    team: team_place,
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

    /// Where an agent stands in the account; the handle that its turns give.
    pub(crate) fn place_of(&self, agent: &Name) -> usize {
        let place = self.state().by_name.get(agent).copied();
        place.unwrap_or_else(|| panic!("agent {agent} is in no team of this simulation"))
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
        *state.own_counts.entry(name.to_owned()).or_insert(0) += 1;
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
        let sources = state.sources(batch);
        for (committed, source) in batch.events.iter().zip(&sources) {
            if let (Some(at), Some(place)) = (committed.seen, *source) {
                let team = state.agents[place].team;
                state.teams[team].own.push((committed.seq, at));
            }
        }
        for moved in &batch.teams {
            let team = state.team(&moved.to.team);
            state.move_team(at_ms, team, &moved.to, &mut before);
        }
        for (committed, source) in batch.events.iter().zip(sources) {
            hash = mix(hash, committed.event.id.seed());
            state.event(at_ms, committed.seq.get(), &committed.event, source);
        }
        hash = mix(hash, state.facts_fold);
        if state.keeps_volatile {
            state.volatile.push_back(before);
            if is_flushed(batch.level) {
                state.volatile.clear();
            }
        }
        let (events, facts, teams) = (batch.events.len(), batch.facts.len(), batch.teams.len());
        let last = state.ids.len();
        state.remember(at_ms, Recent::Committed { last, events, facts, teams });
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
        let there = state.ids.seq_of(&id) == Some(seq.get());
        state.check(at_ms, Invariant::Durable, there, id.to_string().as_str(), || {
            format!("publish was answered with seq {seq}, but the store has not committed it there")
        });
        state.acks.push((seq.get(), id, survives_power));
    }

    /// The store was opened again: what is in it must be what the account says.
    pub(crate) async fn reopened(&self, reader: &dyn Read, power: bool) -> Result<(), StoreError> {
        let last = reader.last_seq().await?;
        let teams = reader.teams().await?;
        let at_ms = self.engine.now_ms();
        let (mut fold, mut timers) = (0, Timers::default());
        for kind in FactKind::ALL {
            for row in reader.facts(kind, None).await? {
                let key = fact_key(kind, &row.owner, &row.key);
                fold ^= fact_hash(key, row.value.as_deref().unwrap_or_default());
                if kind == FactKind::Timer {
                    timers.fact(at_ms, key, &row);
                }
            }
        }
        let mut state = self.state();
        let same = |state: &State| {
            let is_known = |row: &TeamRow| {
                state.team_by_name.get(&row.team).is_some_and(|&place| state.teams[place].row == Some(row.into()))
            };
            let n_rows = state.teams.iter().filter(|team| team.row.is_some()).count();
            state.ids.len() as u64 == last.get()
                && state.facts_fold == fold
                && n_rows == teams.len()
                && teams.iter().all(is_known)
        };
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
            let there = |seq: u64, id: EventId| state.ids.at(seq) == Some(&id);
            state.acks.iter().filter(|(seq, id, _)| !there(*seq, *id)).copied().collect()
        };
        for (seq, id, survives_power) in &lost {
            let ok = power && !survives_power;
            state.check(at_ms, Invariant::Durable, ok, &id.to_string(), || {
                format!("acknowledged event at seq {seq} is gone")
            });
        }
        state.acks.retain(|ack| !lost.contains(ack));
        // Each that is there was a check too.
        state.counts[Invariant::Durable as usize] += state.acks.len() as u64;
        for agent in &mut state.agents {
            agent.alive = false;
        }
        state.stopped = false;
        state.timers = timers;
        state.remember(at_ms, Recent::Opened(last));
        Ok(())
    }

    // === turns ===

    /// An agent was built from committed state.
    pub(crate) fn started(&self, agent: usize) {
        let at_ms = self.engine.now_ms();
        let mut state = self.state();
        let after = state.cursor_of(state.agents[agent].team);
        let account = &mut state.agents[agent];
        account.last = after;
        account.alive = true;
        state.remember(at_ms, Recent::Starts { agent, after });
    }

    /// A turn begins.
    pub(crate) fn turn(&self, agent: usize, event: &Event, position: Seq) {
        let at_ms = self.engine.now_ms();
        let mut guard = self.state();
        let state = &mut *guard;
        let name = |state: &State| state.agents[agent].spec.name.to_string();
        let is_stopped = state.stopped;
        state.check_of(at_ms, Invariant::CleanStop, !is_stopped, name, |_| {
            format!("had a turn on {} after the runtime had stopped", event.topic)
        });
        // A foreign input stands at the position itself; what came of it is looked up.
        let at = if state.ids.at(position.get()) == Some(&event.id) {
            Some(position.get())
        } else if state.is_teammate(agent, &event.source) {
            return;
        } else {
            state.ids.seq_of(&event.id)
        };
        state.check_of(at_ms, Invariant::Isolated, at.is_some(), name, |_| {
            format!("was given {} {} of {}, which is not committed", event.topic, event.id, event.source)
        });
        let Some(seq) = at else { return };
        let account = &state.agents[agent];
        let last = account.last;
        let at = account.wanted.partition_point(|(wanted, _)| *wanted <= last);
        let missed = account
            .wanted
            .iter()
            .skip(at)
            .map(|(wanted, _)| *wanted)
            .take_while(|wanted| *wanted < seq)
            .find(|wanted| state.is_owed(agent, *wanted));
        let ok = seq > last && missed.is_none();
        state.check_of(at_ms, Invariant::Order, ok, name, |_| match missed {
            Some(missed) => format!("was given seq {seq} and never seq {missed}, which it wants"),
            None => format!("was given seq {seq} after seq {last}"),
        });
        state.check_of(at_ms, Invariant::AsOf, position.get() >= seq, name, |_| {
            format!("handles seq {seq} at position {position}")
        });
        state.agents[agent].last = seq.max(last);
    }

    /// Virtual time since the begin, in milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        self.engine.now_ms()
    }

    /// A turn failed, as planned or by the agent's own doing.
    pub(crate) fn failed(&self, agent: usize, event: &Event, is_planned: bool) {
        let mut state = self.state();
        *state.failures.entry((agent, event.id)).or_insert(0) += 1;
        state.failed_itself.extend((!is_planned).then_some(agent));
    }

    /// Whether a turn of one of the team's agents failed by its own doing.
    pub(crate) fn failed_itself(&self, team: &Name) -> bool {
        let state = self.state();
        let is_of = |agent: &usize| state.teams[state.agents[*agent].team].name == *team;
        state.failed_itself.iter().any(is_of)
    }

    /// A key that nobody in the agent's team owns, drawn by `draw`, and who wrote it last as of `at`.
    pub(crate) fn sample(&self, agent: usize, draw: u64, at: Seq) -> Option<(Arc<str>, Option<EventId>)> {
        let state = self.state();
        let (key, versions) = state.drawn(draw)?;
        if state.agents[agent].spec.owned.iter().any(|prefix| key.starts_with(prefix.as_str())) {
            return None;
        }
        Some((key.clone(), state.as_of(versions, at)))
    }

    /// A key, drawn by `draw`, and who wrote it last as of `at`.
    pub(crate) fn sample_outside(&self, draw: u64, at: Seq) -> Option<(Arc<str>, Option<EventId>)> {
        let state = self.state();
        let (key, versions) = state.drawn(draw)?;
        Some((key.clone(), state.as_of(versions, at)))
    }

    // === looks from outside ===

    /// The runtime is looked at.
    pub(crate) fn looked(&self) {
        self.state().n_looks += 1;
    }

    /// The runtime says that it has stopped.
    pub(crate) fn stopped(&self) {
        self.state().stopped = true;
    }

    /// Whether every agent has taken, or its team passed over, what it wants. With `all`, whatever its age.
    pub(crate) fn look_for_stuck(&self, all: bool, excused: &BTreeSet<Name>) {
        let at_ms = self.engine.now_ms();
        let mut guard = self.state();
        let state = &mut *guard;
        let (mut stuck, mut late) = (Vec::new(), Vec::new());
        for place in 0..state.agents.len() {
            let cursor = state.cursor_of(state.agents[place].team);
            state.forget_taken(place, cursor);
            let (agent, team) = (&state.agents[place], &state.teams[state.agents[place].team]);
            let settled = if all { cursor.max(agent.last) } else { cursor };
            let at = agent.wanted.partition_point(|(seq, _)| *seq <= settled);
            let Some((seq, since)) = agent.wanted.get(at) else { continue };
            if !excused.contains(&team.name) && (all || since + STUCK_MS < at_ms) {
                stuck.push((agent.spec.name.clone(), *seq, *since));
            }
        }
        for timer in state.timers.overdue(at_ms, if all { LATE_MS } else { STUCK_MS }) {
            let is_excused = state
                .by_name
                .get(&timer.owner)
                .is_none_or(|place| excused.contains(&state.teams[state.agents[*place].team].name));
            if !is_excused {
                late.push((timer.owner.clone(), timer.after_ms, timer.since_ms));
            }
        }
        if stuck.is_empty() && late.is_empty() {
            state.check(at_ms, Invariant::NotStuck, true, "", String::new);
        }
        for (name, seq, since) in stuck {
            state.check(at_ms, Invariant::NotStuck, false, name.as_str(), || {
                format!("has not settled seq {seq}, which was committed at {since} ms")
            });
        }
        for (name, after, since) in late {
            state.check(at_ms, Invariant::NotStuck, false, name.as_str(), || {
                format!("a timer of {after} ms that was set or found at {since} ms has not fired")
            });
        }
    }

    /// Says what has not been taken, oldest first. It does not hold the engine, which holds it.
    pub(crate) fn unsettled(self) -> Box<dyn Fn() -> String + Send + Sync> {
        let state = self.state;
        Box::new(move || {
            let state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let first = |agent: &AgentAccount| {
                let settled = state.cursor_of(agent.team).max(agent.last);
                let (seq, since) = *agent.wanted.iter().find(|(seq, _)| *seq > settled)?;
                Some(format!("{} has not taken seq {seq}, committed at {since} ms", agent.spec.name))
            };
            state.agents.iter().filter_map(first).take(UNSETTLED_MAX).collect::<Vec<_>>().join("; ")
        })
    }

    /// Events in the journal.
    pub(crate) fn n_events(&self) -> u64 {
        self.state().ids.len() as u64
    }

    /// What all checks came to.
    pub(crate) fn outcome(&self) -> Outcome {
        let state = self.state();
        let mut found = Outcome { violations: state.violations.clone(), ..Outcome::default() };
        for invariant in Invariant::ALL {
            let (name, n) = (invariant.name().to_owned(), state.counts[invariant as usize]);
            match state.why_not(invariant).filter(|_| n == 0) {
                Some(reason) => _ = found.not_applicable.insert(name, reason.to_owned()),
                None => _ = found.checks.insert(name, n),
            }
        }
        found.checks.extend(state.own_counts.clone());
        found.recent = state.recent.iter().map(|(at_ms, what)| format!("{at_ms} ms: {}", state.told(what))).collect();
        found
    }
}

// === impl State ===

impl State {
    #[inline]
    fn check(&mut self, at_ms: u64, invariant: Invariant, ok: bool, key: &str, text: impl FnOnce() -> String) {
        self.counts[invariant as usize] += 1;
        if !ok {
            self.violate(Violation { invariant: invariant.name().into(), key: key.into(), at_ms, text: text() });
        }
    }

    /// A check of something whose name is told only when it failed.
    #[inline]
    fn check_of(
        &mut self,
        at_ms: u64,
        invariant: Invariant,
        ok: bool,
        key: impl FnOnce(&Self) -> String,
        text: impl FnOnce(&Self) -> String,
    ) {
        self.counts[invariant as usize] += 1;
        if !ok {
            let (key, text) = (key(self), text(self));
            self.violate(Violation { invariant: invariant.name().into(), key, at_ms, text });
        }
    }

    /// Why nothing in this run called for this check; `None`: something did. Told by the account of the truth, never by
    /// the checker itself: one that was taken out must not excuse itself.
    fn why_not(&self, invariant: Invariant) -> Option<&'static str> {
        let is_taken = |agent: &AgentAccount| {
            let cursor = self.cursor_of(agent.team);
            agent.wanted.front().is_some_and(|(seq, _)| *seq <= cursor)
        };
        let was_taken = self.was_taken || self.agents.iter().any(is_taken);
        let is_moved = self.teams.iter().any(|team| team.row.is_some());
        let (is_applicable, otherwise) = match invariant {
            Invariant::Atomic | Invariant::CleanStop => (true, ""),
            Invariant::Order | Invariant::ExactlyOnce => (self.ids.len() > 0, "nothing was committed"),
            Invariant::Fenced => (is_moved, "no team has committed anything"),
            Invariant::Isolated => (was_taken, "no team has taken an event of anybody else"),
            Invariant::AsOf => {
                (was_taken || (self.n_looks > 0 && !self.memory.is_empty()), "nobody has read what somebody else wrote")
            }
            Invariant::Durable => (!self.acks.is_empty(), "no caller was answered"),
            Invariant::Bounded | Invariant::NotStuck => (self.n_looks > 0, NEVER_LOOKED),
            Invariant::Contained | Invariant::HasTask => (self.n_looks > 0 && !self.teams.is_empty(), NEVER_LOOKED),
            Invariant::Deterministic => (false, "nothing was decided again"),
        };
        (!is_applicable).then_some(otherwise)
    }

    fn violate(&mut self, violation: Violation) {
        if self.violations.len() < VIOLATIONS_MAX {
            let Violation { invariant, key, at_ms, text } = violation.clone();
            self.remember(at_ms, Recent::Broken { invariant, key, text });
            self.violations.push(violation);
        }
    }

    /// Keeps what happened for who asks what went before; the first check that failed ends it.
    fn remember(&mut self, at_ms: u64, what: Recent) {
        if !self.violations.is_empty() {
            return;
        }
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((at_ms, what));
    }

    fn told(&self, what: &Recent) -> String {
        match what {
            Recent::Committed { last, events, facts, teams } => {
                format!("committed up to seq {last} ({events} events, {facts} facts, {teams} teams)")
            }
            Recent::Opened(last) => format!("opened at seq {last}"),
            Recent::Starts { agent, after } => format!("{} starts after seq {after}", self.agents[*agent].spec.name),
            Recent::Broken { invariant, key, text } => format!("{invariant} of {key} broken: {text}"),
        }
    }

    /// The place of a team, a new one if it was never heard of.
    fn team(&mut self, name: &Name) -> usize {
        if let Some(&place) = self.team_by_name.get(name) {
            return place;
        }
        self.teams.push(TeamAccount { name: name.clone(), row: None, members: Vec::new(), own: Vec::new() });
        self.team_by_name.insert(name.clone(), self.teams.len() - 1);
        self.teams.len() - 1
    }

    fn cursor_of(&self, team: usize) -> u64 {
        self.teams[team].row.as_ref().map_or(0, |row| row.cursor.get())
    }

    /// Forgets what an agent's team has taken, which nobody asks for any more.
    fn forget_taken(&mut self, agent: usize, cursor: u64) {
        // Power may take a cursor back, so what is behind it is kept while that can happen.
        if self.keeps_volatile && !self.volatile.is_empty() {
            return;
        }
        let wanted = &mut self.agents[agent].wanted;
        while wanted.front().is_some_and(|(seq, _)| *seq <= cursor) {
            wanted.pop_front();
            self.was_taken = true;
        }
    }

    fn is_teammate(&self, agent: usize, source: &Name) -> bool {
        let account = &self.agents[agent];
        account.spec.name == *source || self.by_name.get(source).is_some_and(|&of| self.agents[of].team == account.team)
    }

    /// The inputs that the team made in this batch are those that its account holds; they are gone afterwards.
    fn move_team(&mut self, at_ms: u64, team: usize, to: &TeamRow, before: &mut Before) {
        let account = &mut self.teams[team];
        let old = account.row.replace(to.into());
        let mut own = std::mem::take(&mut account.own);
        let ok = old.is_none_or(|old| {
            to.epoch >= old.epoch
                && to.number >= old.number
                && to.cursor >= old.cursor
                && (to.epoch, to.number) != (old.epoch, old.number)
        });
        self.check(at_ms, Invariant::Fenced, ok, to.team.as_str(), || format!("moved from {old:?} to {to:?}"));
        let (from, cursor) = (old.map_or(Seq::ZERO, |old| old.cursor), to.cursor);
        let odd = own.iter().find(|(_, seen)| *seen < from || *seen > cursor);
        self.check(at_ms, Invariant::Order, odd.is_none(), to.team.as_str(), || {
            format!("own input at {odd:?} was not taken between cursors {from} and {cursor}")
        });
        let passed = self.passed_over(team, cursor.get());
        self.check(at_ms, Invariant::Order, passed.is_none(), to.team.as_str(), || {
            format!(
                "cursor moved to {cursor}, past seq {:?}, which {:?} wants and never had",
                passed.as_ref().map(|found| found.1),
                passed.as_ref().map(|found| &found.0)
            )
        });
        if self.keeps_volatile {
            before.teams.push((team, old));
        }
        own.clear();
        self.teams[team].own = own;
        for member in 0..self.teams[team].members.len() {
            self.forget_taken(self.teams[team].members[member], cursor.get());
        }
    }

    /// An event that a member wants, has not been given, has not given up, and that the cursor leaves behind.
    fn passed_over(&self, team: usize, cursor: u64) -> Option<(Name, u64)> {
        self.teams[team].members.iter().find_map(|&place| {
            let agent = &self.agents[place];
            if !agent.alive {
                return None;
            }
            let at = agent.wanted.partition_point(|(seq, _)| *seq <= agent.last);
            let left = agent.wanted.iter().skip(at).map(|(seq, _)| *seq).take_while(|seq| *seq <= cursor);
            let mut left = left.filter(|seq| self.is_owed(place, *seq));
            left.next().map(|seq| (agent.spec.name.clone(), seq))
        })
    }

    fn event(&mut self, at_ms: u64, seq: u64, event: &Event, source: Option<usize>) {
        let follows = seq == self.ids.len() as u64 + 1;
        self.check(at_ms, Invariant::Order, follows, event.source.as_str(), || {
            format!("seq {seq} does not follow the journal")
        });
        let first = self.ids.push(event.id);
        self.check(at_ms, Invariant::ExactlyOnce, first.is_none(), event.source.as_str(), || {
            format!("event {} on {} is at seq {first:?} and at {seq}", event.id, event.topic)
        });
        let Self { routes, agents, memory, .. } = self;
        let route = routes.entry(hash_text(event.topic.as_str()));
        let route = route.or_insert_with(|| Route::of(&event.topic, agents, memory));
        if let Some(place) = route.key {
            let is_removed = event.payload.is_null();
            memory[place as usize].1.push(Version { seq, is_removed });
        }
        let team = source.map(|place| agents[place].team);
        for &place in route.agents.places() {
            let agent = &mut agents[place as usize];
            if team != Some(agent.team) {
                agent.wanted.push_back((seq, at_ms));
            }
        }
    }

    /// The places of the agents that made the events: a step's are one after another, and most are of one agent.
    fn sources(&self, batch: &WriteBatch) -> Vec<Option<usize>> {
        let (mut last, mut found) = (std::ptr::null(), None);
        let place = |name: &Name| {
            // The same text in memory: looked up already.
            let at = name.as_str().as_ptr();
            if !std::ptr::eq(at, last) {
                (last, found) = (at, self.by_name.get(name).copied());
            }
            found
        };
        batch.events.iter().map(|committed| &committed.event.source).map(place).collect()
    }

    /// Whether an agent has not given up what is at this seq.
    fn is_owed(&self, agent: usize, seq: u64) -> bool {
        self.ids.at(seq).is_some_and(|id| self.letters.is_empty() || !self.letters.contains(&(agent, *id)))
    }

    /// Who wrote a key last as of `at`; `None`: nobody, or it was removed.
    fn as_of(&self, versions: &[Version], at: Seq) -> Option<EventId> {
        let version = versions.iter().rev().find(|version| version.seq <= at.get())?;
        if version.is_removed { None } else { self.ids.at(version.seq).copied() }
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
        if fact.kind == FactKind::Timer {
            self.timers.fact(at_ms, key, fact);
        }
        if self.keeps_volatile {
            before.facts.push((key, old));
        }
        if fact.kind == FactKind::DeadLetter
            && let (Ok(event), Some(value)) = (fact.key.parse::<EventId>(), &fact.value)
        {
            // An agent that nobody knows has earned none.
            let agent = self.by_name.get(&fact.owner).copied().unwrap_or(usize::MAX);
            let failures = self.failures.get(&(agent, event)).copied().unwrap_or(0);
            let attempts_max = self.agents.get(agent).map_or(1, |account| account.spec.attempts_max);
            let earned = failures >= attempts_max || value.contains("above");
            self.check(at_ms, Invariant::Contained, earned, fact.owner.as_str(), || {
                format!("gave up on {event} after {failures} failures of {attempts_max}: {value}")
            });
            self.letters.insert((agent, event));
            before.letters.push((agent, event));
        }
    }

    /// A key that was ever written, with its versions.
    fn drawn(&self, draw: u64) -> Option<&(Arc<str>, Vec<Version>)> {
        self.memory.get((draw % self.memory.len().max(1) as u64) as usize)
    }
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
