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
//! | `shrink` | fewer faults that make a run fail |
//! | `world` | who restarts the runtime, and the handle that a test steers with |
//! | `crowd` | agents to fill a swarm with |
//!
//! Everything runs on one thread with tokio's clock paused: time moves only when nothing else can. The same seed and the
//! same agents give the same history, whatever the machine does meanwhile. `docs/simulation.md` is the tutorial.

mod audit;
pub mod crowd;
mod disk;
mod driven;
mod engine;
mod faults;
mod invariant;
mod places;
mod probe;
mod shrink;
mod world;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    future::Future,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64},
    },
    time::Duration,
};

use atra_bus::Timestamp;
use atra_storage::{Digest, Level, MemoryDisk, Read, StorageOptions, WriteBatch, digest};
pub use engine::{EngineError, Policy, TraceRecord};
pub use faults::{Fault, FaultAt, FaultClass, FaultPlan};
pub use invariant::{Invariant, Violation};
use serde_json::Value;
pub use shrink::fewer_faults;
use tokio::sync::mpsc;
pub use world::Sim;

use self::{
    audit::Audit,
    disk::DiskWorld,
    driven::{Disk, SqliteDisk},
    engine::{Engine, Figures, LOOKER, Setting, SwarmEnv, Traced},
    faults::Faults,
    invariant::Outcome,
    probe::{Probe, Seat},
    world::{ORDERS_MAX, Plan, STOP_DEADLINE, World},
};
use crate::{AgentError, ModelCall, Runtime, RuntimeBuilder, StartError, Team, TeamStatus, ledger::Model};

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
    plan: FaultPlan,
    checks: OwnChecks,
    traced: bool,
    order: Option<Arc<[u64]>>,
    look_every: Duration,
    sabotage: Option<disk::Sabotage>,
    models: BTreeMap<String, Model>,
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

/// What a simulated run with faults and checks amounted to.
pub struct SimReport<T> {
    /// What the scenario returned; `None` if the run could not go on.
    pub output: Option<T>,
    /// Why it could not go on.
    pub error: Option<EngineError>,
    /// Checks that failed; the first one first.
    pub violations: Vec<Violation>,
    /// How often each invariant was evaluated. One that could have been and never was makes the run fail.
    pub checks: BTreeMap<String, u64>,
    /// The stock invariants that this run had nothing for, and why.
    pub not_applicable: BTreeMap<String, String>,
    /// The faults that fired, in order.
    pub faults: Vec<Fault>,
    /// The classes that were asked for.
    pub asked: Vec<FaultClass>,
    /// The classes that the seed drew.
    pub classes: Vec<FaultClass>,
    /// What the swarm was set to, for people.
    pub options: String,
    /// How often each `sometimes` held.
    pub sometimes: BTreeMap<String, u64>,
    /// What was collected.
    pub series: BTreeMap<String, Vec<(u64, f64)>>,
    /// The last events before the end.
    pub recent: Vec<String>,
    /// The rolling hash over the whole trace.
    pub hash: u64,
    /// Polls of tasks.
    pub polls: u64,
    /// Durable events.
    pub events: u64,
    /// Virtual time that passed.
    pub virtual_time: Duration,
    /// Starts after a death.
    pub crashes: u64,
    /// Reads of everything that was committed, while the report is there.
    pub reader: Arc<dyn Read>,
    /// A file is removed with it.
    _disk: Disk,
    /// Every record, if asked for.
    pub trace: Option<Vec<TraceRecord>>,
    /// The tasks in the order in which they were polled, if asked for: see [`Swarm::order`].
    pub order: Option<Vec<u64>>,
}

impl<T> SimReport<T> {
    /// What makes two failures the same: the invariant, or the engine's word for it, and not what it says in detail.
    fn kind(&self) -> Option<String> {
        let invariant = self.violations.first().map(|violation| violation.invariant.clone());
        invariant.or_else(|| Some(self.failure()?.split(':').next()?.to_owned()))
    }

    /// What failed, in one sentence.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        if let Some(violation) = self.violations.first() {
            let Violation { invariant, key, at_ms, text } = violation;
            return Some(format!("{invariant} broken for {key:?} after {at_ms} ms: {text}"));
        }
        if let Some(error) = &self.error {
            return Some(error.to_string());
        }
        let never = self.checks.iter().find(|(_, n)| **n == 0).map(|(name, _)| name);
        never.map(|name| format!("{name} was never evaluated: the run shows nothing about it"))
    }
}

