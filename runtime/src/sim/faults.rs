//! Faults: explicit records, addressed by what they hit and never by when.
//!
//! A plan either *draws* them (each opportunity has an address; whether a fault happens there is a function of seed,
//! class and address) or *repeats* a list. What fired is recorded, so a drawn run can be repeated as a list, and a list
//! can be made shorter: taking one record away moves none of the others.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atra_bus::{Event, EventId, Name};
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};

use super::engine::{hash_text, mix};

/// Teams for which the rate is meant at which something happens to all of them at once: 20.
pub(super) const TEAMS_PER_RATE: usize = 20;

/// Inputs that are remembered: what a search for a smaller case can leave out one by one.
const INPUTS_MAX: usize = 100_000;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultClass {
    /// A handler panics; the same turn may do so twice.
    AgentPanic,
    /// A handler returns an error.
    AgentError,
    /// A handler never becomes ready: the turn's time-out ends it.
    AgentHang,
    /// A handler takes its time.
    AgentSlow,
    /// A commit finds the store busy; nothing is written.
    CommitBusy,
    /// A commit fails without effect, and says that it does not know.
    CommitLost,
    /// A commit takes effect, and says that it does not know.
    CommitUnknown,
    /// No space for a few commits.
    DiskFull,
    /// A commit takes up to a minute.
    DiskStall,
    /// Every commit takes some milliseconds.
    Latency,
    /// The process dies before a commit, or right after it, and starts again on what is committed.
    Crash,
    /// The machine dies: commits that were not flushed may be lost, newest first.
    PowerLoss,
    /// Wall time jumps, in either direction.
    ClockStep,
    /// An operator pauses a team for a while.
    Pause,
    /// An operator restarts a team.
    Restart,
    /// An operator stops the runtime cleanly and starts it again.
    Stop,
    /// Not promised: a crash of the process loses a commit that was answered.
    DiskLies,
    /// Not promised: a process dies in the middle of a commit, which is there without one of its facts.
    TornCommit,
    /// A source fails, or just ends, instead of giving an input.
    SourceFail,
    /// The process dies between two polls of its tasks, and starts again on what is committed.
    Kill,
    /// A task of the runtime is not polled for up to a second.
    TaskStall,
    /// Wall time jumps by hours for good, or by decades for a moment.
    ClockJump,
}

impl FaultClass {
    /// What atra promises to survive.
    pub const SURVIVED: [Self; 20] = [
        Self::AgentPanic,
        Self::AgentError,
        Self::AgentHang,
        Self::AgentSlow,
        Self::CommitBusy,
        Self::CommitLost,
        Self::CommitUnknown,
        Self::DiskFull,
        Self::DiskStall,
        Self::Latency,
        Self::Crash,
        Self::PowerLoss,
        Self::ClockStep,
        Self::Pause,
        Self::Restart,
        Self::Stop,
        Self::SourceFail,
        Self::Kill,
        Self::TaskStall,
        Self::ClockJump,
    ];
    /// What nothing can survive: each must make an invariant fail, which shows that the checkers bite.
    pub const NOT_PROMISED: [Self; 2] = [Self::DiskLies, Self::TornCommit];
    /// How many there are.
    const N: usize = Self::SURVIVED.len() + Self::NOT_PROMISED.len();

    /// Its name, as in files and on the command line.
    #[must_use]
    pub fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// The class with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        serde_json::from_value(serde_json::Value::String(name.into())).ok()
    }

    /// What goes wrong less in the same place, for who looks for the least that is enough.
    #[must_use]
    pub fn milder(self) -> Option<Self> {
        match self {
            Self::PowerLoss => Some(Self::Crash),
            Self::Crash => Some(Self::Stop),
            Self::Stop => Some(Self::Restart),
            Self::Restart => Some(Self::Pause),
            Self::CommitUnknown => Some(Self::CommitLost),
            Self::CommitLost | Self::DiskFull => Some(Self::CommitBusy),
            Self::DiskStall => Some(Self::Latency),
            Self::AgentPanic => Some(Self::AgentError),
            Self::AgentHang => Some(Self::AgentSlow),
            Self::Kill => Some(Self::TaskStall),
            Self::ClockJump => Some(Self::ClockStep),
            _ => None,
        }
    }

    /// Whether it hits all teams at once.
    fn is_of_all(self) -> bool {
        matches!(self, Self::Crash | Self::PowerLoss | Self::Stop | Self::DiskStall | Self::Kill | Self::TaskStall)
    }

    /// How many opportunities there are to one fault, before the seed's own factor.
    fn one_in(self) -> u64 {
        match self {
            Self::Latency => 2,
            Self::CommitBusy => 100,
            Self::CommitLost | Self::CommitUnknown => 150,
            Self::AgentSlow => 300,
            Self::DiskStall | Self::Pause | Self::Restart | Self::ClockStep => 400,
            Self::DiskFull | Self::AgentError | Self::SourceFail => 600,
            Self::Crash | Self::AgentPanic => 800,
            Self::PowerLoss | Self::Stop | Self::ClockJump => 1_200,
            Self::AgentHang => 3_000,
            Self::DiskLies | Self::TornCommit => 200,
            // Of polls there are ten for each commit, and many more where agents are.
            Self::TaskStall => 4_000,
            Self::Kill => 12_000,
        }
    }
}

