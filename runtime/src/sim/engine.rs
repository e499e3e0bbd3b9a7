//! The engine of a simulation: one root future that owns all tasks and polls one of them per step.
//!
//! It promises that what runs next is a function of (seed, task, its n-th poll) alone: a ready task's key is drawn
//! from those three, and the least key is polled. So the order in which wakers happened to be called cannot leak in,
//! and taking one agent away does not reshuffle the others. Time is tokio's paused clock: it moves only when nothing
//! is ready. Randomness of the environment is keyed the same way, by task and by how many it drew.
//!
//! It notices what would make a run hang or differ: nothing ready and no timer (deadlock), polls without end at one
//! instant (livelock), wakers called from foreign threads, blocking tasks, and tasks spawned past the engine.
//! It leaves to others what the tasks are, and what is checked.

mod data;
mod env;
mod owned;

use std::{
    cell::Cell,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::ThreadId,
    time::Duration,
};

use atra_bus::{Task, TaskFuture};
pub use data::{EngineError, Policy, TraceRecord};
pub(crate) use data::{Figures, Setting, Traced};
pub(crate) use env::SwarmEnv;
use owned::{End, Owned};
use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Virtual time without a single poll after which a run counts as deadlocked: longer than any timer of the kernel.
const SILENCE_MAX: Duration = Duration::from_secs(300 * 24 * 3_600);
/// The task that only looks: what it does is no sign of life.
pub(crate) const LOOKER: &str = "observer";
/// Tasks that a deadlock or livelock names.
const NAMED_MAX: usize = 12;

/// 64 bits that depend on `a` and `b` and on nothing else.
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    xxh3_64_with_seed(&b.to_le_bytes(), a)
}

pub(crate) fn hash_text(text: &str) -> u64 {
    xxh3_64(text.as_bytes())
}

thread_local! {
    /// The task that is being polled on this thread: whose randomness is asked for.
    static CURRENT: Cell<u64> = const { Cell::new(MAIN) };
}

/// The scenario: polled like a task, but it is the run.
const MAIN: u64 = 0;

/// The engine's handle; cheap to clone.
#[derive(Clone)]
pub(crate) struct Engine(Arc<Shared>);

struct Shared {
    seed: u64,
    policy: Policy,
    polls_max: u64,
    origin: tokio::time::Instant,
    ready: Arc<Ready>,
    state: Mutex<State>,
    /// As in the state; here too, for who only asks for the time.
    now_ms: AtomicU64,
    meddler: OnceLock<Meddler>,
    /// Planted bugs.
    wake_bug: OnceLock<WakeBug>,
    end_bug: OnceLock<EndBug>,
    /// Says what has not been taken, when everything has fallen silent.
    teller: OnceLock<Teller>,
}

/// Whether a wake of a task is lost: its name, and its polls so far.
pub(crate) type WakeBug = Arc<dyn Fn(&str, u64) -> bool + Send + Sync>;
/// A planted bug: whether a task ends silently before a poll, by its name and its polls so far.
pub(crate) type EndBug = Arc<dyn Fn(&str, u64) -> bool + Send + Sync>;
/// What goes wrong instead of a poll: of which task, how many of its name were before it, which poll.
pub(crate) type Meddler = Box<dyn Fn(&str, u32, u64) -> Option<Meddling> + Send + Sync>;
pub(crate) type Teller = Box<dyn Fn() -> String + Send + Sync>;

/// What happens instead of a poll.
pub(crate) enum Meddling {
    /// The group is dead from here on.
    Dies,
    /// The poll comes so much later.
    Stalls(Duration),
}

/// Who was woken. Apart from the tasks, so that wakers do not hold what holds them.
struct Ready {
    thread: ThreadId,
    foreign: AtomicBool,
    woken: Mutex<(Vec<u64>, Option<Waker>)>,
}

