//! The world around a simulated runtime: who starts it again after a crash, pauses and restarts its teams, and looks
//! at it from outside; and the handle by which a test steers all that.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use atra_bus::{Draft, EventId, Name, Seq, Task};
use atra_storage::{FactKind, Level, Read, Rejected, StorageOptions, StoreError};
use futures::future::{Either, select};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use super::{
    Look, OwnChecks, SIM_START,
    audit::Audit,
    disk::{DiskWorld, FaultyStore, Order},
    driven::Disk,
    engine::{Engine, SwarmEnv, mix},
    faults::Faults,
    invariant::Invariant,
};
use crate::{ClockLimits, Runtime, RuntimeBuilder, RuntimeError, Team, TeamState};

/// Pause between two tries of a publish, in virtual time.
const PUBLISH_PAUSE: Duration = Duration::from_millis(500);
/// Tries of a publish: ten minutes, longer than any fault that is promised to be survived lasts.
const PUBLISH_TRIES_MAX: u32 = 1_200;

/// Orders that wait for the operator. A process dies once at a time; what is above it of the others is dropped.
pub(crate) const ORDERS_MAX: usize = 64;
/// How long a simulated stop may take, in virtual time: longer than any planned stall.
pub(crate) const STOP_DEADLINE: Duration = Duration::from_secs(3_600);
/// Tries to start before the run is given up.
const STARTS_MAX: u32 = 50;

/// What the world is made of.
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) disk: Disk,
    pub(crate) teams: Vec<Team>,
    pub(crate) level: Level,
    pub(crate) storage: StorageOptions,
    pub(crate) clock: ClockLimits,
    pub(crate) look_every: Duration,
    pub(crate) checks: OwnChecks,
}

/// Shared by the world's tasks and the test's handle.
pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) faults: Faults,
    pub(crate) audit: Audit,
    disk_world: DiskWorld,
    plan: Plan,
    up: watch::Sender<Option<Runtime>>,
    group: AtomicU64,
    seen: Mutex<Seen>,
}

/// What was seen from outside.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) sometimes: BTreeMap<String, u64>,
    pub(crate) series: BTreeMap<String, Vec<(u64, f64)>>,
    pub(crate) crashes: u64,
    /// Whether the last death was the machine's.
    lost_power: bool,
}

/// The handle of a scenario on its simulation. Cheap to clone.
#[derive(Clone)]
pub struct Sim(pub(crate) Arc<World>);