/// Where a fault happens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultAt {
    /// A turn: this subscriber on this event of this publisher. The event's id derives from what led to it, so it stays
    /// when other faults go, as a count of the publisher's events would not.
    Turn {
        /// Who published it.
        publisher: Name,
        /// The event.
        event: EventId,
        /// Whose turn.
        subscriber: Name,
    },
    /// An input of a source, before it is given: after what it was read.
    Input {
        /// The source.
        source: Name,
        /// Partition and offset of the input.
        offset: String,
    },
    /// The n-th commit that the store was asked for, over all incarnations.
    Commit {
        /// 1, 2, 3 …
        n: u64,
    },
    /// The n-th poll of a task.
    Poll {
        /// The task's name.
        task: String,
        /// How many tasks of this name were started before it: one in each life of the process, for most.
        nth: u32,
        /// 1, 2, 3 …
        n: u64,
    },
    /// The n-th commit of one life of the process. Never drawn: for plans that kill each life at the same write.
    CommitOfLife {
        /// 1, 2, 3 …
        life: u32,
        /// 1, 2, 3 …
        n: u64,
    },
}

impl FaultAt {
    fn key(&self) -> u64 {
        match self {
            Self::Turn { event, subscriber, .. } => mix(hash_text(subscriber.as_str()), event.seed()),
            Self::Input { source, offset } => input_key(source, offset),
            Self::Commit { n } => mix(0xC0, *n),
            Self::CommitOfLife { life, n } => life_key(*life, *n),
            Self::Poll { task, nth, n } => poll_key(task, *nth, *n),
        }
    }
}

fn life_key(life: u32, n: u64) -> u64 {
    mix(mix(0xC1, life.into()), n)
}

fn poll_key(task: &str, nth: u32, n: u64) -> u64 {
    mix(mix(hash_text(task), nth.into()), n)
}

fn input_key(source: &Name, offset: &str) -> u64 {
    mix(hash_text(source.as_str()), hash_text(offset))
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fault {
    /// What.
    pub class: FaultClass,
    /// Where.
    pub at: FaultAt,
}

impl Fault {
    /// The same at half the count that it is addressed by.
    pub(super) fn sooner(&self) -> Self {
        let mut sooner = self.clone();
        if let FaultAt::Commit { n } | FaultAt::CommitOfLife { n, .. } | FaultAt::Poll { n, .. } = &mut sooner.at {
            *n = n.div_ceil(2);
        }
        sooner
    }
}

/// Something that came in from outside: who brought it, and its name there. A caller's is its key, a source's partition
/// and offset; so it stays when others go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InputAt {
    /// The caller, or the source.
    pub from: Name,
    /// The caller's key; partition and offset of a source.
    pub key: String,
}

/// Which faults a run has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultPlan {
    /// None.
    None,
    /// Drawn from the seed: of these classes a random subset, each with a random rate.
    Drawn(Vec<FaultClass>),
    /// Drawn from the seed, all of these classes.
    Each(Vec<FaultClass>),
    /// Exactly these.
    Exactly(Vec<Fault>),
}

impl FaultPlan {
    /// The classes that it names.
    #[must_use]
    pub fn classes(&self) -> Vec<FaultClass> {
        let mut classes = match self {
            Self::None => Vec::new(),
            Self::Drawn(classes) | Self::Each(classes) => classes.clone(),
            Self::Exactly(list) => list.iter().map(|fault| fault.class).collect(),
        };
        classes.sort_unstable();
        classes.dedup();
        classes
    }

    /// A random subset of everything that atra promises to survive.
    #[must_use]
    pub fn survivable() -> Self {
        Self::Drawn(FaultClass::SURVIVED.to_vec())
    }
}

/// The plan at work.
#[derive(Clone)]
pub(crate) struct Faults(Arc<Mutex<State>>);

