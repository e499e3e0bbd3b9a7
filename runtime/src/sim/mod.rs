//! Simulated swarms: the real runtime, the developer's own agents, virtual time, one seed.
//!
//! | file | what |
//! |---|---|
//! | `engine` | one root future that owns all tasks and polls one per step, keyed by the seed |
//! | `faults` | faults as explicit records: drawn from the seed, or a list |
//! | `disk` | the store that fails as planned; what a crash does |
//! | `driven` | what a store lies on: the model, or SQLite driven within one poll |
//! | `probe` | an agent, watched and made to fail |
//! | `audit` | the ten guarantees as counted checks |
//! | `again` | what was decided, decided again |
//! | `report` | what a run amounted to |
//! | `seeds` | a test of many seeds; a failure made smaller and kept |
//! | `shrink` | a shorter list that makes a run fail |
//! | `varied` | limits, bounds, level and placement of the seed's own |
//! | `world` | who restarts the runtime, and the handle that a test steers with |
//! | `crowd` | agents to fill a swarm with |
//!
//! Everything runs on one thread with tokio's clock paused: time moves only when nothing else can. The same seed and the
//! same agents give the same history, whatever the machine does meanwhile. `docs/simulation.md` is the tutorial.

mod again;
mod audit;
pub mod crowd;
mod disk;
mod driven;
mod engine;
mod faults;
mod invariant;
mod places;
mod probe;
mod report;
mod seeds;
mod shrink;
mod varied;
mod world;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    future::Future,
    panic::AssertUnwindSafe,
    path::PathBuf,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64},
    },
    time::Duration,
};

use atra_bus::{Seq, Timestamp};
use atra_storage::{Digest, Keep, Level, MemoryDisk, Read, StorageOptions, WriteBatch, digest};
pub use engine::{EngineError, Policy, TraceRecord};
pub use faults::{Fault, FaultAt, FaultClass, FaultPlan, InputAt};
use futures::{
    FutureExt as _,
    future::{Either, select},
};
pub use invariant::{Invariant, Violation};
pub use report::{SimReport, build};
pub use seeds::{Kept, SimTest, seeds};
use serde_json::Value;
pub use shrink::{earlier, fewer, weaker};
use tokio::{sync::mpsc, time::sleep};
pub use world::Sim;

use self::{
    audit::Audit,
    disk::{Bugs, DiskWorld},
    driven::{Disk, SqliteDisk},
    engine::{Engine, LOOKER, Setting, SwarmEnv},
    faults::Faults,
    probe::{Probe, Seat},
    world::{ORDERS_MAX, Plan, STOP_DEADLINE, World},
};
use crate::{
    AgentError, ClockLimits, ModelCall, Runtime, RuntimeBuilder, StartError, Team, TeamStatus, ledger::Model,
    team::panic_text,
};

/// Where virtual wall time begins: 2020-01-01T00:00:00 UTC.
pub const SIM_START: Timestamp = Timestamp(1_577_836_800_000);
/// Records at one instant after which a run counts as a livelock: far above what a burst of honest work takes.
const POLLS_MAX: u64 = 5_000_000;
/// How often the runtime is looked at from outside, in virtual time. 10 s: often beside the longest planned fault.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What a test's own check looks at.
pub struct Look<'a> {
    /// Virtual time since the begin, in milliseconds.
    pub at_ms: u64,
    /// The runtime that runs now: memory, journal, queries.
    pub runtime: &'a Runtime,
    /// Its teams.
    pub status: &'a [TeamStatus],
}

