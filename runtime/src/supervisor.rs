//! A team's life: built from committed state, run, and built again when it fails.
//!
//! ```text
//! Starting → Running → Stopped
//!     ↑         │
//!     └─ Restarting (backoff) ── too often ─────────────────────→ Failed ──(restart)──→ Starting
//!                             ├─ a panic of the runtime's tasks ─→ Failed ──(restart)──→ Starting
//!                             └─ a ledger's event is poison ─────→ Poisoned ─(restart)─→ Starting
//! ```
//!
//! Panics are contained in each run of a team, with all its incarnations: when the supervisor itself or a destructor of
//! a user's value panics, the team is `Failed`, and the supervisor waits for orders as usual.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use atra_bus::{
    Event, EventId, Filter, Interest, Name, Payload, Seq, Timestamp, Topic,
    contain::{Contained, DropPanics, contain, report},
};
use atra_storage::{FactKind, FactPage, Read, Rejected, StoreError, TeamRow};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use crate::{
    Agent, AgentSpec, Offsets, OnPoison, StateReader,
    context::TeamShared,
    kernel::Kernel,
    known::Known,
    ledger::EffectLedger,
    memory::Entry,
    restarts::Restarts,
    team::{
        CEILING_KEY, CLOCK_KEY, Careful, Clock, Counters, Crew, Executor, Guilty, INIT_KEY, Inputs, Mark, Member,
        Moment, Orders, Placement, Rings, SourceReader, StepSender, Suspects, Team, TeamAsk, TeamClock, TeamExit,
        TeamParts, Timers, TurnFault, TurnWatch, contained, letter, within,
    },
};

/// Questions that wait for a team. 64: callers ask and wait, they do not stream.
pub(crate) const ASKS_MAX: usize = 64;
/// Keys of a team's own memory that are read at a time. 256: most teams own fewer.
pub(crate) const PAGE_KEYS: usize = 256;
/// Space in a storage command for the parts of a step that are not counted: its clock and its marks.
const STEP_RESERVE_BYTES: usize = 16 << 10;
/// The key of the fact that says why a team does not run; its owner is the team.
pub const STATE_KEY: &str = "state";

/// Where a team is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum TeamState {
    /// Being built from committed state.
    Starting,
    /// Taking inputs.
    Running,
    /// Waiting before it is built anew.
    Restarting {
        /// Restarts in a row without a committed input.
        restarts: u32,
        /// What ended it.
        reason: String,
    },
    /// Told to stop; everything it began is committed.
    Stopped,
    /// Gave up: it failed too often. The other teams run on.
    Failed {
        /// What ended it last.
        reason: String,
    },
    /// A member with `on_poison = stop` met an event that it cannot handle.
    Poisoned {
        /// The agent.
        agent: Name,
        /// The event that it cannot handle.
        event: EventId,
        /// The team's input that led to it: itself, if it is one. Always in the journal.
        input: EventId,
        /// Who, on what, why.
        reason: String,
    },
}

impl TeamState {
    /// Whether the team takes no more inputs unless somebody restarts it.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Stopped | Self::Failed { .. } | Self::Poisoned { .. })
    }
}

impl fmt::Display for TeamState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("starting"),
            Self::Running => f.write_str("running"),
            Self::Restarting { restarts, reason } => write!(f, "restarting ({restarts} in a row): {reason}"),
            Self::Stopped => f.write_str("stopped"),
            Self::Failed { reason } => write!(f, "failed: {reason}"),
            Self::Poisoned { reason, .. } => write!(f, "stopped by poison: {reason}"),
        }
    }
}

/// What the supervisor of one team knows. One task, one team.
pub(crate) struct Supervisor {
    pub(crate) plan: Team,
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) asks: mpsc::Receiver<TeamAsk>,
    pub(crate) orders: Arc<Orders>,
    pub(crate) state: watch::Sender<TeamState>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) watches: Arc<[Arc<TurnWatch>]>,
    /// Restarts in this process, for people.
    pub(crate) n_restarts: Arc<AtomicU64>,
    restarts: Restarts,
    /// Panics in destructors of users' values.
    drops: Arc<DropPanics>,
    suspects: Suspects,
    careful_left: Arc<AtomicUsize>,
    position: Arc<AtomicU64>,
    /// When the timers on a wall clock fire.
    rings: Rings,
    /// Which owners have facts, for the first incarnation.
    known: Option<Arc<Known>>,
    /// Whether the next start is announced: the first one in the process, and each ordered restart.
    announces: bool,
}