struct TaskWaker {
    id: u64,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if std::thread::current().id() != self.ready.thread {
            self.ready.foreign.store(true, Ordering::SeqCst);
        }
        // Relaxed: one thread; a foreign one fails the run anyway.
        if !self.queued.swap(true, Ordering::Relaxed) {
            let mut woken = lock(&self.ready.woken);
            woken.0.push(self.id);
            if let Some(root) = woken.1.take() {
                drop(woken);
                root.wake();
            }
        }
    }
}

/// What a step of the root did.
enum Polled {
    Task,
    Scenario,
    Nothing,
    Failed(EngineError),
}

#[derive(Default)]
struct State {
    /// The slot of task n at index n, while the task is there. Ids are never used again: eight bytes for each task that
    /// ever was are cheap, and two look-ups for every poll are not.
    tasks: Vec<Option<Box<Slot>>>,
    ready: BinaryHeap<Reverse<(u64, u64)>>,
    /// The same, if an order is followed: then a task is looked for by its key.
    listed: BTreeSet<(u64, u64)>,
    woken_in_all: u64,
    /// Who was woken last time, emptied: its memory is used again.
    spare: Vec<u64>,
    names: FxHashMap<String, u64>,
    /// Tasks of groups below it are dead: never polled again.
    alive_from: u32,
    hash: u64,
    records: u64,
    polls: u64,
    main_polls: u64,
    /// Polls of tasks that do not only look.
    worked: u64,
    /// Who only looks, and waits for something to look at.
    looker: Option<Waker>,
    /// The scenario goes on after the next poll of a task.
    main_after_step: bool,
    polls_at_instant: u64,
    now_ms: u64,
    trace: Option<Vec<TraceRecord>>,
    /// The tasks that were polled, by key, if it is traced.
    polled: Option<Vec<u64>>,
    /// Who waits for what, of those that say so.
    waits: BTreeMap<u64, (String, String)>,
    n_waits: u64,
    /// The order that is to be followed, and how far it was.
    order: Option<(Arc<[u64]>, usize)>,
}

struct Slot {
    name: Arc<str>,
    key: u64,
    group: u32,
    /// How many of its name were before it.
    nth: u32,
    /// It only looks.
    is_looker: bool,
    polls: u64,
    draws: u64,
    since_ms: u64,
    /// When it was polled last, and how often at that instant.
    window: (u64, u64),
    /// Away while it is polled, with its waker.
    future: Option<(TaskFuture, Waker)>,
    waker: Arc<TaskWaker>,
    end: Arc<End>,
}

/// Somebody waits; see [`Engine::waits`].
pub(crate) struct Waits {
    n: u64,
    engine: Engine,
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.engine.state().waits.remove(&self.n);
    }
}

/// A task that was put in its place.
struct Spawned {
    id: u64,
    waker: Arc<TaskWaker>,
    end: Arc<End>,
    is_dead: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done by a panic: state is whole before and after each change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Engine ===

impl Engine {
    /// An engine; call it inside the simulation's tokio runtime.
    fn new(setting: Setting) -> Self {
        let Setting { seed, policy, polls_max, traced, order } = setting;
        let ready = Ready {
            thread: std::thread::current().id(),
            foreign: AtomicBool::new(false),
            woken: Mutex::new((Vec::new(), None)),
        };
        let (trace, polled) = (traced.then(Vec::new), traced.then(Vec::new));
        let order = order.map(|order| (order, 0));
        let state = State { tasks: vec![None], trace, polled, order, ..State::default() };
        Self(Arc::new(Shared {
            seed,
            policy,
            polls_max,
            origin: tokio::time::Instant::now(),
            ready: Arc::new(ready),
            state: Mutex::new(state),
            now_ms: AtomicU64::new(0),
            meddler: OnceLock::new(),
            wake_bug: OnceLock::new(),
            end_bug: OnceLock::new(),
            teller: OnceLock::new(),
        }))
    }

