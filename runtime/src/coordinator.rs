//! The coordinator: checks the topology, starts storage and teams in order, watches, drains, stops in
//! reverse.

use std::{
    io,
    sync::{Arc, Weak},
    time::Duration,
};

use atra_bus::{Bus, BusOptions, Env, InvalidSettings, Name, Payload, SettingCheck, SystemEnv, Task};
use atra_storage::{FactKind, Level, Rejected, Storage, StorageActor, StorageOptions, Store, StoreError};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use crate::{
    ClockLimits, Limits,
    clock::BoundedEnv,
    kernel::{JournalReader, Kernel, Releaser, owners_of},
    known::Known,
    life::Life,
    memory::{Entry, SharedMemory},
    runtime::{Runtime, TeamHandle},
    supervisor::{ASKS_MAX, Supervisor, TeamState, interest},
    tasks,
    team::{Team, TurnWatch},
    topology::{self, TopologyError, TopologyWarning},
};

/// The key of the fact that is there while a runtime runs: found at a start, it tells of an unclean stop.
const RUNNING_KEY: &str = "running";

/// Warnings about the topology that are logged one by one. 50: as many as a person reads.
const WARNINGS_MAX: usize = 50;

/// Memory keys that are read at once at the start. 4,096: spreads the cost of a page, and each page has its own
/// deadline.
const LOADED_KEYS: usize = 4_096;

/// Why a runtime could not be started. Nothing runs afterwards.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A limit, a spec or an option has a value that is not allowed.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// The teams do not fit together.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The store could not be opened or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The storage refused a first write.
    #[error("storage refused to start")]
    Storage(#[from] Rejected),
    /// The kernel's thread could not be started.
    #[error("thread for the storage could not be started: {0}")]
    Thread(String),
}

/// What a runtime is made of.
pub struct RuntimeBuilder {
    store: Box<dyn Store>,
    env: Arc<dyn Env>,
    clock: ClockLimits,
    storage: StorageOptions,
    bus: BusOptions,
    level: Level,
    teams: Vec<Team>,
    own_thread: bool,
    config: Value,
}

impl RuntimeBuilder {
    /// A runtime over `store`, with defaults and no teams.
    pub fn new(store: impl Store + 'static) -> Self {
        Self::on(Box::new(store))
    }

    /// As [`RuntimeBuilder::new`], over a store whose type is not known.
    #[must_use]
    pub fn on(store: Box<dyn Store>) -> Self {
        Self {
            store,
            env: Arc::new(SystemEnv::new()),
            clock: ClockLimits::default(),
            storage: StorageOptions::default(),
            bus: BusOptions::default(),
            level: Level::Process,
            teams: Vec::new(),
            own_thread: true,
            config: Value::Null,
        }
    }

    /// Adds a team; teams start in this order and stop in reverse.
    #[must_use]
    pub fn team(mut self, team: Team) -> Self {
        self.teams.push(team);
        self
    }

    /// Where wall time, randomness and tasks come from.
    #[must_use]
    pub fn env(mut self, env: Arc<dyn Env>) -> Self {
        self.env = env;
        self
    }

    /// Bounds of the wall clock.
    #[must_use]
    pub fn clock(mut self, clock: ClockLimits) -> Self {
        self.clock = clock;
        self
    }

    /// Bounds of the storage actor.
    #[must_use]
    pub fn storage(mut self, options: StorageOptions) -> Self {
        self.storage = options;
        self
    }

    /// Bounds of the bus.
    #[must_use]
    pub fn bus(mut self, options: BusOptions) -> Self {
        self.bus = options;
        self
    }