/// Why a team could not be built.
#[derive(Debug, thiserror::Error)]
enum BuildError {
    #[error("its committed state could not be read: {0}")]
    Read(#[from] StoreError),
    #[error("storage refused: {0}")]
    Rejected(#[from] Rejected),
    #[error("agent {agent}: {cause}")]
    Agent { agent: Name, cause: String },
}

impl Supervisor {
    pub(crate) fn new(
        plan: Team,
        kernel: Arc<Kernel>,
        asks: mpsc::Receiver<TeamAsk>,
        state: watch::Sender<TeamState>,
        known: Arc<Known>,
    ) -> Self {
        let careful = if kernel.unclean { under_way(&plan) } else { 0 };
        let position = kernel.memory.position_of(&plan.name);
        let watches = plan.specs.iter().map(|_| Arc::default()).collect();
        Self {
            plan,
            kernel,
            asks,
            orders: Arc::default(),
            state,
            counters: Arc::default(),
            watches,
            rings: Rings::default(),
            n_restarts: Arc::default(),
            restarts: Restarts::default(),
            drops: Arc::default(),
            suspects: Suspects::default(),
            careful_left: Arc::new(AtomicUsize::new(careful)),
            position,
            known: Some(known),
            announces: true,
        }
    }

    /// Runs the team until it is ordered to stop.
    pub(crate) async fn run(mut self) {
        loop {
            let Err(panic) = contain(self.live()).await else { return };
            report(&format!("team {}", self.plan.name), &panic);
            self.orders.set_panicked(true);
            let failed = TeamState::Failed { reason: format!("its supervisor panicked: {panic}") };
            let goes_on = match contain(self.rest(failed.clone())).await {
                Ok(goes_on) => goes_on,
                // Code that is not needed while the team is down may panic too, such as a log subscriber.
                Err(_) => {
                    self.state.send_replace(failed);
                    self.ordered_to_go_on().await
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Runs the team from a start to a stop, including restarts and the time while it is down.
    async fn live(&mut self) {
        loop {
            self.enter(TeamState::Starting);
            let exit = self.incarnation().await;
            self.restarts.note_progress(self.counters.settled.load(Ordering::Relaxed));
            let is_over = matches!(exit, TeamExit::Stopped | TeamExit::Fenced(Rejected::Stopped));
            let mut backoff = 0;
            let ended = match (self.drops.take(), exit) {
                // An instance whose drop panicked may not have released its resources: the team is not restarted
                // automatically.
                (Some(panic), exit) => {
                    if let TeamExit::Guilty(guilty) = exit {
                        // The attempt counts nevertheless.
                        self.blame(&guilty, &mut backoff);
                    }
                    self.orders.set_panicked(true);
                    Some(TeamState::Failed { reason: panic })
                }
                (None, TeamExit::Stopped | TeamExit::Fenced(Rejected::Stopped)) => {
                    self.enter(TeamState::Stopped);
                    return;
                }
                (None, TeamExit::Restarted) => {
                    self.was_restarted();
                    continue;
                }
                (None, TeamExit::Lost) => Some(TeamState::Failed { reason: self.lost() }),
                // A gap in the numbers is what a dropped call leaves behind: a new epoch begins without it.
                (None, TeamExit::Fenced(rejected @ Rejected::OutOfOrder { .. })) => {
                    self.count_restart(&rejected.to_string())
                }
                (None, TeamExit::Fenced(rejected)) if !rejected.is_retryable() => {
                    Some(TeamState::Failed { reason: rejected.to_string() })
                }
                (None, TeamExit::Fenced(rejected)) => self.count_restart(&rejected.to_string()),
                (None, TeamExit::Failed(reason)) => self.count_restart(&reason),
                (None, TeamExit::Oversized(reason)) => {
                    // Each input has its own step until as many inputs are settled as the failed step can have had.
                    self.suspects.inputs_left = under_way(&self.plan);
                    self.count_restart(&reason)
                }
                // Not counted with the others: attempts bound how often one event can do this.
                (None, TeamExit::Guilty(guilty)) => self.blame(&guilty, &mut backoff),
            };
            let goes_on = match ended {
                Some(state) if is_over => {
                    self.enter(state);
                    return;
                }
                Some(state) => self.rest(state).await,
                None => self.back_off(self.restarts.in_row().max(backoff)).await,
            };
            if !goes_on {
                if !self.orders.has_panicked() {
                    self.enter(TeamState::Stopped);
                }
                return;
            }
        }
    }

    /// Builds the team from committed state and runs it until it ends.
    async fn incarnation(&mut self) -> TeamExit {
        match self.build().await {
            Ok(executor) => {
                self.orders.set_panicked(false);
                self.enter(TeamState::Running);
                executor.run(&mut self.asks).await
            }
            Err(BuildError::Rejected(_)) if self.orders.is_lost() => TeamExit::Lost,
            Err(BuildError::Rejected(rejected)) => TeamExit::Fenced(rejected),
            Err(error) => TeamExit::Failed(error.to_string()),
        }
    }

    fn enter(&self, state: TeamState) {
        tracing::debug!(team = %self.plan.name, state = %state, "team changed state");
        self.state.send_replace(state);
    }

    /// Handles a restart order: earlier restarts do not count any more, and the restart is announced.
    fn was_restarted(&mut self) {
        self.restarts.forget();
        self.announces = true;
    }

    /// Why commits are no longer possible.
    fn lost(&self) -> String {
        let failure = self.kernel.life.failure();
        failure.map_or_else(|| "the runtime has ended".into(), |(task, reason)| format!("{task} failed: {reason}"))
    }

    /// Counts a restart; the state to rest in when it is one too many.
    fn count_restart(&mut self, reason: &str) -> Option<TeamState> {
        if let Err(exceeded) = self.restarts.count(&self.plan.limits) {
            self.n_restarts.fetch_add(1, Ordering::Relaxed);
            return Some(TeamState::Failed { reason: format!("{exceeded}: {reason}") });
        }
        self.restarting(self.restarts.in_row(), reason.to_owned());
        None
    }

    fn restarting(&self, restarts: u32, reason: String) {
        self.n_restarts.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(team = %self.plan.name, restarts, error = %reason, "team failed and is restarted");
        self.enter(TeamState::Restarting { restarts, reason });
    }

    /// Waits before the next incarnation; `false` when ordered to stop meanwhile. Questions wait in their queue.
    async fn back_off(&mut self, restart: u32) -> bool {
        // An order during the pause is obeyed at once.
        let _ = timeout(self.plan.limits.backoff(restart), self.orders.stop_or_restart()).await;
        if self.orders.take_restart() {
            self.was_restarted();
        }
        !self.orders.is_stop()
    }

    /// Stays down, visibly, until ordered to restart (`true`) or to stop (`false`).
    async fn rest(&mut self, state: TeamState) -> bool {
        tracing::error!(team = %self.plan.name, state = %state, "team stopped; fix the cause, then restart it");
        if !self.orders.is_lost() {
            let noted = json!({ "state": state, "at": self.kernel.env.now() });
            if let Err(error) = self.kernel.note(&self.plan.name, STATE_KEY, Some(noted)).await {
                tracing::error!(team = %self.plan.name, error = %error, "team state could not be recorded");
            }
        }
        self.enter(state);
        self.ordered_to_go_on().await
    }

    /// Waits for an order; `true` for a restart, `false` for a stop. Questions in the meantime get the state.
    async fn ordered_to_go_on(&mut self) -> bool {
        loop {
            tokio::select! {
                // Biased: orders come before questions.
                biased;
                () = self.orders.stop_or_restart() => break,
                ask = self.asks.recv() => match ask {
                    // The dropped answer makes the asker read the state.
                    Some(ask) => drop(ask),
                    // The last handle of the runtime was dropped.
                    None => return false,
                },
            }
        }
        let goes_on = !self.orders.is_stop();
        if goes_on {
            self.was_restarted();
            if !self.orders.has_panicked() {
                self.suspects = Suspects::default();
            }
            // Before the order is taken, so that a waiting caller finds a starting team.
            self.enter(TeamState::Starting);
            self.orders.take_restart();
        }
        goes_on
    }

    /// Counts a failed turn against its (agent, event); the state to rest in when it is a ledger's poison or
    /// one dead letter too many.
    fn blame(&mut self, guilty: &Guilty, backoff: &mut u32) -> Option<TeamState> {
        if self.suspects.input != Some(guilty.input) {
            self.suspects = Suspects { input: Some(guilty.input), ..Suspects::default() };
        }
        self.suspects.inputs_left = under_way(&self.plan);
        let failure = &guilty.failure;
        let on = failure.event.id;
        let tries = self.suspects.attempts.entry((failure.agent.clone(), on)).or_default();
        *tries += 1;
        let tries = *tries;
        *backoff = tries;
        // A fault of the whole cascade: no member handles its input then.
        let whole = failure.fault.is_of_cascade();
        let blamed: Vec<&Arc<AgentSpec>> =
            self.plan.specs.iter().filter(|spec| whole || spec.name == failure.agent).collect();
        let attempts_max = blamed.iter().map(|spec| spec.attempts_max).min().unwrap_or(1);
        let tries = match failure.fault {
            // What took the process down so often is not tried again.
            TurnFault::Died(deaths) => deaths.max(attempts_max),
            _ => tries,
        };
        if tries < attempts_max {
            self.restarting(tries, describe(guilty));
            return None;
        }
        if blamed.iter().any(|spec| spec.on_poison == OnPoison::Stop) {
            let reason = format!("{} ({tries} attempts)", describe(guilty));
            let (agent, event) = (failure.agent.clone(), failure.event.id);
            return Some(TeamState::Poisoned { agent, event, input: guilty.input, reason });
        }
        let event = if whole { guilty.input } else { on };
        for spec in blamed {
            let reason = failure.fault.to_string();
            let content = (!whole).then_some(&*failure.event);
            let letter = letter(&spec.name, event, guilty.input, tries, &reason, content);
            self.suspects.dead.insert((spec.name.clone(), event), letter);
        }
        let inputs = self.counters.inputs.load(Ordering::Relaxed).max(1000);
        let dead = self.counters.dead_letters.load(Ordering::Relaxed) + 1;
        let most = self.plan.limits.dead_letters_per_thousand_max;
        if dead * 1000 > inputs * u64::from(most) {
            let reason =
                format!("{dead} dead letters in {inputs} inputs ({most} in 1,000 are allowed): {}", describe(guilty));
            return Some(TeamState::Failed { reason });
        }
        self.restarting(tries, describe(guilty));
        None
    }

    // === building ===

    async fn build(&mut self) -> Result<Executor, BuildError> {
        let kernel = self.kernel.clone();
        let row = kernel.storage.raise_epoch(&self.plan.name).await?;
        // Relaxed, as in the executor.
        self.position.store(row.cursor.get(), Ordering::Relaxed);
        let known = self.known.take();
        let mut stored = Stored::read(&*kernel.reader, &self.plan, known.as_deref()).await?;
        if stored.resting {
            kernel.note(&self.plan.name, STATE_KEY, None).await?;
            // Somebody has looked after it: what took the process down then is tried anew.
            stored.marks.clear();
        }
        let steps = Arc::new(StepSender::new(kernel.storage.clone(), &row, kernel.level));
        let ledger = self.plan.specs.iter().find(|spec| spec.acting).map(|spec| {
            let (name, reader) = (spec.name.clone(), kernel.reader.clone());
            EffectLedger::new(name, steps.clone(), reader, self.plan.model.clone(), self.plan.limits.event_bytes_max)
        });
        let mut limits = self.plan.limits.clone();
        // A call refuses a value that the storage would not accept.
        let most = kernel.storage.command_bytes_max().saturating_sub(STEP_RESERVE_BYTES);
        limits.step_bytes_max = limits.step_bytes_max.min(most);
        let shared = Arc::new(TeamShared {
            limits,
            memory: kernel.memory.clone(),
            reader: kernel.reader.clone(),
            view: RwLock::new(stored.memory),
            drops: self.drops.clone(),
            owned: self.plan.specs.iter().flat_map(|spec| spec.owns.iter().cloned()).collect(),
            members: self.plan.specs.iter().map(|spec| spec.name.clone()).collect(),
            agents: kernel.agents.clone(),
            ledger,
        });
        let mut timers = Timers::new(self.plan.specs.clone(), self.plan.limits.missed_max);
        if self.plan.clock == Clock::Wall {
            let now = Moment { wall: kernel.env.now(), at: kernel.env.monotonic() };
            timers = timers.on_wall(self.rings.clone(), now);
        }
        let mut members = Vec::new();
        let mut sources = Vec::new();
        for (place, spec) in self.plan.specs.iter().enumerate() {
            let facts = &stored.members[place];
            let failed = |cause: String| BuildError::Agent { agent: spec.name.clone(), cause };
            for (id, json) in &facts.timers {
                timers.restore(place, id, json).map_err(|error| failed(error.to_string()))?;
            }
            let agent = start(&self.plan, place, &facts.state, &self.drops).await.map_err(&failed)?;
            if spec.is_source {
                let source =
                    contained(|| Ok(agent.source(&facts.offsets))).map_err(|fault| failed(fault.to_string()))?;
                if let Some(source) = source {
                    let (limits, drops) = (&self.plan.limits, self.drops.clone());
                    let settled = produced_last(&*kernel.reader, spec).await?;
                    sources.push(SourceReader::spawn(&kernel.env, place, spec.clone(), source, settled, limits, drops));
                }
            }
            members.push(Member::new(place, spec.clone(), agent, shared.clone(), self.watches[place].clone()));
        }
        let crew = match self.plan.placement {
            Placement::Together => Crew::together(members),
            Placement::Apart => Crew::apart(&*kernel.env, members),
        };
        if self.announces {
            self.announce(&row).await?;
            self.announces = false;
        }
        let inputs = Inputs {
            env: kernel.env.clone(),
            clock: self.plan.clock,
            time: stored.clock,
            ahead_max: kernel.clock.ahead_max,
            plausible_upto: Timestamp::MIN,
            held: None,
            first: self.plan.specs.first().map_or_else(|| self.plan.name.clone(), |spec| spec.name.clone()),
            counters: self.counters.clone(),
            subscription: kernel.bus.subscribe(interest(&self.plan), row.cursor),
            foreign: VecDeque::new(),
            foreign_events_max: self.plan.limits.foreign_events_max,
            timers,
            sources,
            inits: self.inits(&stored.had_init),
            streak: 0,
            heard_first: if self.n_restarts.load(Ordering::Relaxed) == 0 { kernel.bus.released() } else { Seq::ZERO },
            alarm: None,
        };
        let suspects = self.suspects.clone();
        let careful = Careful { inputs_left: self.careful_left.clone(), marks: stored.marks };
        Ok(Executor::new(TeamParts {
            name: self.plan.name.clone(),
            shared,
            specs: self.plan.specs.clone(),
            crew,
            inputs,
            steps,
            bus: kernel.bus.clone(),
            acting: self.plan.is_acting(),
            suspects,
            careful,
            position: self.position.clone(),
            counters: self.counters.clone(),
            orders: self.orders.clone(),
        }))
    }

    async fn announce(&self, row: &TeamRow) -> Result<(), Rejected> {
        let config = &self.kernel.config;
        let hash = xxhash_rust::xxh3::xxh3_64(config.to_string().as_bytes());
        let started = json!({
            "team": row.team,
            "epoch": row.epoch,
            "build": env!("CARGO_PKG_VERSION"),
            "agents": self.plan.specs.iter().map(|spec| &spec.name).collect::<Vec<_>>(),
            "placement": self.plan.placement,
            "clock": self.plan.clock,
            "limits": self.plan.limits,
            "config": config,
            "config_hash": format!("{hash:016x}"),
        });
        self.kernel.announce("sys.team.started", started).await
    }

    /// The first start ever of a member is an input of its own, if it wants it. Addressed to the member and
    /// published by it, so that no other team hears it and it does not come back as a foreign event.
    fn inits(&self, had_init: &BTreeSet<usize>) -> VecDeque<(usize, Arc<Event>)> {
        const INIT: Topic = Topic::literal("sys.init");
        let wants = |spec: &AgentSpec| spec.subscribes.iter().any(|filter| filter.matches(INIT.as_str()));
        let members = self.plan.specs().enumerate();
        let new = members.filter(|(place, spec)| wants(spec) && !had_init.contains(place));
        new.map(|(place, spec)| {
            let id = EventId::of(&spec.name, "sys.init");
            let wall = self.plan.clock == Clock::Wall;
            let event = Event {
                id,
                topic: INIT.addressed_to(&spec.name).unwrap_or(INIT),
                version: 1,
                durable: true,
                source: spec.name.clone(),
                time: if wall { self.kernel.env.now() } else { Timestamp::default() },
                cause: None,
                root: id,
                hops: 0,
                payload: Payload::typed(Value::Null),
            };
            (place, Arc::new(event))
        })
        .collect()
    }
}

/// Rows at the end of the journal in which a source's inputs are checked for repeats. 1,024: a source that does not
/// continue at its offset mostly repeats its last inputs, or starts over in a small journal; ids have no index.
const SETTLED_ROWS_MAX: u64 = 1_024;
/// Rows of them that are read at a time.
const SETTLED_PAGE_ROWS: usize = 64;

/// Ids of a source's last settled inputs.
async fn produced_last(reader: &dyn Read, spec: &AgentSpec) -> Result<Vec<EventId>, StoreError> {
    let interest = Interest::in_topics(spec.publishes.iter().map(|publishes| publishes.filter.clone()).collect());
    let last = reader.last_seq().await?;
    let mut at = Seq(last.get().saturating_sub(SETTLED_ROWS_MAX)).max(reader.floor().await?);
    let mut ids = Vec::new();
    while at < last {
        let (rows, upto) = reader.journal(at, last, &interest, SETTLED_PAGE_ROWS).await?;
        let own = rows.iter().filter(|row| row.event.source == spec.name && row.seen.is_some());
        ids.extend(own.map(|row| row.event.id));
        at = upto;
    }
    Ok(ids)
}

impl Drop for Supervisor {
    /// Also runs when the task is dropped before its end, since a team without a task is not running.
    fn drop(&mut self) {
        self.state.send_if_modified(|state| {
            let was_ended = state.is_ended();
            if !was_ended {
                *state = TeamState::Stopped;
            }
            !was_ended
        });
    }
}

/// Inputs that can have been under way when an incarnation ended: those of the open step and of the steps in
/// flight.
fn under_way(plan: &Team) -> usize {
    let limits = &plan.limits;
    if plan.is_acting() { 2 } else { (limits.steps_in_flight_max + 1) * limits.inputs_max }
}

/// A team wants what its members subscribe to and what is addressed to them, but never its own rows.
pub(crate) fn interest(plan: &Team) -> Interest {
    let mut filters: BTreeSet<Filter> = plan.specs().flat_map(|spec| spec.subscribes.iter().cloned()).collect();
    for spec in plan.specs() {
        // A name is a token, so this is a filter.
        filters.extend(Filter::new(&format!("to.{}.>", spec.name)));
    }
    Interest { filters: filters.into_iter().collect(), except: plan.specs().map(|spec| spec.name.clone()).collect() }
}

/// Creates a member and restores its state. A panic is in the error; a panic of its destructor is in `drops`.
pub(crate) async fn start(
    plan: &Team,
    place: usize,
    state: &BTreeMap<String, Arc<str>>,
    drops: &Arc<DropPanics>,
) -> Result<Contained<Box<dyn Agent>>, String> {
    let limit = plan.specs[place].turn_timeout;
    let reader = StateReader { facts: state };
    let name = format!("agent {}", plan.specs[place].name);
    let started = contain(within(limit, async {
        let mut agent = Contained::new((plan.factories[place])(), &name, drops.clone());
        agent.start(&reader).await.map(|()| agent)
    }));
    match started.await {
        Ok(Some(Ok(agent))) => Ok(agent),
        Ok(Some(Err(error))) => Err(format!("start failed: {error}")),
        Ok(None) => Err(format!("start was still pending after {limit:?} (turn_timeout)")),
        Err(panic) => Err(format!("start panicked: {panic}")),
    }
}

fn describe(guilty: &Guilty) -> String {
    let failure = &guilty.failure;
    format!("agent {} on {} {}: {}", failure.agent, failure.event.topic, failure.event.id, failure.fault)
}

/// A member's committed facts.
#[derive(Default)]
pub(crate) struct MemberFacts {
    pub(crate) state: BTreeMap<String, Arc<str>>,
    offsets: Offsets,
    pub(crate) timers: BTreeMap<String, Arc<str>>,
}

/// A team's committed facts.
#[derive(Default)]
pub(crate) struct Stored {
    pub(crate) members: Vec<MemberFacts>,
    pub(crate) memory: BTreeMap<String, Option<Entry>>,
    pub(crate) clock: TeamClock,
    /// Places of members that have had their `sys.init`.
    had_init: BTreeSet<usize>,
    resting: bool,
    marks: BTreeMap<EventId, Mark>,
}

impl Stored {
    /// Nothing yet.
    pub(crate) fn empty(plan: &Team) -> Self {
        let members = plan.specs().map(|_| MemberFacts::default()).collect();
        Self { members, ..Self::default() }
    }

    /// Reads the facts of a team; kinds that have no facts according to `known` are not read.
    pub(crate) async fn read(reader: &dyn Read, plan: &Team, known: Option<&Known>) -> Result<Self, StoreError> {
        let mut stored = Self::default();
        let facts = Facts { reader, known };
        for (place, spec) in plan.specs().enumerate() {
            if facts.may_have(FactKind::Meta, &spec.name)
                && reader.fact(FactKind::Meta, &spec.name, INIT_KEY).await?.is_some()
            {
                stored.had_init.insert(place);
            }
            let of = |kind| facts.by_key(kind, &spec.name);
            let offsets = of(FactKind::Offset).await?;
            stored.members.push(MemberFacts {
                state: of(FactKind::State).await?,
                offsets: offsets
                    .into_iter()
                    .filter_map(|(key, json)| Some((key, serde_json::from_str::<String>(&json).ok()?)))
                    .collect(),
                timers: of(FactKind::Timer).await?,
            });
        }
        let owned = plan.specs().flat_map(|spec| &spec.owns);
        for prefix in owned.filter(|prefix| known.is_none_or(|known| known.may_have_memory(prefix))) {
            stored.read_memory(reader, prefix).await?;
        }
        let meta = facts.by_key(FactKind::Meta, &plan.name).await?;
        let time = |key: &str| meta.get(key).and_then(|json| json.parse().ok()).map(Timestamp);
        stored.clock = TeamClock { now: time(CLOCK_KEY).unwrap_or_default(), ceiling: time(CEILING_KEY) };
        stored.resting = meta.contains_key(STATE_KEY);
        for (input, json) in facts.by_key(FactKind::Attempt, &plan.name).await? {
            if let (Ok(input), Ok(mark)) = (input.parse(), serde_json::from_str(&json)) {
                stored.marks.insert(input, mark);
            }
        }
        Ok(stored)
    }
}

impl Stored {
    /// The memory under one owned prefix, page by page: a thousand teams that start do not each read the memory of all.
    async fn read_memory(&mut self, reader: &dyn Read, prefix: &str) -> Result<(), StoreError> {
        let mut from = Some(prefix.to_owned());
        while let Some(key) = from {
            let FactPage { facts, next } = reader.memory_page(&key, PAGE_KEYS).await?;
            from = next.filter(|next| next.starts_with(prefix));
            for row in facts.into_iter().take_while(|row| row.key.starts_with(prefix)) {
                if let (Some(json), Some(revision)) = (row.value, row.event) {
                    self.memory.insert(row.key, Some(Entry { value: Payload::from_journal(json), revision }));
                }
            }
        }
        Ok(())
    }
}

/// Facts as they are read, but for what is known not to be there.
struct Facts<'a> {
    reader: &'a dyn Read,
    known: Option<&'a Known>,
}

impl Facts<'_> {
    fn may_have(&self, kind: FactKind, owner: &Name) -> bool {
        self.known.is_none_or(|known| known.may_have(kind, owner))
    }

    /// Facts of an owner and kind, page by page, so that they are held only once.
    async fn by_key(&self, kind: FactKind, owner: &Name) -> Result<BTreeMap<String, Arc<str>>, StoreError> {
        let mut from = self.may_have(kind, owner).then(String::new);
        let mut rows = BTreeMap::new();
        while let Some(key) = from {
            let FactPage { facts, next } = self.reader.facts_page(kind, owner, &key, PAGE_KEYS).await?;
            rows.extend(facts.into_iter().filter_map(|row| Some((row.key, row.value?))));
            from = next;
        }
        Ok(rows)
    }
}