    /// Runs `scenario` to its end on a tokio runtime of its own, with time paused. Blocks.
    pub(crate) fn run<T, F: Future<Output = T>>(
        setting: Setting,
        scenario: impl FnOnce(Self) -> F,
    ) -> Result<(T, Figures, Option<Traced>), EngineError> {
        let started = Arc::new(AtomicU64::new(0));
        let threads = started.clone();
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .on_thread_start(move || _ = threads.fetch_add(1, Ordering::SeqCst))
            .build()
            .map_err(|error| EngineError::Foreign(format!("simulation could not be set up: {error}")))?;
        let blocking = started.load(Ordering::SeqCst);
        tokio.block_on(async {
            let engine = Self::new(setting);
            let main = Box::pin(scenario(engine.clone()));
            let ready = engine.0.ready.clone();
            let waker = Arc::new(TaskWaker { id: MAIN, queued: AtomicBool::new(false), ready });
            waker.wake_by_ref();
            let silence = Box::pin(tokio::time::sleep(SILENCE_MAX));
            let root = Root { engine: engine.clone(), main, waker, silence, seen: 0 };
            // Unconstrained: tokio's budget counts what one task does, and here many are polled in one.
            let outcome = tokio::task::unconstrained(root).await;
            engine.clear();
            let output = outcome?;
            if started.load(Ordering::SeqCst) > blocking {
                return Err(EngineError::Foreign("something used a blocking thread (spawn_blocking)".into()));
            }
            // Also what came after the last poll.
            engine.trouble().map_or(Ok(()), Err)?;
            let mut state = engine.state();
            let virtual_ms = engine.0.origin.elapsed().as_millis() as u64;
            let figures = Figures { polls: state.polls, hash: state.hash, virtual_ms };
            let (trace, polled) = (state.trace.take(), state.polled.take());
            Ok((output, figures, trace.zip(polled).map(|(records, order)| Traced { records, order })))
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    /// Virtual time since the begin, in milliseconds, as of the last poll.
    pub(crate) fn now_ms(&self) -> u64 {
        // Relaxed: one thread.
        self.0.now_ms.load(Ordering::Relaxed)
    }

    /// Virtual monotonic time, as of the same poll.
    pub(crate) fn instant(&self) -> tokio::time::Instant {
        self.0.origin + Duration::from_millis(self.now_ms())
    }

    /// Polls so far.
    pub(crate) fn polls(&self) -> u64 {
        self.state().polls
    }

    /// Adds a record to the trace.
    pub(crate) fn note(&self, what: &str, value: u64) {
        self.state().record(hash_text(what) ^ value, value, || what.to_owned());
    }

    /// Starts a task in a group.
    pub(crate) fn spawn(&self, group: u32, name: &str, future: TaskFuture) -> Task {
        Task::owned(name, Box::new(self.start(group, name, future)))
    }

    fn start(&self, group: u32, name: &str, future: TaskFuture) -> Owned {
        let Spawned { id, waker, end, is_dead } = self.start_in(&mut self.state(), group, name, future);
        if is_dead {
            end.set(false);
        } else {
            waker.wake();
        }
        Owned { id, end, engine: Arc::downgrade(&self.0) }
    }

    /// Puts a task in its place; it still has to be woken.
    fn start_in(&self, state: &mut State, group: u32, name: &str, future: TaskFuture) -> Spawned {
        let id = state.tasks.len() as u64;
        // The name and how often it was used, never the id: ids shift when another task is not there.
        let nth = *state.names.entry(name.to_owned()).and_modify(|n| *n += 1).or_insert(0);
        let key = mix(mix(self.0.seed, hash_text(name)), nth);
        let waker = Arc::new(TaskWaker { id, queued: AtomicBool::new(false), ready: self.0.ready.clone() });
        let end = Arc::new(End::default());
        let is_dead = group < state.alive_from && group > 0;
        let since_ms = state.now_ms;
        let slot = (!is_dead).then(|| {
            Box::new(Slot {
                name: name.into(),
                key,
                group,
                nth: nth as u32,
                is_looker: name == LOOKER,
                polls: 0,
                draws: 0,
                since_ms,
                window: (since_ms, 0),
                future: Some((future, Waker::from(waker.clone()))),
                waker: waker.clone(),
                end: end.clone(),
            })
        });
        state.tasks.push(slot);
        Spawned { id, waker, end, is_dead }
    }

    /// Starts a task that nobody owns; it ends with its group.
    pub(crate) fn detach(&self, group: u32, name: &str, future: TaskFuture) {
        drop(self.start(group, name, future));
    }

    /// Waits until something but the observer has been polled since `worked` was read; no timer is needed for it, so a run
    /// in which nothing happens any more falls silent.
    pub(crate) async fn work_after(&self, worked: u64) -> u64 {
        std::future::poll_fn(|cx| {
            let mut state = self.state();
            if state.worked > worked {
                return Poll::Ready(state.worked);
            }
            state.looker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Says, as long as what it gives is there, what the task that is polled now waits for.
    pub(crate) fn waits(&self, what: impl Into<String>) -> Waits {
        let mut state = self.state();
        let who = state.slot(CURRENT.get()).map_or("the scenario".into(), |slot| slot.name.to_string());
        state.n_waits += 1;
        let n = state.n_waits;
        state.waits.insert(n, (who, what.into()));
        Waits { n, engine: self.clone() }
    }

    /// Lets one ready task be polled before the scenario goes on.
    pub(crate) async fn one_step(&self) {
        let before = self.polls();
        std::future::poll_fn(|_| {
            let mut state = self.state();
            if state.polls > before {
                return Poll::Ready(());
            }
            state.main_after_step = true;
            Poll::Pending
        })
        .await;
    }

    /// From now on nothing of the groups below `group` is polled any more: what a dead process does. Their futures
    /// are dropped at once, in the order in which they were spawned.
    pub(crate) fn kill(&self, group: u32) {
        let dead: Vec<Box<Slot>> = {
            let mut state = self.state();
            state.alive_from = state.alive_from.max(group);
            let is_dead = |slot: &mut Box<Slot>| slot.group < group && slot.group > 0;
            state.tasks.iter_mut().filter_map(|place| place.take_if(is_dead)).collect()
        };
        for mut slot in dead {
            drop(slot.future.take());
            slot.end.set(false);
        }
    }

    /// Drops everything that is left, while the tokio runtime is still there.
    fn clear(&self) {
        self.kill(u32::MAX);
        let left = std::mem::take(&mut self.state().tasks);
        drop(left);
    }

    /// Stops polling the groups below `group` at once, from inside one of their polls; [`Engine::kill`] drops them.
    pub(crate) fn freeze(&self, group: u32) {
        let mut state = self.state();
        state.alive_from = state.alive_from.max(group);
    }

    /// Tasks of a group that have not ended.
    pub(crate) fn alive(&self, group: u32) -> Vec<String> {
        self.state().slots().filter(|slot| slot.group == group).map(|slot| slot.name.to_string()).collect()
    }

    /// 64 random bits: a function of the seed, the task that asks, and how often it asked.
    pub(crate) fn random(&self) -> u64 {
        let id = CURRENT.get();
        let mut state = self.state();
        match state.slot(id) {
            Some(slot) => {
                slot.draws += 1;
                mix(mix(slot.key, 0x5EED), slot.draws)
            }
            // The scenario, or a task that was ended while it is polled.
            None => {
                let n = state.names.entry("\0draws of the scenario".into()).or_insert(0);
                *n += 1;
                mix(mix(self.0.seed, 0x5EED), *n)
            }
        }
    }

    /// Polls one ready task, unless it is the scenario's turn.
    fn step(&self) -> Polled {
        let (id, mut future, waker) = {
            let mut state = self.state();
            self.drain(&mut state);
            let at_instant = state.records - state.polls_at_instant;
            if at_instant > self.0.polls_max {
                drop(state);
                return Polled::Failed(EngineError::Livelock { polls: at_instant, busiest: self.busiest() });
            }
            let Some(id) = state.next_ready() else { return Polled::Nothing };
            if id == MAIN {
                state.main_polls += 1;
                let n = state.main_polls;
                state.record(mix(MAIN, n), n, || "scenario".into());
                state.note_polled(MAIN);
                return Polled::Scenario;
            }
            let (alive_from, now_ms, is_traced) = (state.alive_from, state.now_ms, state.trace.is_some());
            if self.goes_wrong(&mut state, id) {
                return Polled::Task;
            }
            let end_bug = self.0.end_bug.get();
            let Some(slot) = state.slot(id) else { return Polled::Task };
            if end_bug.is_some_and(|bug| slot.group > 0 && bug(&slot.name, slot.polls)) {
                // Leaked, so that not even its drop is noticed.
                std::mem::forget(slot.future.take());
                drop(state);
                self.finish(id, false);
                return Polled::Task;
            }
            // Taken back before the poll: a wake during it counts.
            slot.waker.queued.store(false, Ordering::Relaxed);
            if slot.group > 0 && slot.group < alive_from {
                return Polled::Task;
            }
            let Some((future, waker)) = slot.future.take() else { return Polled::Task };
            slot.polls += 1;
            slot.window = (now_ms, if slot.window.0 == now_ms { slot.window.1 + 1 } else { 1 });
            let (key, polls, is_looking) = (slot.key, slot.polls, slot.is_looker);
            let name = is_traced.then(|| slot.name.to_string());
            state.record(mix(key, polls), polls, || name.unwrap_or_default());
            state.note_polled(key);
            state.polls += 1;
            let looker = if is_looking { None } else { state.looker.take() };
            state.worked += u64::from(!is_looking);
            if std::mem::take(&mut state.main_after_step) {
                state.make_ready(0, MAIN);
            }
            drop(state);
            if let Some(looker) = looker {
                looker.wake();
            }
            (id, future, waker)
        };
        CURRENT.set(id);
        let polled =
            std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut Context::from_waker(&waker))));
        CURRENT.set(MAIN);
        match polled {
            Ok(Poll::Pending) => {
                let mut state = self.state();
                let now_ms = state.now_ms;
                match state.slot(id) {
                    Some(slot) => {
                        slot.since_ms = now_ms;
                        slot.future = Some((future, waker));
                    }
                    // Ended while it was polled. Dropped without the lock: its drop may wake others.
                    None => {
                        drop(state);
                        drop(future);
                    }
                }
            }
            Ok(Poll::Ready(())) => self.finish(id, true),
            Err(panic) => {
                tracing::error!(cause = %crate::team::panic_text(&*panic), "task panicked");
                self.finish(id, false);
            }
        }
        Polled::Task
    }

    /// From now on this may happen instead of polls.
    pub(crate) fn meddle(&self, meddler: Meddler) {
        let _ = self.0.meddler.set(meddler);
    }

    /// From now on these wakes are lost.
    pub(crate) fn plant(&self, bug: WakeBug) {
        let _ = self.0.wake_bug.set(bug);
    }

    /// Sets which tasks end silently.
    pub(crate) fn plant_ends(&self, bug: EndBug) {
        let _ = self.0.end_bug.set(bug);
    }

    /// Who says what has not been taken, when everything has fallen silent.
    pub(crate) fn tell_of(&self, teller: Teller) {
        let _ = self.0.teller.set(teller);
    }

    /// Whether something else happens than the poll of this task.
    fn goes_wrong(&self, state: &mut State, id: u64) -> bool {
        let Some(meddler) = self.0.meddler.get() else { return false };
        let alive_from = state.alive_from;
        let Some(slot) = state.slot(id).filter(|slot| slot.group >= alive_from.max(1)) else { return false };
        match meddler(&slot.name, slot.nth, slot.polls + 1) {
            None => false,
            Some(Meddling::Dies) => {
                let group = slot.group;
                state.alive_from = alive_from.max(group + 1);
                true
            }
            Some(Meddling::Stalls(long)) => {
                // It counts as woken all the while, so nobody wakes it before.
                let ready = self.0.ready.clone();
                let over = async move {
                    tokio::time::sleep(long).await;
                    lock(&ready.woken).0.push(id);
                };
                let spawned = self.start_in(state, 0, "stall", Box::pin(over));
                spawned.waker.wake_by_ref();
                true
            }
        }
    }

    /// One that was ended while it was polled has been told so.
    fn finish(&self, id: u64, ok: bool) {
        let slot = self.state().take(id);
        if let Some(slot) = slot {
            let end = slot.end.clone();
            drop(slot);
            end.set(ok);
        }
    }

    /// Gives every task that was woken its key.
    fn drain(&self, state: &mut State) {
        let spare = std::mem::take(&mut state.spare);
        let mut woken = std::mem::replace(&mut lock(&self.0.ready.woken).0, spare);
        for id in woken.drain(..) {
            state.woken_in_all += 1;
            let n = state.woken_in_all;
            if let Some(bug) = self.0.wake_bug.get()
                && let Some(slot) = state.slot(id)
                && bug(&slot.name, slot.polls)
            {
                slot.waker.queued.store(false, Ordering::Relaxed);
                continue;
            }
            let is_listed = state.order.is_some();
            let key = match (self.0.policy, state.slot(id)) {
                // Found by the key that stands in the list.
                (_, Some(slot)) if is_listed => slot.key,
                (_, None) if is_listed && id == MAIN => MAIN,
                (Policy::Fifo, _) => n,
                (Policy::Random, Some(slot)) => mix(slot.key, slot.polls),
                (Policy::Random, None) if id == MAIN => mix(mix(self.0.seed, MAIN), state.main_polls),
                // It has ended.
                (Policy::Random, None) => continue,
            };
            state.make_ready(key, id);
        }
        state.spare = woken;
    }

    /// Nothing is ready: time may move.
    fn rest<T>(&self) -> Poll<Result<T, EngineError>> {
        if tokio::runtime::Handle::current().metrics().num_alive_tasks() > 0 {
            let what = "a task was spawned past the engine (tokio::spawn)".into();
            return Poll::Ready(Err(EngineError::Foreign(what)));
        }
        Poll::Pending
    }

    fn trouble(&self) -> Option<EngineError> {
        let foreign = self.0.ready.foreign.load(Ordering::Relaxed);
        foreign.then(|| EngineError::Foreign("a waker was called from a foreign thread".into()))
    }

    /// Everything that waits, longest first.
    fn waiting(&self) -> String {
        let state = self.state();
        let mut slots: Vec<&Slot> = state.slots().collect();
        slots.sort_by(|a, b| (a.since_ms, &a.name).cmp(&(b.since_ms, &b.name)));
        let told = |slot: &&Slot| format!("{} (since {} ms, after {} polls)", slot.name, slot.since_ms, slot.polls);
        let tasks = list(slots.iter().map(told).collect());
        let waits: Vec<String> = state.waits.values().map(|(who, what)| format!("{who} waits for {what}")).collect();
        drop(state);
        let untaken = self.0.teller.get().map(|tell| tell()).filter(|text| !text.is_empty());
        let more = waits.into_iter().chain(untaken);
        more.fold(tasks, |text, more| text + "; " + &more)
    }

    fn busiest(&self) -> String {
        let state = self.state();
        let here = state.slots().filter(|slot| slot.window.0 == state.now_ms);
        let mut polled: Vec<_> = here.map(|slot| (slot.window.1, &*slot.name)).collect();
        polled.sort_unstable_by(|a, b| b.cmp(a));
        list(polled.into_iter().map(|(n, name)| format!("{name} ({n})")).collect())
    }
}

fn list(all: Vec<String>) -> String {
    let more = all.len().saturating_sub(NAMED_MAX);
    let mut text = all.into_iter().take(NAMED_MAX).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    if text.is_empty() { "nothing but the scenario".into() } else { text }
}

impl State {
    /// Takes the task that comes next: the one that the list names, if it is ready, and else the first.
    fn next_ready(&mut self) -> Option<u64> {
        let Some((list, at)) = &mut self.order else {
            return self.ready.pop().map(|Reverse((_, id))| id);
        };
        if let Some(&wanted) = list.get(*at)
            && let Some(&found) = self.listed.range((wanted, 0)..).next().filter(|(key, _)| *key == wanted)
        {
            *at += 1;
            self.listed.remove(&found);
            return Some(found.1);
        }
        self.listed.pop_first().map(|(_, id)| id)
    }

    fn make_ready(&mut self, key: u64, id: u64) {
        if self.order.is_some() {
            self.listed.insert((key, id));
        } else {
            self.ready.push(Reverse((key, id)));
        }
    }

    fn note_polled(&mut self, key: u64) {
        if let Some(polled) = &mut self.polled {
            polled.push(key);
        }
    }

    fn slot(&mut self, id: u64) -> Option<&mut Slot> {
        self.tasks.get_mut(id as usize)?.as_deref_mut()
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.tasks.iter().filter_map(Option::as_deref)
    }

    fn take(&mut self, id: u64) -> Option<Box<Slot>> {
        self.tasks.get_mut(id as usize)?.take()
    }

    fn record(&mut self, of: u64, value: u64, what: impl FnOnce() -> String) {
        self.records += 1;
        self.hash = mix(self.hash ^ self.now_ms, of);
        if let Some(trace) = &mut self.trace {
            trace.push(TraceRecord { n: self.records, at_ms: self.now_ms, what: what(), value });
        }
    }
}

/// The root future: the scenario and all tasks.
struct Root<F> {
    engine: Engine,
    main: Pin<Box<F>>,
    waker: Arc<TaskWaker>,
    /// Goes off when nothing has happened for a very long time.
    silence: Pin<Box<tokio::time::Sleep>>,
    /// Polls when `silence` was armed.
    seen: u64,
}

impl<F: Future> Future for Root<F> {
    type Output = Result<F::Output, EngineError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let engine = self.engine.clone();
        lock(&engine.0.ready.woken).1 = Some(cx.waker().clone());
        let now_ms = engine.0.origin.elapsed().as_millis() as u64;
        {
            let mut state = engine.state();
            if state.now_ms != now_ms {
                state.now_ms = now_ms;
                state.polls_at_instant = state.records;
                engine.0.now_ms.store(now_ms, Ordering::Relaxed);
            }
        }
        if self.silence.as_mut().poll(cx).is_ready() {
            let worked = engine.state().worked;
            if worked == self.seen {
                return Poll::Ready(Err(EngineError::Deadlock(engine.waiting())));
            }
            self.seen = worked;
            self.silence.as_mut().reset(tokio::time::Instant::now() + SILENCE_MAX);
            let _ = self.silence.as_mut().poll(cx);
        }
        loop {
            match engine.step() {
                Polled::Task => {}
                Polled::Scenario => {
                    self.waker.queued.store(false, Ordering::Relaxed);
                    // One waker for the whole run, and polled only when it was woken, as any task.
                    let waker = Waker::from(self.waker.clone());
                    if let Poll::Ready(output) = self.main.as_mut().poll(&mut Context::from_waker(&waker)) {
                        return Poll::Ready(Ok(output));
                    }
                }
                Polled::Nothing => return engine.rest(),
                Polled::Failed(error) => return Poll::Ready(Err(error)),
            }
            if let Some(error) = engine.trouble() {
                return Poll::Ready(Err(error));
            }
        }
    }
}