struct State {
    seed: u64,
    /// The classes that the plan names.
    asked: Vec<FaultClass>,
    /// The classes that the seed drew, in order.
    classes: Vec<FaultClass>,
    /// Chance by class, of 2^32.
    chances: [u64; FaultClass::N],
    exactly: Option<FxHashSet<(FaultClass, u64)>>,
    healed: bool,
    fired: Vec<Fault>,
    seen: FxHashSet<(FaultClass, u64)>,
    full_left: u64,
    /// Commits that found no space, and whether the last one did.
    full: (u64, bool),
    /// How often each turn, or each input of a source, went wrong.
    turns: FxHashMap<u64, u32>,
    /// What came in, in order, and all of it by key.
    given: (Vec<InputAt>, FxHashSet<u64>),
    /// If it is so: nothing else may come in.
    only: Option<FxHashSet<u64>>,
}

impl Faults {
    /// `n_teams`: every team commits, so what hits all of them (a death, a stop, a stall of their one disk) is planned for
    /// fewer commits of a process that has many. Else it never gets through a start, or has no time left between stalls.
    /// `inputs`: if it is said, nothing else comes in.
    pub(crate) fn new(seed: u64, plan: &FaultPlan, n_teams: usize, inputs: Option<&[InputAt]>) -> Self {
        let (mut drawn, mut chances) = (Vec::new(), [0; FaultClass::N]);
        let mut exactly = None;
        let classes: &[FaultClass] = match plan {
            FaultPlan::None => &[],
            FaultPlan::Drawn(classes) | FaultPlan::Each(classes) => classes,
            FaultPlan::Exactly(list) => {
                exactly = Some(list.iter().map(|fault| (fault.class, fault.at.key())).collect());
                &[]
            }
        };
        for &class in classes {
            let draw = mix(mix(seed, 0xFA17), class as u64);
            if matches!(plan, FaultPlan::Drawn(_)) && draw & 1 == 0 {
                continue;
            }
            // A quarter, once, or four times the usual rate.
            let factor = [1, 4, 16][((draw >> 8) % 3) as usize];
            let whole = class.is_of_all();
            let spread = if whole { (n_teams / TEAMS_PER_RATE).max(1) as u64 } else { 1 };
            drawn.push(class);
            chances[class as usize] = (factor << 32) / (class.one_in() * 4 * spread);
        }
        drawn.sort_unstable();
        let state = State {
            seed,
            asked: plan.classes(),
            classes: drawn,
            chances,
            exactly,
            healed: false,
            fired: Vec::new(),
            seen: FxHashSet::default(),
            full_left: 0,
            full: (0, false),
            turns: FxHashMap::default(),
            given: (Vec::new(), FxHashSet::default()),
            only: inputs.map(|list| list.iter().map(|input| input_key(&input.from, &input.key)).collect()),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on nothing new goes wrong.
    pub(crate) fn heal(&self) {
        let mut state = self.state();
        state.healed = true;
        state.full_left = 0;
    }

    /// What fired so far, in order.
    pub(crate) fn fired(&self) -> Vec<Fault> {
        self.state().fired.clone()
    }

    /// What came in so far, in order.
    pub(crate) fn given(&self) -> Vec<InputAt> {
        self.state().given.0.clone()
    }

    /// Whether this may come in from outside; what may is remembered.
    pub(crate) fn gives(&self, from: &Name, key: &str) -> bool {
        let mut state = self.state();
        let hash = input_key(from, key);
        if state.only.as_ref().is_some_and(|only| !only.contains(&hash)) {
            return false;
        }
        if state.given.0.len() < INPUTS_MAX && state.given.1.insert(hash) {
            state.given.0.push(InputAt { from: from.clone(), key: key.to_owned() });
        }
        true
    }

    pub(crate) fn may(&self, class: FaultClass) -> bool {
        let state = self.state();
        state.classes.contains(&class)
            || state.exactly.as_ref().is_some_and(|list| list.iter().any(|(of, _)| *of == class))
    }

    /// The classes that the plan names.
    pub(crate) fn asked(&self) -> Vec<FaultClass> {
        self.state().asked.clone()
    }

    /// The classes that this seed drew.
    pub(crate) fn classes(&self) -> Vec<FaultClass> {
        self.state().classes.clone()
    }

    /// Whether a turn goes wrong, and how. Whatever its classes, and however often the process dies meanwhile, a turn
    /// goes wrong at most twice: the third try is the one that counts.
    /// `subscriber_key` is the hash of its name.
    pub(crate) fn turn(&self, event: &Event, subscriber: &Name, subscriber_key: u64) -> Option<(FaultClass, u64)> {
        use FaultClass::{AgentError, AgentHang, AgentPanic, AgentSlow};
        let mut state = self.state();
        if state.is_quiet() {
            return None;
        }
        let key = mix(subscriber_key, event.id.seed());
        for class in [AgentPanic, AgentError, AgentHang, AgentSlow] {
            let draw = mix(key, class as u64);
            let so_far = state.turns.get(&key).copied().unwrap_or(0);
            if so_far <= draw as u32 & 1 && state.fires(class, key) {
                state.turns.insert(key, so_far + 1);
                let (publisher, subscriber) = (event.source.clone(), subscriber.clone());
                let at = || FaultAt::Turn { publisher, event: event.id, subscriber };
                state.record(class, key, at);
                return Some((class, draw >> 8));
            }
        }
        None
    }

    /// Whether a source fails instead of giving an input: `Some(true)` with an error, `Some(false)` by just ending. At
    /// most twice in the same place.
    pub(crate) fn input(&self, source: &Name, offset: &str) -> Option<bool> {
        let mut state = self.state();
        if state.is_quiet() {
            return None;
        }
        let (class, key) = (FaultClass::SourceFail, input_key(source, offset));
        let draw = mix(key, class as u64);
        let so_far = state.turns.get(&key).copied().unwrap_or(0);
        if so_far > draw as u32 & 1 || !state.fires(class, key) {
            return None;
        }
        state.turns.insert(key, so_far + 1);
        state.record(class, key, || FaultAt::Input { source: source.clone(), offset: offset.to_owned() });
        Some(draw & 2 == 0)
    }

    /// What goes wrong at the n-th commit, which is the `nth` of this life: each with random bits of its own.
    pub(crate) fn commit(&self, n: u64, life: u32, nth: u64) -> Vec<(FaultClass, u64)> {
        use FaultClass::{
            ClockJump, ClockStep, CommitBusy, CommitLost, CommitUnknown, Crash, DiskFull, DiskLies, DiskStall, Latency,
            Pause, PowerLoss, Restart, Stop, TornCommit,
        };
        const ALL: [FaultClass; 15] = [
            Latency,
            DiskStall,
            ClockStep,
            Pause,
            Restart,
            Stop,
            CommitBusy,
            CommitLost,
            DiskFull,
            TornCommit,
            Crash,
            PowerLoss,
            DiskLies,
            CommitUnknown,
            ClockJump,
        ];
        let mut state = self.state();
        if state.is_quiet() {
            return Vec::new();
        }
        let (key, of_life) = (mix(0xC0, n), life_key(life, nth));
        let mut found = Vec::new();
        for class in ALL {
            if state.fires(class, key) {
                state.record(class, key, || FaultAt::Commit { n });
                found.push((class, mix(mix(state.seed, key), class as u64)));
            } else if state.exactly.is_some() && state.fires(class, of_life) {
                state.record(class, of_life, || FaultAt::CommitOfLife { life, n: nth });
                // The same in each life: before the commit, or behind it.
                found.push((class, mix(mix(state.seed, nth), class as u64)));
            }
        }
        found
    }

    /// What goes wrong instead of the n-th poll of a task, once.
    pub(crate) fn poll(&self, task: &str, nth: u32, n: u64) -> Option<(FaultClass, u64)> {
        let mut state = self.state();
        if state.is_quiet() {
            return None;
        }
        let key = poll_key(task, nth, n);
        let is_new = |state: &State, class| state.fires(class, key) && !state.seen.contains(&(class, key));
        let class = [FaultClass::Kill, FaultClass::TaskStall].into_iter().find(|class| is_new(&state, *class))?;
        state.record(class, key, || FaultAt::Poll { task: task.to_owned(), nth, n });
        Some((class, mix(mix(state.seed, key), class as u64)))
    }

    /// The disk is full for this many more commits.
    pub(crate) fn fill_disk(&self, commits: u64) {
        self.state().full_left = commits;
    }

    pub(crate) fn is_disk_full(&self) -> bool {
        let mut state = self.state();
        let full = state.full_left > 0;
        state.full_left = state.full_left.saturating_sub(1);
        state.full = (state.full.0 + u64::from(full), full);
        full
    }

    /// How many commits found no space so far, and whether the last one did.
    pub(crate) fn full(&self) -> (u64, bool) {
        self.state().full
    }
}

impl State {
    fn is_quiet(&self) -> bool {
        self.healed || (self.classes.is_empty() && self.exactly.is_none())
    }

    fn fires(&self, class: FaultClass, key: u64) -> bool {
        match &self.exactly {
            Some(list) => list.contains(&(class, key)),
            None => {
                let chance = self.chances[class as usize];
                chance > 0 && mix(mix(self.seed, key), class as u64 + 1) >> 32 < chance
            }
        }
    }

    fn record(&mut self, class: FaultClass, key: u64, at: impl FnOnce() -> FaultAt) {
        if self.seen.insert((class, key)) {
            self.fired.push(Fault { class, at: at() });
        }
    }
}