impl World {
    pub(crate) fn new(engine: Engine, faults: Faults, audit: Audit, disk_world: DiskWorld, plan: Plan) -> Arc<Self> {
        let (up, _) = watch::channel(None);
        let seen = Mutex::default();
        Arc::new(Self { engine, faults, audit, disk_world, plan, up, group: AtomicU64::new(0), seen })
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Their names, in the order in which they were added.
    pub(crate) fn teams(&self) -> Vec<Name> {
        self.plan.teams.iter().map(|team| team.name().clone()).collect()
    }

    pub(crate) fn reader(&self) -> Arc<dyn Read> {
        self.plan.disk.reader().unwrap_or_else(|error| panic!("simulated store cannot be read: {error}"))
    }

    /// Starts an incarnation. `None`: it died on the way.
    async fn start(&self, orders: &mut mpsc::Receiver<Order>, power: bool) -> Option<Result<Runtime, String>> {
        // Relaxed: one thread.
        let group = self.group.fetch_add(1, Ordering::Relaxed) as u32 + 1;
        let inner = match self.plan.disk.open() {
            Ok(store) => store,
            Err(error) => return Some(Err(error.to_string())),
        };
        if let Err(error) = self.audit.reopened(&*inner.reader(), power).await {
            return Some(Err(error.to_string()));
        }
        let store = FaultyStore { inner, world: self.disk_world.clone(), group, commits: 0 };
        let off_by = self.disk_world.clock_off_by.clone();
        let env = Arc::new(SwarmEnv::new(self.engine.clone(), group, SIM_START, off_by));
        let builder = RuntimeBuilder::new(store).env(env).own_thread(false);
        let mut builder = builder.level(self.plan.level).storage(self.plan.storage.clone()).clock(self.plan.clock);
        for team in &self.plan.teams {
            builder = builder.team(team.clone());
        }
        let mut start = pin!(builder.start());
        loop {
            match select(start.as_mut(), pin!(orders.recv())).await {
                Either::Left((Ok(runtime), _)) => return Some(Ok(runtime)),
                Either::Left((Err(error), _)) => return Some(Err(error.to_string())),
                Either::Right((Some(Order::Crashed { power, lies, draw }), _)) => {
                    self.die(power, lies, draw);
                    return None;
                }
                Either::Right(_) => {}
            }
        }
    }

    /// What is left of a process that died: what the disk keeps.
    fn die(&self, power: bool, lies: bool, draw: u64) {
        {
            let mut seen = self.seen();
            seen.crashes += 1;
            seen.lost_power = power;
        }
        self.up.send_replace(None);
        self.engine.kill(self.group.load(Ordering::Relaxed) as u32 + 1);
        let volatile = self.plan.disk.n_volatile();
        let keep = match (power, lies) {
            (true, _) => (mix(draw, 1) % (volatile as u64 + 1)) as usize,
            (false, true) => volatile.saturating_sub(1),
            (false, false) => volatile,
        };
        if (power || lies)
            && let Err(error) = self.plan.disk.lose_power(keep)
        {
            self.audit.check(Invariant::Atomic, false, "store", || error.to_string());
        }
        self.engine.note("crash", u64::from(power));
    }

    /// The operator: keeps a runtime running.
    pub(crate) async fn operate(self: Arc<Self>, mut orders: mpsc::Receiver<Order>) {
        let mut power = false;
        let mut starts = 0;
        loop {
            let runtime = match self.start(&mut orders, power).await {
                Some(Ok(runtime)) => runtime,
                Some(Err(error)) => {
                    starts += 1;
                    self.audit.check(Invariant::NotStuck, starts < STARTS_MAX, "runtime", || {
                        format!("did not start {starts} times in a row: {error}")
                    });
                    self.engine.kill(self.group.load(Ordering::Relaxed) as u32 + 1);
                    if starts >= STARTS_MAX {
                        return;
                    }
                    sleep(Duration::from_secs(1)).await;
                    power = false;
                    continue;
                }
                None => {
                    sleep(Duration::from_millis(100)).await;
                    power = self.seen().lost_power;
                    continue;
                }
            };
            starts = 0;
            self.up.send_replace(Some(runtime.clone()));
            power = self.serve(runtime, &mut orders).await;
        }
    }

    /// Obeys until the incarnation has ended; tells whether power went.
    async fn serve(self: &Arc<Self>, runtime: Runtime, orders: &mut mpsc::Receiver<Order>) -> bool {
        while let Some(order) = orders.recv().await {
            match order {
                Order::Crashed { power, lies, draw } => {
                    drop(runtime);
                    self.die(power, lies, draw);
                    sleep(Duration::from_millis(mix(draw, 2) % 30_000)).await;
                    return power;
                }
                Order::Stop { draw } => {
                    self.up.send_replace(None);
                    let stopped = {
                        let mut stop = pin!(self.stop(&runtime));
                        loop {
                            match select(stop.as_mut(), pin!(orders.recv())).await {
                                Either::Left(_) => break None,
                                Either::Right((Some(Order::Crashed { power, lies, draw }), _)) => {
                                    break Some((power, lies, draw));
                                }
                                Either::Right(_) => {}
                            }
                        }
                    };
                    drop(runtime);
                    let mut power = false;
                    if let Some((is_power, lies, draw)) = stopped {
                        self.die(is_power, lies, draw);
                        power = is_power;
                    }
                    self.engine.kill(self.group.load(Ordering::Relaxed) as u32 + 1);
                    sleep(Duration::from_millis(mix(draw, 2) % 10_000)).await;
                    return power;
                }
                Order::Pause { draw } => self.pause(&runtime, draw).await,
                Order::Restart { draw } => {
                    if let Some(team) = self.team(draw) {
                        // One that has ended says so; nothing is to be done about it here.
                        let _ = timeout(Duration::from_secs(1), runtime.restart(team.as_str())).await;
                    }
                }
            }
        }
        std::future::pending().await
    }

    fn team(&self, draw: u64) -> Option<&Name> {
        let teams = &self.plan.teams;
        teams.get((mix(draw, 3) % teams.len().max(1) as u64) as usize).map(Team::name)
    }

    async fn pause(self: &Arc<Self>, runtime: &Runtime, draw: u64) {
        let Some(team) = self.team(draw).cloned() else { return };
        // The command waits behind others if the team is busy: not for long.
        if !matches!(timeout(Duration::from_secs(1), runtime.pause(team.as_str())).await, Ok(Ok(()))) {
            return;
        }
        let (runtime, long) = (runtime.clone(), Duration::from_millis(mix(draw, 4) % 60_000));
        let group = self.group.load(Ordering::Relaxed) as u32;
        let resume = async move {
            sleep(long).await;
            let _ = runtime.resume(team.as_str()).await;
        };
        self.detached(group, "operator resumes", resume);
    }

    /// A task that nobody waits for; it ends with its group.
    fn detached(self: &Arc<Self>, group: u32, name: &str, future: impl Future<Output = ()> + Send + 'static) {
        self.engine.detach(group, name, Box::pin(future));
    }

    /// Stops and checks that it was a clean stop; where the disk refused a commit of the stop, or the last one before it,
    /// for want of space, that everything has ended and the error says why.
    pub(crate) async fn stop(&self, runtime: &Runtime) -> Result<(), RuntimeError> {
        let (n_before, was_full) = self.faults.full();
        let outcome = runtime.stop(STOP_DEADLINE).await;
        let no_space = was_full || self.faults.full().0 > n_before;
        let text = || format!("stop: {outcome:?}, disk full: {no_space}");
        let for_want_of_space =
            no_space && matches!(&outcome, Err(RuntimeError::Rejected(rejected)) if is_full(rejected));
        self.audit.check(Invariant::CleanStop, outcome.is_ok() || for_want_of_space, "runtime", text);
        if outcome.is_ok() || for_want_of_space {
            self.audit.stopped();
            let name = crate::coordinator::runtime_name();
            let mark = self.reader().fact(FactKind::Meta, &name, "running").await;
            let clean = for_want_of_space || matches!(mark, Ok(None));
            self.audit.check(Invariant::CleanStop, clean, "runtime", || "the mark of a running runtime is left".into());
            let group = self.group.load(Ordering::Relaxed) as u32;
            let left: Vec<_> =
                self.engine.alive(group).into_iter().filter(|name| !name.starts_with("operator")).collect();
            self.audit.check(Invariant::CleanStop, left.is_empty(), "tasks", || format!("still there: {left:?}"));
        }
        outcome
    }

    /// Looks at the runtime now and then.
    pub(crate) async fn watch(self: Arc<Self>) {
        let (mut n, mut worked) = (0, 0);
        loop {
            worked = self.engine.work_after(worked).await;
            sleep(self.plan.look_every).await;
            n += 1;
            let runtime = self.up.borrow().clone();
            let Some(runtime) = runtime else { continue };
            self.look(&runtime, n).await;
        }
    }

    pub(crate) async fn look(&self, runtime: &Runtime, n: u64) {
        self.audit.looked();
        let metrics = runtime.storage_metrics();
        let options = &self.plan.storage;
        let (commands, bytes) = (3 * options.queue_commands_max as u64, 3 * options.queue_bytes_max as u64);
        let bounded = metrics.queued <= commands + options.batch_commands_max as u64 && metrics.queued_bytes <= bytes;
        self.audit.check(Invariant::Bounded, bounded, "storage queue", || format!("{metrics:?}"));
        let status = runtime.status();
        let mut excused = BTreeSet::new();
        // Relaxed: one thread.
        let alive: BTreeSet<String> =
            self.engine.alive(self.group.load(Ordering::Relaxed) as u32).into_iter().collect();
        for team in &status {
            let has_task = team.state.is_ended() || alive.contains(&format!("team {}", team.team));
            self.audit.check(Invariant::HasTask, has_task, team.team.as_str(), || {
                format!("its status is {}, but its task has ended", team.state)
            });
            let gave_up = matches!(team.state, TeamState::Failed { .. } | TeamState::Poisoned { .. });
            let contained = !gave_up || self.audit.failed_itself(&team.team);
            self.audit.check(Invariant::Contained, contained, team.team.as_str(), || team.state.to_string());
            if team.state.is_ended() {
                excused.insert(team.team.clone());
            }
        }
        self.audit.look_for_stuck(false, &excused);
        let memory = runtime.memory();
        let at = memory.released();
        if let Some((key, expected)) = self.audit.sample_outside(mix(self.plan.seed, n), at) {
            let found = memory.get(&key).map(|entry| entry.revision);
            self.audit.check(Invariant::AsOf, found == expected, &key, || {
                format!("outside read the write of {found:?} as of {at}, the journal says {expected:?}")
            });
        }
        let look = Look { at_ms: self.engine.now_ms(), runtime, status: &status };
        for (name, check) in &self.plan.checks.invariants {
            self.audit.check_own(name, check(&look));
        }
        for (name, found) in &self.plan.checks.sometimes {
            let n = u64::from(found(&look));
            *self.seen().sometimes.entry(name.clone()).or_insert(0) += n;
        }
        for (name, value) in &self.plan.checks.series {
            let point = (look.at_ms, value(&look));
            self.seen().series.entry(name.clone()).or_default().push(point);
        }
    }
}

impl Sim {
    /// The runtime that runs now; waits while it is down.
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    pub async fn runtime(&self) -> Runtime {
        let mut up = self.0.up.subscribe();
        let _waits = self.0.engine.waits("a runtime that is up");
        loop {
            let found = up.borrow_and_update().clone();
            match found {
                Some(runtime) => return runtime,
                // The sender is the world's, which this handle holds.
                None => _ = up.changed().await,
            }
        }
    }

