//! Simulated swarms: the real runtime on the model store, under virtual time, from one seed.
//!
//! Everything runs on one thread with tokio's clock paused: time moves only when nothing else can. The
//! environment's wall clock follows that clock and its randomness is a function of the seed, so the same
//! seed and the same agents give the same journal, whatever the machine does meanwhile.

use std::{future::Future, sync::Arc, time::Duration};

use atra_bus::{SimEnv, Timestamp};
use atra_storage::{Digest, MemoryDisk, MemoryStore, Read, digest};

use crate::{Runtime, RuntimeBuilder, StartError, Team};

/// Where virtual wall time begins: 2020-01-01T00:00:00 UTC.
pub const SIM_START: Timestamp = Timestamp(1_577_836_800_000);
/// How long a simulated stop may take, in virtual time.
const STOP_DEADLINE: Duration = Duration::from_secs(3_600);

/// A swarm of agents to be simulated.
///
/// # Examples
/// ```
/// use atra_runtime::sim::Swarm;
/// let run = || Swarm::new(7).run(|runtime| async move { runtime.idle().await });
/// assert_eq!(run()?.digest, run()?.digest);
/// # Ok::<(), atra_runtime::sim::SwarmError>(())
/// ```
pub struct Swarm {
    seed: u64,
    disk: MemoryDisk,
    teams: Vec<Team>,
}

/// What a simulation left behind.
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
    /// The simulation's executor could not be made.
    #[error("simulation could not be set up: {0}")]
    SetUp(String),
}

impl Swarm {
    /// An empty swarm; everything random in it follows from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, disk: MemoryDisk::new(), teams: Vec::new() }
    }

    /// Runs on a disk that was used before: what was committed is there.
    #[must_use]
    pub fn on(mut self, disk: &MemoryDisk) -> Self {
        self.disk = disk.clone();
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

    /// Starts the swarm, runs `scenario`, stops cleanly and takes the digest. Blocks until virtual time has
    /// done all that.
    ///
    /// # Errors
    /// [`SwarmError`] when the runtime did not start or stop.
    pub fn run<T, F, Fut>(self, scenario: F) -> Result<SwarmReport<T>, SwarmError>
    where
        F: FnOnce(Runtime) -> Fut,
        Fut: Future<Output = T>,
    {
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .map_err(|error| SwarmError::SetUp(error.to_string()))?;
        tokio.block_on(async move {
            let began = tokio::time::Instant::now();
            let env = Arc::new(SimEnv::new(self.seed, SIM_START));
            let store = MemoryStore::on(&self.disk);
            let mut builder = RuntimeBuilder::new(store).env(env).own_thread(false);
            for team in self.teams {
                builder = builder.team(team);
            }
            let runtime = builder.start().await?;
            let reader = runtime.reader();
            let output = scenario(runtime.clone()).await;
            runtime.stop(STOP_DEADLINE).await?;
            let digest = digest(&*reader).await?;
            Ok(SwarmReport { output, reader, digest, virtual_time: began.elapsed() })
        })
    }
}