    /// What acknowledgements promise by default.
    #[must_use]
    pub fn level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// The configuration in force, recorded at a team's first start in the process and at each ordered restart.
    #[must_use]
    pub fn config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }

    /// Whether storage and watchdog have a thread of their own (the default), so that a turn that never
    /// yields cannot stop them; a simulation runs everything on one.
    #[must_use]
    pub fn own_thread(mut self, own_thread: bool) -> Self {
        self.own_thread = own_thread;
        self
    }

    /// Checks every limit, spec and option, and how they fit together; [`start`](Self::start) does it too.
    ///
    /// # Errors
    /// Each value that is not allowed, with its team or section.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        let mut check = SettingCheck::new("");
        check.add(self.storage.check());
        check.add(self.bus.check());
        let command_bytes_max = self.storage.command_bytes_max;
        for team in &self.teams {
            check.add(team.check());
            let field = format!("teams.{}.limits.step_bytes_max", team.name);
            check.at_most(&field, team.limits.step_bytes_max, "storage.command_bytes_max", command_bytes_max);
        }
        check.finish()
    }

    /// Checks, loads, and starts everything; call it inside a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs afterwards, and the store is as it was.
    ///
    /// # Cancel safety
    /// Not cancel safe: teams that were started go on until the handle is dropped.
    pub async fn start(self) -> Result<Runtime, StartError> {
        self.check()?;
        warn_of(&topology::check(&self.teams)?);
        let reader = self.store.reader();
        let memory = SharedMemory::default();
        let bus = Bus::new(self.bus, Arc::new(JournalReader(reader.clone())));
        let releaser = Arc::new(Releaser { memory: memory.clone(), bus: bus.clone() });
        let (storage, actor) = Storage::open(self.store, self.storage, releaser, Arc::clone(&self.env)).await?;
        let released = storage.released();
        load_memory(&*reader, &memory).await?;
        memory.set_loaded(released);
        bus.set_released(released);
        let known = Arc::new(Known::read(&*reader, &memory).await?);
        let name = runtime_name();
        let unclean = reader.fact(FactKind::Meta, &name, RUNNING_KEY).await?.is_some();
        let agents = self.teams.iter().flat_map(|team| team.specs().map(|spec| spec.name.clone())).collect();
        let limits = self.teams.iter().map(|team| team.limits.event_bytes_max);
        let event_bytes_max = limits.max().unwrap_or(Limits::default().event_bytes_max);
        let kernel = Arc::new(Kernel {
            env: Arc::new(BoundedEnv::new(self.env, self.clock)),
            clock: self.clock,
            storage,
            reader,
            bus,
            memory,
            owners: owners_of(self.teams.iter().flat_map(Team::specs)),
            agents: Arc::new(agents),
            event_bytes_max,
            level: self.level,
            name,
            life: Life::new(),
            unclean,
            config: self.config,
        });
        let storage = spawn_storage(&kernel, actor, self.own_thread)?;
        if unclean {
            tracing::info!("the last run did not stop cleanly; inputs that were under way are tried one by one");
        }
        let running = json!({ "process": kernel.env.process(), "since": kernel.env.now() });
        kernel.note(&kernel.name, RUNNING_KEY, Some(running)).await?;
        let teams: Vec<_> = self.teams.into_iter().map(|team| start_team(&kernel, team, &known)).collect();
        let watchdog = watchdog(&kernel, &teams, self.own_thread)?;
        Ok(Runtime::new(kernel, teams, storage, watchdog))
    }
}

fn warn_of(warnings: &[TopologyWarning]) {
    for warning in warnings.iter().take(WARNINGS_MAX) {
        tracing::warn!(topology = %warning, "topology warning");
    }
    if let Some(more @ 1..) = warnings.len().checked_sub(WARNINGS_MAX) {
        tracing::warn!(more, "more topology warnings");
    }
}

/// The default name of callers.
pub(crate) const CALLER: &str = "caller";

/// The publisher of `sys.*` events and owner of the runtime's own facts.
pub(crate) fn runtime_name() -> Name {
    Name::new("atra").unwrap_or_else(|error| panic!("{error}"))
}

/// All of shared memory, page by page: nothing is held twice.
pub(crate) async fn load_memory(reader: &dyn atra_storage::Read, memory: &SharedMemory) -> Result<(), StoreError> {
    let mut from = Some(String::new());
    while let Some(key) = from {
        let page = reader.memory_page(&key, LOADED_KEYS).await?;
        for row in page.facts {
            if let (Some(json), Some(revision)) = (row.value, row.event) {
                memory.load(&row.key, row.version, Entry { value: Payload::from_journal(json), revision });
            }
        }
        from = page.next;
    }
    Ok(())
}

/// The storage actor, on a thread of its own with a task that gives its answers, or as a task.
pub(crate) enum StorageTask {
    Thread(std::thread::JoinHandle<()>, Task),
    Task(Task),
}

