//! SQLite under a simulation: each call is driven to its end within one poll.
//!
//! SQLite works on threads of its own, and while the simulation waits for one nothing of it would be ready: its time
//! would jump. So a call here blocks the simulation's thread until it is answered; virtual time cannot move meanwhile,
//! and whoever called sees a future that is ready at once, as with the model. What took effect is a function of the
//! calls, so one seed has one history on both stores, and each is the oracle of the other.
//!
//! A crash closes the connections, which commits nothing. Lost power leaves the first commits: the file is made anew of
//! them. Which ones are flushed is counted here as on the model's disk; the real disk under the file is not at issue.

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    path::PathBuf,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
};

use async_trait::async_trait;
use atra_bus::{Committed, Interest, Name, Seq, Timestamp};
use atra_storage::{
    Block, CommitTime, FactKind, FactPage, FactRow, Level, Loaded, MemoryDisk, MemoryStore, Read, SeriesRow,
    SqliteOptions, SqliteReader, SqliteStore, Store, StoreError, TeamMove, TeamRow, TopicCounts, WriteBatch,
};
use tokio::runtime::{Builder, Handle, Runtime};

/// Wakes the simulation's thread, which waits for SQLite's.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future to its end on this thread, whether it is a simulation's or one that looks at what is left of it.
fn drive<F: Future>(future: F) -> F::Output {
    let context = match Handle::try_current() {
        Ok(_) => None,
        // For the time-outs of reads: they are set, and nothing here lasts long enough to meet one.
        Err(_) => Some(Builder::new_current_thread().enable_time().build()),
    };
    let _entered = context.as_ref().and_then(|tokio| tokio.as_ref().ok()).map(Runtime::enter);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        std::thread::park();
    }
}

/// What a simulation's stores lie on.
#[derive(Debug, Clone)]
pub(crate) enum Disk {
    /// The model.
    Model(MemoryDisk),
    /// A file.
    Sqlite(Arc<SqliteDisk>),
}

impl Disk {
    /// A store for the next incarnation.
    pub(crate) fn open(&self) -> Result<Box<dyn Store>, StoreError> {
        match self {
            Self::Model(disk) => Ok(Box::new(MemoryStore::on(disk))),
            Self::Sqlite(disk) => Ok(Box::new(DrivenStore { inner: disk.open()?, disk: disk.clone() })),
        }
    }

    /// Reads of what is committed.
    pub(crate) fn reader(&self) -> Result<Arc<dyn Read>, StoreError> {
        match self {
            Self::Model(disk) => Ok(Arc::new(disk.clone())),
            Self::Sqlite(disk) => {
                let reader = drive(SqliteReader::open_read_only(&disk.path()))?;
                Ok(Arc::new(DrivenReader::new(reader)))
            }
        }
    }

    /// Whether nothing was ever committed to it.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Model(disk) => drive(disk.last_seq()).is_ok_and(|last| last == Seq::ZERO),
            // It is made anew by the first incarnation.
            Self::Sqlite(disk) => !disk.path().exists(),
        }
    }

    pub(crate) fn track_flushes(&self) {
        match self {
            Self::Model(disk) => disk.track_flushes(),
            Self::Sqlite(disk) => drop(disk.state().volatile.get_or_insert(0)),
        }
    }

    pub(crate) fn n_volatile(&self) -> usize {
        match self {
            Self::Model(disk) => disk.n_volatile(),
            Self::Sqlite(disk) => disk.state().volatile.unwrap_or(0),
        }
    }

    /// Power goes: of the commits that were not flushed, the first `keep` stay.
    pub(crate) fn lose_power(&self, keep: usize) -> Result<(), StoreError> {
        match self {
            Self::Model(disk) => {
                disk.lose_power(keep);
                Ok(())
            }
            Self::Sqlite(disk) => disk.lose_power(keep),
        }
    }
}

/// A database file, and what was committed to it.
#[derive(Debug)]
pub(crate) struct SqliteDisk {
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Every commit since the beginning, if power can go.
    commits: Vec<WriteBatch>,
    /// How many of them are not flushed; `None`: everything counts as flushed.
    volatile: Option<usize>,
}

impl SqliteDisk {
    /// A file in this folder, which is made if it is not there; what is in it goes with the disk.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, state: Mutex::default() }
    }

    fn path(&self) -> PathBuf {
        self.folder.join("simulated.db")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<SqliteStore, StoreError> {
        fs::create_dir_all(&self.folder).map_err(|error| self.fatal(&error))?;
        drive(SqliteStore::open(SqliteOptions::new(self.path())))
    }

    fn fatal(&self, error: &std::io::Error) -> StoreError {
        StoreError::Fatal { path: self.folder.display().to_string(), cause: error.to_string() }
    }

    fn committed(&self, batch: &WriteBatch) {
        let mut state = self.state();
        if let Some(volatile) = &mut state.volatile {
            *volatile = if batch.level == Level::Power { 0 } else { *volatile + 1 };
            state.commits.push(batch.clone());
        }
    }

    fn flushed(&self) {
        let mut state = self.state();
        state.volatile = state.volatile.map(|_| 0);
    }

    fn lose_power(&self, keep: usize) -> Result<(), StoreError> {
        let kept = {
            let mut state = self.state();
            let lost = state.volatile.unwrap_or(0).saturating_sub(keep);
            state.volatile = state.volatile.map(|_| 0);
            if lost == 0 {
                return Ok(());
            }
            let left = state.commits.len() - lost;
            state.commits.truncate(left);
            whole(&state.commits)
        };
        self.remove()?;
        let mut store = self.open()?;
        drive(async {
            store.load().await?;
            store.commit(&kept).await?;
            store.close().await
        })
    }

    fn remove(&self) -> Result<(), StoreError> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(self.fatal(&error)),
            _ => Ok(()),
        }
    }
}