impl<T> std::fmt::Display for SimReport<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.failure().unwrap_or_else(|| "all invariants held".into()))?;
        writeln!(f, "options: {}", self.options)?;
        let revision = option_env!("ATRA_REVISION").unwrap_or("unknown");
        let (version, config) = (env!("CARGO_PKG_VERSION"), engine::hash_text(&self.options));
        writeln!(f, "of atra {version}, revision {revision}, config {config:016x}, trace {:016x}", self.hash)?;
        writeln!(f, "{} faults:", self.faults.len())?;
        for fault in self.faults.iter().take(20) {
            writeln!(f, "  {} at {:?}", fault.class.name(), fault.at)?;
        }
        writeln!(f, "last events:")?;
        self.recent.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
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
            storage: StorageOptions::default(),
            plan: FaultPlan::None,
            checks: OwnChecks::default(),
            traced: false,
            order: None,
            look_every: LOOK_EVERY,
            sabotage: None,
            models: BTreeMap::new(),
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

    /// Plants a bug: changes the n-th batch before the store and the checkers see it, as a kernel would that made it so;
    /// `None` answers it without writing it. For tests of the checkers; no case and no command line can ask for it.
    #[must_use]
    pub fn sabotage(mut self, bug: impl Fn(u64, WriteBatch) -> Option<WriteBatch> + Send + Sync + 'static) -> Self {
        self.sabotage = Some(Arc::new(bug));
        self
    }

    fn options(&self) -> String {
        let (seed, n_teams) = (self.seed, self.teams.len());
        let n_agents: usize = self.teams.iter().map(|team| team.specs().count()).sum();
        format!(
            "seed {seed}, {n_agents} agents in {n_teams} teams, level {:?}, policy {:?}, {:?}",
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
            builder = builder.level(self.level).storage(self.storage);
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
        let setting = self.setting();
        let disk = self.disk.clone();
        let options = self.options();
        let faults = match INSTEAD.with_borrow(Clone::clone) {
            Some(instead) => Faults::new(self.seed, &instead, self.teams.len()),
            None => Faults::new(self.seed, &self.plan, self.teams.len()),
        };
        let held = Arc::new(std::sync::Mutex::new(None));
        let keep = held.clone();
        let run = |engine: Engine| async move {
            let (world, orders) = self.world(engine.clone(), faults);
            *keep.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(world.clone());
            engine.detach(0, "operator", Box::pin(world.clone().operate(orders)));
            engine.detach(0, LOOKER, Box::pin(world.clone().watch()));
            let sim = Sim(world.clone());
            let output = scenario(sim.clone()).await;
            world.faults.heal();
            let runtime = sim.runtime().await;
            // What it says was checked there.
            let _ = world.stop(&runtime).await;
            drop(runtime);
            if let Err(error) = world.audit.reopened(&*world.reader(), false).await {
                world.audit.check(Invariant::Atomic, false, "store", || error.to_string());
            }
            output
        };
        let outcome = Engine::run(setting, run);
        let world = held.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        report(outcome, world.as_deref(), disk, options)
    }

    fn world(self, engine: Engine, faults: Faults) -> (Arc<World>, mpsc::Receiver<disk::Order>) {
        let power = faults.may(FaultClass::PowerLoss) || faults.may(FaultClass::DiskLies);
        if power {
            self.disk.track_flushes();
        }
        let audit = Audit::new(engine.clone(), &self.teams, power);
        let (orders, taken) = mpsc::channel(ORDERS_MAX);
        let disk_world = DiskWorld {
            engine: engine.clone(),
            faults: faults.clone(),
            audit: audit.clone(),
            orders,
            commits: Arc::new(AtomicU64::new(0)),
            clock_off_by: Arc::new(AtomicI64::new(0)),
            sabotage: self.sabotage,
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
        let (seat, faults) = (Seat { name, place, key, audit: audit.clone() }, faults.clone());
        *factory = Arc::new(move || Box::new(Probe { inner: inner(), seat: seat.clone(), faults: faults.clone() }));
    }
    team
}

type Ended<T> = Result<(T, Figures, Option<Traced>), EngineError>;

fn report<T>(outcome: Ended<T>, world: Option<&World>, disk: Disk, options: String) -> SimReport<T> {
    let Outcome { checks, not_applicable, violations, recent } =
        world.map(|world| world.audit.outcome()).unwrap_or_default();
    let seen = world.map(|world| std::mem::take(&mut *world.seen())).unwrap_or_default();
    let (output, error, figures, traced) = match outcome {
        Ok((output, figures, traced)) => (Some(output), None, figures, traced),
        Err(error) => (None, Some(error), Figures { polls: 0, hash: 0, virtual_ms: 0 }, None),
    };
    let (trace, order) = traced.map(|traced| (traced.records, traced.order)).unzip();
    // Where nothing was ever written there is no file.
    let reader = disk.reader().unwrap_or_else(|_| Arc::new(MemoryDisk::new()));
    SimReport {
        output,
        error,
        violations,
        checks,
        not_applicable,
        faults: world.map(|world| world.faults.fired()).unwrap_or_default(),
        asked: world.map(|world| world.faults.asked()).unwrap_or_default(),
        classes: world.map(|world| world.faults.classes()).unwrap_or_default(),
        options,
        sometimes: seen.sometimes,
        series: seen.series,
        recent,
        hash: figures.hash,
        polls: figures.polls,
        events: world.map_or(0, |world| world.audit.n_events()),
        virtual_time: Duration::from_millis(figures.virtual_ms),
        crashes: seen.crashes,
        reader,
        _disk: disk,
        trace,
        order,
    }
}

/// The variable that says which one seed a test runs.
const SEED_VARIABLE: &str = "ATRA_SIM_SEED";
/// Runs that [`seeds`] may take to find fewer faults.
const TRIES_MAX: usize = 200;

thread_local! {
    /// The faults of the next simulation on this thread, whatever its swarm says: how a test's own closure is run with
    /// fewer of them.
    static INSTEAD: RefCell<Option<FaultPlan>> = const { RefCell::new(None) };
}

/// Runs a test with seeds 0 .. `n`, or with the one that `ATRA_SIM_SEED` says. The first failure ends it: its faults are
/// made fewer, and it tells what failed, what it needs for it, and the line that repeats it. Of all seeds together, each
/// `sometimes` must have held once; classes of faults that were asked for and never fired are printed.
///
/// # Panics
/// When a seed fails, or panics itself, or something that is meant to happen sometimes never did.
///
/// # Examples
/// ```
/// use atra_runtime::sim::{FaultPlan, crowd, seeds};
/// use std::time::Duration;
///
/// seeds(3, |seed| {
///     crowd::swarm(seed, 3, Duration::from_secs(10))
///         .faults(FaultPlan::survivable())
///         .simulate(|sim| async move {
///             sim.run_for(Duration::from_secs(60)).await;
///             sim.heal_and_settle(Duration::from_secs(3_600)).await;
///         })
/// });
/// ```
pub fn seeds<T>(n: u64, run: impl Fn(u64) -> SimReport<T>) {
    let one = std::env::var(SEED_VARIABLE).ok().and_then(|text| text.parse::<u64>().ok());
    let range = one.map_or(0..n, |seed| seed..seed.saturating_add(1));
    let (mut sometimes, mut not_fired) = (BTreeMap::<String, u64>::new(), None::<Vec<FaultClass>>);
    for seed in range {
        let mut report = run(seed);
        let Some(kind) = report.kind() else {
            for (name, n) in &report.sometimes {
                *sometimes.entry(name.clone()).or_default() += n;
            }
            let left = not_fired.get_or_insert_with(|| report.asked.clone());
            left.retain(|class| !report.faults.iter().any(|fault| fault.class == *class));
            continue;
        };
        let n_faults = report.faults.len();
        if let Some(fewer) = fewer(&report, |list| with_faults(list, || run(seed)).is_some_and(|found| found == kind)) {
            report.faults = fewer;
        }
        // The harness names its threads by their tests.
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        panic!(
            "seed {seed}: {report}{} of its {n_faults} faults are enough\nrepeat it: {SEED_VARIABLE}={seed} cargo test {name}",
            report.faults.len()
        );
    }
    if one.is_some() {
        return;
    }
    if let Some((name, _)) = sometimes.iter().find(|(_, n)| **n == 0) {
        panic!("{name:?} never held in {n} seeds: the test does not go where it is meant to");
    }
    let names: Vec<_> = not_fired.unwrap_or_default().into_iter().map(FaultClass::name).collect();
    if !names.is_empty() {
        eprintln!("asked for and never fired in {n} seeds: {}", names.join(", "));
    }
}

/// A test of many seeds: [`seeds`](crate::sim::seeds) as a `#[test]`.
///
/// # Examples
/// ```
/// use atra_runtime::sim::{FaultPlan, crowd};
/// use std::time::Duration;
///
/// atra_runtime::sim_test! {
///     /// Repeat one seed with `ATRA_SIM_SEED=7 cargo test a_crowd_survives`.
///     fn a_crowd_survives(seed in 100) {
///         crowd::swarm(seed, 3, Duration::from_secs(10)).faults(FaultPlan::survivable()).simulate(|sim| async move {
///             sim.run_for(Duration::from_secs(60)).await;
///             sim.heal_and_settle(Duration::from_secs(3_600)).await;
///         })
///     }
/// }
/// ```
#[macro_export]
macro_rules! sim_test {
    ($(#[$attribute:meta])* fn $name:ident($seed:ident in $n:expr) $run:block) => {
        $(#[$attribute])*
        #[test]
        fn $name() {
            $crate::sim::seeds($n, |$seed| $run);
        }
    };
}

/// What a run with exactly these faults fails with.
fn with_faults<T>(list: &[Fault], run: impl FnOnce() -> SimReport<T>) -> Option<String> {
    INSTEAD.set(Some(FaultPlan::Exactly(list.to_vec())));
    // A test may assert in its own run; that is another failure.
    let report = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    INSTEAD.set(None);
    report.ok()?.kind()
}

/// `None`: the list of what fired does not bring the failure back.
fn fewer<T>(report: &SimReport<T>, fails: impl Fn(&[Fault]) -> bool) -> Option<Vec<Fault>> {
    if !fails(&report.faults) {
        return None;
    }
    let mut tries = 0;
    let found = fewer_faults(report.faults.clone(), |list| {
        tries += 1;
        Ok::<_, std::convert::Infallible>(tries <= TRIES_MAX && fails(list))
    });
    found.ok()
}