/// A panic of such a task fails the runtime. Holds the kernel weakly, since the storage ends when its last handle is
/// dropped.
fn fails(kernel: &Arc<Kernel>, task: &'static str) -> impl FnOnce(String) + Send + 'static {
    let kernel = Arc::downgrade(kernel);
    move |panic| {
        if let Some(kernel) = kernel.upgrade() {
            kernel.life.fail(task, format!("panicked: {panic}"));
        }
    }
}

/// Runs the actor; every failure of it fails the runtime.
async fn run_storage(actor: StorageActor, kernel: Weak<Kernel>) {
    actor.run().await;
    if let Some(kernel) = kernel.upgrade()
        && let Some(cause) = kernel.storage.failure()
    {
        kernel.life.fail("storage", cause.to_string());
    }
}

fn spawn_storage(kernel: &Arc<Kernel>, mut actor: StorageActor, own_thread: bool) -> Result<StorageTask, StartError> {
    let weak = Arc::downgrade(kernel);
    if !own_thread {
        let run = run_storage(actor, weak);
        return Ok(StorageTask::Task(tasks::spawn(&*kernel.env, "storage", run, fails(kernel, "storage"))));
    }
    let tokio =
        tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(|error| thread_failed(&error))?;
    let answers = actor.answers_apart();
    let run = move || tokio.block_on(run_storage(actor, weak));
    let thread =
        tasks::spawn_thread("atra-storage", run, fails(kernel, "storage")).map_err(|error| thread_failed(&error))?;
    Ok(StorageTask::Thread(thread, tasks::spawn(&*kernel.env, "answers", answers, fails(kernel, "answers"))))
}

fn thread_failed(error: &io::Error) -> StartError {
    StartError::Thread(error.to_string())
}

fn start_team(kernel: &Arc<Kernel>, plan: Team, known: &Arc<Known>) -> TeamHandle {
    let (asks, asked) = mpsc::channel(ASKS_MAX);
    let (state, states) = watch::channel(TeamState::Starting);
    let supervisor = Supervisor::new(plan.clone(), kernel.clone(), asked, state, known.clone());
    let (counters, watches) = (supervisor.counters.clone(), supervisor.watches.clone());
    let (restarts, orders) = (supervisor.n_restarts.clone(), supervisor.orders.clone());
    kernel.life.watch_over(orders.clone());
    // The supervisor contains its own panics; only a panic of its drop arrives here, and then it has ended.
    let task = tasks::spawn(&*kernel.env, &format!("team {}", plan.name), supervisor.run(), |_| ());
    let interest = interest(&plan);
    TeamHandle { plan, interest, asks, orders, states, counters, watches, restarts, task: Some(task) }
}

/// Looks at every team now and then; ends when dropped.
pub(crate) enum Watchdog {
    Thread {
        stop: Option<tokio::sync::oneshot::Sender<()>>,
        thread: Option<std::thread::JoinHandle<()>>,
    },
    /// A simulation has none: its time moves only when no turn runs.
    None,
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Self::Thread { stop, thread } = self {
            // It wakes at once and returns; a failed send means that it has.
            drop(stop.take());
            if let Some(thread) = thread.take() {
                let _ = thread.join();
            }
        }
    }
}

/// A watchdog on a thread of its own: a turn that never yields may hold every worker.
fn watchdog(kernel: &Arc<Kernel>, teams: &[TeamHandle], own_thread: bool) -> Result<Watchdog, StartError> {
    let watched = teams.iter().flat_map(|team| {
        let members = team.plan.specs.iter().zip(team.watches.iter());
        members.map(|(spec, watch)| (team.plan.name.clone(), spec.name.clone(), watch.clone()))
    });
    let watched: Vec<_> = watched.collect();
    let every = teams.iter().map(|team| team.plan.limits.watchdog_ms).min().unwrap_or(Limits::default().watchdog_ms);
    let watch = watch_turns(watched, Duration::from_millis(every));
    if !own_thread {
        return Ok(Watchdog::None);
    }
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let tokio =
        tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(|error| thread_failed(&error))?;
    let run = move || {
        tokio.block_on(async {
            tokio::select! {
                // Biased: the end comes first.
                biased;
                _ = stopped => {}
                () = watch => {}
            }
        });
    };
    let thread =
        tasks::spawn_thread("atra-watchdog", run, fails(kernel, "watchdog")).map_err(|error| thread_failed(&error))?;
    Ok(Watchdog::Thread { stop: Some(stop), thread: Some(thread) })
}

/// `watched`: team, agent, and what to look at.
async fn watch_turns(watched: Vec<(Name, Name, Arc<TurnWatch>)>, every: Duration) {
    let mut before = vec![(0, false); watched.len()];
    loop {
        tokio::time::sleep(every).await;
        for (place, (team, agent, watch)) in watched.iter().enumerate() {
            let now = watch.look();
            let stuck = now == before[place] && now.1;
            if watch.set_stuck(stuck) != stuck && stuck {
                tracing::warn!(%team, %agent, waited = ?every, "turn has not ended; it may never yield");
            }
            before[place] = now;
        }
    }
}

/// Removes the mark of a running runtime: the last write of a clean stop.
pub(crate) async fn note_clean_stop(kernel: &Kernel) -> Result<(), Rejected> {
    kernel.note(&kernel.name, RUNNING_KEY, None).await
}
