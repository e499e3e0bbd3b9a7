//! The seam through which wall time, randomness and tasks enter.
//!
//! Kernel code asks an [`Env`] instead of the machine, so that a simulation can answer instead. Monotonic
//! time is tokio's (`tokio::time`), which a test can pause. This is the only file that reads the clock.

use std::{
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{EventId, Timestamp};

/// A future that a task runs to its end.
pub type TaskFuture = Pin<Box<dyn Future<Output = ()> + Send + 'static>>;

/// Where wall time, randomness, ids and tasks come from.
///
/// # For implementers
/// - `now` never panics; it may jump, in both directions, as wall clocks do. The runtime bounds these jumps.
/// - `monotonic` never goes back and follows tokio's clock, since its instants are used for sleeping.
/// - `random` is uniform over `u64`; a simulated one is a function of the seed and the number of calls.
/// - `spawn` runs the future on the current tokio runtime, or on an executor of its own; the [`Task`] owns it.
pub trait Env: Send + Sync + 'static {
    /// Wall time.
    fn now(&self) -> Timestamp;

    /// Monotonic time: tokio's clock, which a test can pause and a simulation moves.
    fn monotonic(&self) -> tokio::time::Instant {
        tokio::time::Instant::now()
    }

    /// 64 random bits.
    fn random(&self) -> u64;

    /// Starts a task that is owned by the answer.
    fn spawn(&self, name: &str, future: TaskFuture) -> Task;

    /// The number of the process, as operators see it.
    fn process(&self) -> u32 {
        std::process::id()
    }

    /// A new id for something that begins outside any turn.
    fn new_id(&self) -> EventId {
        EventId::from_bits(u128::from(self.random()) << 64 | u128::from(self.random()))
    }
}

/// A task of an executor that is not tokio's: what a simulation's tasks are.
pub trait OwnedTask: Send + Sync + std::fmt::Debug {
    /// Whether it has ended.
    fn is_finished(&self) -> bool;
    /// Ends it before it is polled again.
    fn abort(&self);
    /// The end: `false` when it panicked or was aborted.
    fn poll_end(&self, cx: &mut Context<'_>) -> Poll<bool>;
}

#[derive(Debug)]
enum Handle {
    Tokio(tokio::task::JoinHandle<()>),
    Owned(Box<dyn OwnedTask>),
}

/// A spawned task: owned, named, and stopped when dropped.
#[derive(Debug)]
pub struct Task {
    name: String,
    handle: Handle,
}

impl Task {
    /// Takes ownership of a running tokio task.
    #[must_use]
    pub fn new(name: &str, handle: tokio::task::JoinHandle<()>) -> Self {
        Self { name: name.into(), handle: Handle::Tokio(handle) }
    }

    /// Takes ownership of a running task of another executor.
    #[must_use]
    pub fn owned(name: &str, task: Box<dyn OwnedTask>) -> Self {
        Self { name: name.into(), handle: Handle::Owned(task) }
    }

    /// The name it was spawned with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        match &self.handle {
            Handle::Tokio(handle) => handle.is_finished(),
            Handle::Owned(task) => task.is_finished(),
        }
    }

    /// Stops it at its next await point.
    pub fn abort(&self) {
        match &self.handle {
            Handle::Tokio(handle) => handle.abort(),
            Handle::Owned(task) => task.abort(),
        }
    }

    /// Waits for the end; `false` when it panicked or was aborted.
    ///
    /// # Cancel safety
    /// Dropping the future aborts the task.
    pub async fn join(mut self) -> bool {
        match &mut self.handle {
            Handle::Tokio(handle) => handle.await.is_ok(),
            Handle::Owned(task) => std::future::poll_fn(|cx| task.poll_end(cx)).await,
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.abort();
    }
}

/// The machine's own clock, randomness and tokio runtime.
#[derive(Debug)]
pub struct SystemEnv {
    seed: u64,
    drawn: AtomicU64,
}

impl SystemEnv {
    /// An environment whose randomness is seeded from the operating system.
    #[must_use]
    pub fn new() -> Self {
        use std::hash::{BuildHasher, RandomState};
        // The standard library's hasher keys are the one portable source of OS randomness it offers;
        // nothing here needs to resist an attacker.
        Self { seed: RandomState::new().hash_one(std::process::id()), drawn: AtomicU64::new(0) }
    }
}

impl Default for SystemEnv {
    fn default() -> Self {
        Self::new()
    }
}

impl Env for SystemEnv {
    #[expect(clippy::disallowed_methods, reason = "this is the seam that reads the wall clock")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn random(&self) -> u64 {
        // Relaxed: only uniqueness of the counter matters.
        xxh3_64_with_seed(&self.drawn.fetch_add(1, Ordering::Relaxed).to_le_bytes(), self.seed)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the seam that spawns")]
    fn spawn(&self, name: &str, future: TaskFuture) -> Task {
        Task::new(name, tokio::spawn(future))
    }
}

/// A simulated environment: wall time follows tokio's (pausable) clock from a fixed start, and randomness
/// is a function of the seed.
#[derive(Debug)]
pub struct SimEnv {
    seed: u64,
    drawn: AtomicU64,
    start: Timestamp,
    origin: tokio::time::Instant,
}

impl SimEnv {
    /// An environment that begins at `start`. Call it inside a tokio runtime.
    #[must_use]
    pub fn new(seed: u64, start: Timestamp) -> Self {
        Self { seed, drawn: AtomicU64::new(0), start, origin: tokio::time::Instant::now() }
    }
}

impl Env for SimEnv {
    fn now(&self) -> Timestamp {
        self.start.after(self.origin.elapsed())
    }

    fn random(&self) -> u64 {
        // Relaxed: a simulation runs on one thread.
        xxh3_64_with_seed(&self.drawn.fetch_add(1, Ordering::Relaxed).to_le_bytes(), self.seed)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the seam that spawns")]
    fn spawn(&self, name: &str, future: TaskFuture) -> Task {
        Task::new(name, tokio::spawn(future))
    }
}