type Check = Box<dyn Fn(&Look<'_>) -> Result<(), String> + Send + Sync>;
type Found = Box<dyn Fn(&Look<'_>) -> bool + Send + Sync>;
type Sample = Box<dyn Fn(&Look<'_>) -> f64 + Send + Sync>;

/// A test's own checks.
#[derive(Default)]
pub(crate) struct OwnChecks {
    invariants: Vec<(String, Check)>,
    eventually: Vec<(String, Check)>,
    sometimes: Vec<(String, Found)>,
    series: Vec<(String, Sample)>,
}

/// A swarm of agents to be simulated.
///
/// # Examples
/// ```
/// use atra_runtime::sim::{FaultPlan, Swarm, crowd};
/// use std::time::Duration;
///
/// let run = || {
///     crowd::swarm(7, 5, Duration::from_secs(10))
///         .faults(FaultPlan::survivable())
///         .simulate(|sim| async move {
///             sim.run_for(Duration::from_secs(600)).await;
///             sim.heal_and_settle(Duration::from_secs(3_600)).await;
///         })
/// };
/// let report = run();
/// assert!(report.failure().is_none(), "{report}");
/// assert_eq!(report.hash, run().hash);
/// ```
pub struct Swarm {
    seed: u64,
    disk: Disk,
    teams: Vec<Team>,
    policy: Policy,
    level: Level,
    storage: StorageOptions,
    clock: ClockLimits,
    plan: FaultPlan,
    checks: OwnChecks,
    traced: bool,
    order: Option<Arc<[u64]>>,
    look_every: Duration,
    bugs: Bugs,
    varied: bool,
    only: Option<Vec<InputAt>>,
    models: BTreeMap<String, Model>,
    decides_again: bool,
}

/// What a plain run left behind.
pub struct SwarmReport<T> {
    /// What the scenario returned.
    pub output: T,
    /// Reads of everything that was committed.
    pub reader: Arc<dyn Read>,
    /// Its digest.
    pub digest: Digest,
    /// Virtual time that passed.
    pub virtual_time: Duration,
}

impl<T: std::fmt::Debug> std::fmt::Debug for SwarmReport<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SwarmReport")
            .field("output", &self.output)
            .field("virtual_time", &self.virtual_time)
            .finish_non_exhaustive()
    }
}

/// Why a simulation could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwarmError {
    /// The runtime did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The runtime did not stop.
    #[error(transparent)]
    Stop(#[from] crate::RuntimeError),
    /// The store could not be read at the end.
    #[error(transparent)]
    Store(#[from] atra_storage::StoreError),
    /// The simulation could not go on.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A simulation keeps idempotency keys and results however much virtual time passes, unless a test says otherwise.
fn keeping_everything() -> StorageOptions {
    let mut options = StorageOptions::default();
    options.keep = Keep::default();
    options
}

impl Swarm {
    /// An empty swarm; everything random in it follows from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            disk: Disk::Model(MemoryDisk::new()),
            teams: Vec::new(),
            policy: Policy::Random,
            level: Level::Process,
            storage: keeping_everything(),
            clock: ClockLimits::default(),
            plan: FaultPlan::None,
            checks: OwnChecks::default(),
            traced: false,
            order: None,
            look_every: LOOK_EVERY,
            bugs: Bugs::default(),
            varied: false,
            only: None,
            models: BTreeMap::new(),
            decides_again: true,
        }
    }

    /// Runs on a disk that was used before: what was committed is there.
    #[must_use]
    pub fn on(mut self, disk: &MemoryDisk) -> Self {
        self.disk = Disk::Model(disk.clone());
        self
    }

    /// Runs on SQLite instead of the model, in a folder of its own that is removed afterwards. The same seed has the same
    /// history.
    #[must_use]
    pub fn on_sqlite(mut self, folder: impl Into<PathBuf>) -> Self {
        self.disk = Disk::Sqlite(Arc::new(SqliteDisk::new(folder.into())));
        self
    }

    /// Adds a team.
    #[must_use]
    pub fn team(mut self, team: Team) -> Self {
        self.teams.push(team);
        self
    }

    /// Adds `n` teams of one kind; the factory gets 0, 1, 2 …
    #[must_use]
    pub fn teams(mut self, n: usize, factory: impl Fn(usize) -> Team) -> Self {
        self.teams.extend((0..n).map(factory));
        self
    }

    /// Says which ready task runs next.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// What acknowledgements promise.
    #[must_use]
    pub fn level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// Bounds of the storage actor.
    #[must_use]
    pub fn storage(mut self, options: StorageOptions) -> Self {
        self.storage = options;
        self
    }

    /// Bounds of the wall clock.
    #[must_use]
    pub fn clock(mut self, clock: ClockLimits) -> Self {
        self.clock = clock;
        self
    }

    /// What goes wrong. Nothing if not said.
    #[must_use]
    pub fn faults(mut self, plan: FaultPlan) -> Self {
        self.plan = plan;
        self
    }

    /// Keeps every record of the trace, and the order in which tasks were polled.
    #[must_use]
    pub fn traced(mut self) -> Self {
        self.traced = true;
        self
    }

    /// Polls tasks in the order that a traced run of the same seed had ([`SimReport::order`]), whatever the policy. Where
    /// the task that is next is not ready, because something else was changed, others go before it, in an order of their
    /// own.
    #[must_use]
    pub fn order(mut self, order: impl Into<Arc<[u64]>>) -> Self {
        self.order = Some(order.into());
        self
    }

    /// Must hold whenever the runtime is looked at.
    #[must_use]
    pub fn invariant(
        mut self,
        name: &str,
        check: impl Fn(&Look<'_>) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.checks.invariants.push((name.into(), Box::new(check)));
        self
    }

    /// Must hold after [`Sim::heal_and_settle`].
    #[must_use]
    pub fn eventually(
        mut self,
        name: &str,
        check: impl Fn(&Look<'_>) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.checks.eventually.push((name.into(), Box::new(check)));
        self
    }

    /// Is counted: over many seeds it must hold at least once ([`seeds`]), or the test does not go where it is meant to.
    #[must_use]
    pub fn sometimes(mut self, name: &str, found: impl Fn(&Look<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.checks.sometimes.push((name.into(), Box::new(found)));
        self
    }

    /// Is collected whenever the runtime is looked at.
    #[must_use]
    pub fn series(mut self, name: &str, value: impl Fn(&Look<'_>) -> f64 + Send + Sync + 'static) -> Self {
        self.checks.series.push((name.into(), Box::new(value)));
        self
    }

    /// What stands for the outside of an acting agent: is asked instead of each of its calls. Intent and result are
    /// committed as always; an error is the call's.
    #[must_use]
    pub fn model(
        mut self,
        agent: &str,
        answer: impl Fn(&ModelCall) -> Result<Value, AgentError> + Send + Sync + 'static,
    ) -> Self {
        self.models.insert(agent.into(), Arc::new(answer));
        self
    }

    /// Leaves away that what was decided is decided again at the end and compared: for agents whose handlers tell a test
    /// what they were given, which would then hear of it twice.
    #[must_use]
    pub fn decided_once(mut self) -> Self {
        self.decides_again = false;
        self
    }

    /// Nothing but these publishes of callers and products of sources comes in: a smaller case of a run that had more.
    #[must_use]
    pub fn only(mut self, inputs: Vec<InputAt>) -> Self {
        self.only = Some(inputs);
        self
    }

    /// Draws limits of the teams, bounds of the storage actor, level, placement and (the plain order for one seed in eight)
    /// policy from the seed too, so that each seed is another machine. With level `power`, which is not promised again after a commit of unknown outcome, those faults are
    /// left out: teams would stop then until an operator comes.
    #[must_use]
    pub fn varied(mut self) -> Self {
        self.varied = true;
        self
    }

    /// Plants a bug: changes the n-th batch before the store and the checkers see it, as a kernel would that made it so;
    /// it is answered when all that the bug gives instead is written. For tests of the checkers; no case and no command line
    /// can ask for it.
    #[must_use]
    pub fn sabotage(mut self, bug: impl Fn(u64, WriteBatch) -> Vec<WriteBatch> + Send + Sync + 'static) -> Self {
        self.bugs.batch = Some(Arc::new(bug));
        self
    }

    /// Plants a bug: who reads in the journal what it has missed, from one seq to another, finds nothing there if `bug`
    /// says so.
    #[must_use]
    pub fn sabotage_reads(mut self, bug: impl Fn(Seq, Seq) -> bool + Send + Sync + 'static) -> Self {
        self.bugs.read = Some(Arc::new(bug));
        self
    }

    /// Plants a bug: a task is not woken, this time, if `bug` says so of its name and the number of its polls so far.
    #[must_use]
    pub fn sabotage_wakes(mut self, bug: impl Fn(&str, u64) -> bool + Send + Sync + 'static) -> Self {
        self.bugs.wake = Some(Arc::new(bug));
        self
    }

    /// Plants a bug: a task ends silently before a poll if `bug` returns `true` for its name and the number of its
    /// polls so far.
    #[must_use]
    pub fn sabotage_ends(mut self, bug: impl Fn(&str, u64) -> bool + Send + Sync + 'static) -> Self {
        self.bugs.end = Some(Arc::new(bug));
        self
    }

    fn options(&self) -> String {
        let (seed, n_teams) = (self.seed, self.teams.len());
        let n_agents: usize = self.teams.iter().map(|team| team.specs().count()).sum();
        let drawn = varied::told(self);
        format!(
            "seed {seed}, {n_agents} agents in {n_teams} teams, level {:?}, policy {:?}, {drawn}{:?}",
            self.level, self.policy, self.storage
        )
    }

    fn setting(&self) -> Setting {
        let order = self.order.clone();
        Setting { seed: self.seed, policy: self.policy, polls_max: POLLS_MAX, traced: self.traced, order }
    }

    /// Starts the swarm, runs `scenario`, stops cleanly and takes the digest: no faults, no checks. Blocks until
    /// virtual time has done all that.
    ///
    /// # Errors
    /// [`SwarmError`] when the runtime did not start or stop.
    pub fn run<T, F, Fut>(self, scenario: F) -> Result<SwarmReport<T>, SwarmError>
    where
        F: FnOnce(Runtime) -> Fut,
        Fut: Future<Output = T>,
    {
        let setting = Setting { traced: false, ..self.setting() };
        let run = |engine: Engine| async move {
            let env = Arc::new(SwarmEnv::new(engine, 1, SIM_START, Arc::new(AtomicI64::new(0))));
            let store = self.disk.open()?;
            let mut builder = RuntimeBuilder::on(store).env(env).own_thread(false);
            builder = builder.level(self.level).storage(self.storage).clock(self.clock);
            for team in self.teams {
                builder = builder.team(team);
            }
            let runtime = builder.start().await?;
            let output = scenario(runtime.clone()).await;
            runtime.stop(STOP_DEADLINE).await?;
            let reader = self.disk.reader()?;
            let digest = digest(&*reader).await?;
            Ok::<_, SwarmError>((output, reader, digest))
        };
        let (ended, figures, _) = Engine::run(setting, run)?;
        let (output, reader, digest) = ended?;
        Ok(SwarmReport { output, reader, digest, virtual_time: Duration::from_millis(figures.virtual_ms) })
    }

    /// Runs `scenario` beside a runtime that is watched, made to fail as planned, and started again when it dies; then
    /// stops it cleanly and checks what is left. Blocks.
    pub fn simulate<T, F, Fut>(self, scenario: F) -> SimReport<T>
    where
        F: FnOnce(Sim) -> Fut,
        Fut: Future<Output = T>,
    {
        let kept = seeds::instead().unwrap_or_default();
        let swarm = self.reduced(&kept);
        let swarm = if swarm.varied { varied::vary(swarm) } else { swarm };
        let (setting, disk, options, seed) = (swarm.setting(), swarm.disk.clone(), swarm.options(), swarm.seed);
        let faults = Faults::new(seed, &swarm.plan, swarm.teams.len(), swarm.only.as_deref());
        let until = kept.until_ms.map_or(Duration::MAX, Duration::from_millis);
        // Of a disk that was used before nobody knows what code decided what is on it.
        let is_new = swarm.disk.is_empty();
        let again = if swarm.decides_again && is_new { swarm.teams.clone() } else { Vec::new() };
        let (world, output) = (RefCell::new(None), RefCell::new(None));
        let (keep, ended) = (&world, &output);
        let run = |engine: Engine| async move {
            let (world, orders) = swarm.world(engine.clone(), faults);
            keep.replace(Some(world.clone()));
            engine.detach(0, "operator", Box::pin(world.clone().operate(orders)));
            engine.detach(0, LOOKER, Box::pin(world.clone().watch()));
            let sim = Sim(world.clone());
            let scenario = AssertUnwindSafe(async { scenario(sim.clone()).await }).catch_unwind();
            let output = match select(pin!(scenario), pin!(sleep(until))).await {
                Either::Left((output, _)) => Some(output),
                Either::Right(_) => None,
            };
            let has_panicked = matches!(output, Some(Err(_)));
            ended.replace(output);
            if has_panicked {
                return;
            }
            world.faults.heal();
            let runtime = sim.runtime().await;
            // What it says was checked there.
            let _ = world.stop(&runtime).await;
            drop(runtime);
            if let Err(error) = world.audit.reopened(&*world.reader(), false).await {
                world.audit.check(Invariant::Atomic, false, "store", || error.to_string());
            }
        };
        let outcome = Engine::run(setting, run).map(|((), figures, traced)| (figures, traced));
        let (output, panic) = match output.take() {
            Some(Ok(output)) => (Some(output), None),
            Some(Err(panic)) => (None, Some(panic)),
            None => (None, None),
        };
        let mut report = SimReport::of(output, outcome, world.take().as_deref(), disk, options);
        if let Some(panic) = &panic {
            report.error.get_or_insert_with(|| EngineError::Panicked(panic_text(&**panic)));
        }
        if report.violations.is_empty() && report.error.is_none() {
            again::decide(&mut report, seed, again);
        }
        let is_watched = seeds::is_watching(&report);
        // A test of many seeds makes something of it; who runs one sees where it came from.
        match panic {
            Some(panic) if !is_watched => {
                eprintln!("{report}");
                std::panic::resume_unwind(panic)
            }
            _ => report,
        }
    }

    /// The same, with what a kept case leaves out left out.
    fn reduced(mut self, kept: &Kept) -> Self {
        if let Some(faults) = &kept.faults {
            self.plan = FaultPlan::Exactly(faults.clone());
        }
        if let Some(policy) = kept.policy {
            (self.policy, self.order) = (policy, None);
        }
        self.only = kept.inputs.clone().or(self.only);
        self.teams.retain(|team| !kept.without.contains(team.name()));
        self
    }

    fn world(self, engine: Engine, faults: Faults) -> (Arc<World>, mpsc::Receiver<disk::Order>) {
        if let Some(bug) = self.bugs.wake.clone() {
            engine.plant(bug);
        }
        if let Some(bug) = self.bugs.end.clone() {
            engine.plant_ends(bug);
        }
        let power = faults.may(FaultClass::PowerLoss) || faults.may(FaultClass::DiskLies);
        if power {
            self.disk.track_flushes();
        }
        let audit = Audit::new(engine.clone(), &self.teams, power);
        let (orders, taken) = mpsc::channel(ORDERS_MAX);
        if faults.may(FaultClass::Kill) || faults.may(FaultClass::TaskStall) {
            engine.meddle(disk::meddler(faults.clone(), orders.clone()));
        }
        engine.tell_of(audit.clone().unsettled());
        let disk_world = DiskWorld {
            engine: engine.clone(),
            faults: faults.clone(),
            audit: audit.clone(),
            orders,
            commits: Arc::new(AtomicU64::new(0)),
            clock_off_by: Arc::new(AtomicI64::new(0)),
            bugs: self.bugs,
        };
        let models = self.models;
        let modelled = |mut team: Team| {
            let model = team.specs().find_map(|spec| models.get(spec.name.as_str()).cloned());
            team.model = model;
            team
        };
        let teams = self.teams.into_iter().map(|team| watched(modelled(team), &audit, &faults)).collect();
        let plan = Plan {
            seed: self.seed,
            disk: self.disk,
            teams,
            level: self.level,
            storage: self.storage,
            clock: self.clock,
            look_every: self.look_every,
            checks: self.checks,
        };
        (World::new(engine, faults, audit, disk_world, plan), taken)
    }
}

/// The same team, its members watched.
fn watched(mut team: Team, audit: &Audit, faults: &Faults) -> Team {
    for (factory, spec) in team.factories.iter_mut().zip(&team.specs) {
        let (inner, name) = (factory.clone(), spec.name.clone());
        let (place, key) = (audit.place_of(&name), engine::hash_text(name.as_str()));
        let turn_timeout = spec.turn_timeout;
        let (seat, faults) = (Seat { name, place, key, turn_timeout, audit: audit.clone() }, faults.clone());
        *factory = Arc::new(move || Box::new(Probe { inner: inner(), seat: seat.clone(), faults: faults.clone() }));
    }
    team
}