impl Drop for SqliteDisk {
    fn drop(&mut self) {
        // What cannot be removed lies in a folder for temporary files.
        let _ = self.remove();
    }
}

/// One batch that leaves what these leave one after another.
fn whole(commits: &[WriteBatch]) -> WriteBatch {
    let (mut facts, mut teams) = (BTreeMap::new(), BTreeMap::new());
    let mut whole = WriteBatch { level: Level::Process, ..WriteBatch::default() };
    for batch in commits {
        whole.events.extend(batch.events.iter().cloned());
        whole.committed_at = batch.committed_at.or(whole.committed_at);
        for fact in &batch.facts {
            // The owner of a memory key is only who wrote it last.
            let owner = (fact.kind != FactKind::Memory).then(|| fact.owner.clone());
            facts.insert((fact.kind as u8, owner, fact.key.clone()), fact.clone());
        }
        for moved in &batch.teams {
            teams.insert(moved.to.team.clone(), TeamMove { from: None, to: moved.to.clone() });
        }
    }
    whole.facts = facts.into_values().filter(|fact| fact.value.is_some()).collect();
    whole.teams = teams.into_values().collect();
    whole
}

/// SQLite, each call of which ends within one poll.
struct DrivenStore {
    inner: SqliteStore,
    disk: Arc<SqliteDisk>,
}

impl Drop for DrivenStore {
    fn drop(&mut self) {
        // The process is gone, and so must be its connections before the next one opens the file.
        let _ = drive(self.inner.close());
    }
}

#[async_trait]
impl Store for DrivenStore {
    async fn load(&mut self) -> Result<Loaded, StoreError> {
        drive(self.inner.load())
    }

    async fn commit(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        drive(self.inner.commit(batch))?;
        self.disk.committed(batch);
        Ok(())
    }

    async fn checkpoint(&mut self) -> Result<(), StoreError> {
        drive(self.inner.checkpoint())?;
        self.disk.flushed();
        Ok(())
    }

    async fn renew(&mut self) -> Result<(), StoreError> {
        drive(self.inner.renew())
    }

    async fn close(&mut self) -> Result<(), StoreError> {
        drive(self.inner.close())?;
        self.disk.flushed();
        Ok(())
    }

    fn reader(&self) -> Arc<dyn Read> {
        Arc::new(DrivenReader::new(self.inner.reader()))
    }
}

/// Whether what was missed between two seqs is taken for nothing.
pub(crate) type ReadBug = Arc<dyn Fn(Seq, Seq) -> bool + Send + Sync>;

/// Reads of SQLite, each of which ends within one poll; or reads of anything, with a planted bug.
pub(crate) struct DrivenReader {
    inner: Arc<dyn Read>,
    is_driven: bool,
    bug: Option<ReadBug>,
}

impl DrivenReader {
    fn new(inner: Arc<dyn Read>) -> Self {
        Self { inner, is_driven: true, bug: None }
    }

    /// The same reads with a bug of the kernel's: who has missed something believes that there was nothing.
    pub(crate) fn flawed(inner: Arc<dyn Read>, bug: ReadBug) -> Self {
        Self { inner, is_driven: false, bug: Some(bug) }
    }
}

macro_rules! driven {
    ({ $($own:tt)* } $($name:ident($($argument:ident: $type:ty),*) -> $found:ty;)*) => {
        #[async_trait]
        impl Read for DrivenReader {
            $($own)*

            $(async fn $name(&self, $($argument: $type),*) -> Result<$found, StoreError> {
                let read = self.inner.$name($($argument),*);
                if self.is_driven { drive(read) } else { read.await }
            })*
        }
    };
}

driven! {
    {
        async fn journal(
            &self,
            after: Seq,
            upto: Seq,
            interest: &Interest,
            limit: usize,
        ) -> Result<(Vec<Committed>, Seq), StoreError> {
            if self.bug.as_ref().is_some_and(|bug| bug(after, upto)) {
                return Ok((Vec::new(), upto));
            }
            let read = self.inner.journal(after, upto, interest, limit);
            if self.is_driven { drive(read) } else { read.await }
        }
    }
    last_seq() -> Seq;
    floor() -> Seq;
    last_committed_before(clock: Timestamp) -> Seq;
    commit_time(seq: Seq) -> Option<CommitTime>;
    journal_before(before: Seq, interest: &Interest, limit: usize) -> (Vec<Committed>, Seq);
    event(seq: Seq) -> Option<Committed>;
    effects_of(seq: Seq, limit: usize) -> Vec<Committed>;
    topic_counts() -> TopicCounts;
    memory_as_of(key: &str, at: Seq) -> Option<Committed>;
    fact(kind: FactKind, owner: &Name, key: &str) -> Option<FactRow>;
    facts_page(kind: FactKind, owner: &Name, from: &str, limit: usize) -> FactPage;
    memory_page(from: &str, limit: usize) -> FactPage;
    fact_owners(kind: FactKind) -> Vec<Name>;
    count_facts(kind: FactKind, owner: Option<&Name>) -> u64;
    memory_keys(prefix: &str) -> Vec<String>;
    teams() -> Vec<TeamRow>;
    blocks(series: &Name, from: i64, to: i64, limit: usize) -> Vec<Block>;
    series() -> Vec<SeriesRow>;
}