    /// Whether a runtime runs now.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.0.up.borrow().is_some()
    }

    /// Virtual time since the begin.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Duration::from_millis(self.0.engine.now_ms())
    }

    /// Lets everything run for so long in virtual time.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn run_for(&self, long: Duration) {
        sleep(long).await;
    }

    /// Lets everything run until `over` holds, looking after every virtual `every`; `false` when `limit` passed first.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn run_until(&self, every: Duration, limit: Duration, mut over: impl FnMut(&Self) -> bool) -> bool {
        let waited = timeout(limit, async {
            while !over(self) {
                sleep(every).await;
            }
        });
        waited.await.is_ok()
    }

    /// Lets everything run until all sources have ended and everything is settled; `false` when `limit` passed first.
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    pub async fn run_until_idle(&self, limit: Duration) -> bool {
        let _waits = self.0.engine.waits("everything to be settled");
        let idle = async {
            loop {
                let runtime = self.runtime().await;
                runtime.idle().await;
                // A runtime that died was idle because its teams were gone.
                if self.is_up() {
                    return;
                }
            }
        };
        timeout(limit, idle).await.is_ok()
    }

    /// Polls exactly one ready task, whichever the policy chooses; then the scenario goes on. Time moves if nothing is
    /// ready.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn step(&self) {
        self.0.engine.one_step().await;
    }

    /// Publishes as a caller, and holds the runtime to its answer. Tries again with the same key after an unknown outcome
    /// or a crash, so it is there exactly once. What a smaller case of a failure leaves out is answered with seq 0.
    ///
    /// # Errors
    /// What the runtime refuses for good, and what it still refuses after ten minutes.
    ///
    /// # Cancel safety
    /// Dropped while it waits, the event may be committed or not.
    pub async fn publish(
        &self,
        caller: &Name,
        key: &str,
        event: impl Into<Draft>,
    ) -> Result<(Seq, EventId), RuntimeError> {
        if !self.0.faults.gives(caller, key) {
            return Ok((Seq::ZERO, EventId::from_bits(0)));
        }
        let draft = event.into();
        let _waits = self.0.engine.waits(format!("the answer to what {caller} publishes as {key:?}"));
        for tries_left in (0..PUBLISH_TRIES_MAX).rev() {
            let runtime = self.runtime().await;
            let call = runtime.publish(draft.clone()).from(caller.clone()).key(key);
            match call.await {
                Ok(done) => {
                    self.0.audit.acknowledged(done.seq, done.id, done.level == Level::Power);
                    return Ok((done.seq, done.id));
                }
                Err(RuntimeError::Rejected(_)) if tries_left > 0 => {
                    drop(runtime);
                    sleep(PUBLISH_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last try returns")
    }

    /// Runs something beside the scenario, a caller for example; it outlives crashes of the runtime.
    pub fn spawn(&self, name: &str, future: impl Future<Output = ()> + Send + 'static) -> Task {
        self.0.engine.spawn(0, name, Box::pin(future))
    }

    /// The process dies now; it starts again on what is committed.
    ///
    /// # Cancel safety
    /// Cancel safe: the order is given at once.
    pub async fn crash(&self) {
        let group = self.0.group.load(Ordering::Relaxed) as u32;
        self.0.engine.freeze(group + 1);
        let order = Order::Crashed { power: false, lies: false, draw: self.0.engine.polls() };
        // Room enough: the operator is awake whenever it is up.
        let _ = self.0.disk_world.orders.send(order).await;
        while self.is_up() {
            self.step().await;
        }
    }

    /// Stops the runtime cleanly and starts it again; gives the new one.
    ///
    /// # Cancel safety
    /// Cancel safe: the order is given at once.
    pub async fn restart(&self) -> Runtime {
        let _ = self.0.disk_world.orders.send(Order::Stop { draw: self.0.engine.polls() }).await;
        while self.is_up() {
            self.step().await;
        }
        self.runtime().await
    }

    /// Reads of what is committed.
    ///
    /// # Panics
    /// When the file of a simulated SQLite is not there yet.
    #[must_use]
    pub fn reader(&self) -> Arc<dyn Read> {
        self.0.reader()
    }

    /// From now on nothing goes wrong; then waits until everything is settled and checks that nobody is stuck.
    ///
    /// # Cancel safety
    /// Cancel safe, but what is dropped is not checked.
    pub async fn heal_and_settle(&self, limit: Duration) {
        self.0.faults.heal();
        // The longest pause and downtime that were planned before.
        sleep(Duration::from_secs(120)).await;
        let settled = self.run_until_idle(limit).await;
        self.0.audit.check(Invariant::NotStuck, settled, "everything", || {
            format!("not settled {limit:?} after the last fault")
        });
        let runtime = self.runtime().await;
        // A team that its own agents ended, which `look` holds it to, takes nothing any more.
        let ended = runtime.status().into_iter().filter(|team| team.state.is_ended()).map(|team| team.team);
        self.0.audit.look_for_stuck(true, &ended.collect());
        self.0.look(&runtime, 0).await;
        let look = Look { at_ms: self.0.engine.now_ms(), runtime: &runtime, status: &runtime.status() };
        for (name, check) in &self.0.plan.checks.eventually {
            self.0.audit.check_own(name, check(&look));
        }
    }
}

/// Whether the last writes of a stop failed because there is no space.
fn is_full(rejected: &Rejected) -> bool {
    match rejected {
        Rejected::Failed(error) => matches!(error, StoreError::Full(_)),
        // The text has the error that came then.
        Rejected::Unknown(cause) => {
            cause.starts_with("no space left") && cause.ends_with("after a commit of unknown outcome")
        }
        _ => false,
    }
}
