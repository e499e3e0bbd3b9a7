//! SQLite: the store that ships. One file, one writing connection, a few reading ones.

mod backup;
mod chain;
mod check;
mod check_rows;
mod connection;
mod error;
mod files;
mod guard;
mod lock;
mod names;
mod newest;
pub(crate) mod paths;
mod pool;
mod prune;
mod queries;
mod read;
mod room;
mod schema;
mod sums;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_damage;
#[cfg(test)]
mod tests_files;
#[cfg(test)]
mod tests_lock;
#[cfg(test)]
mod tests_plans;
#[cfg(test)]
mod tests_room;
#[cfg(test)]
mod tests_scale;
#[cfg(test)]
mod tests_upkeep;
#[cfg(test)]
mod tests_watch;
mod topics;
mod trim;
mod wanted;
mod watch;
mod write;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use atra_bus::{InvalidSettings, Seq, SettingCheck};
use sqlx::{AssertSqlSafe, Executor as _, Row as _, SqliteConnection};
use tracing::warn;

pub use backup::{Copied, Progress, Restored, Vacuumed, backup, refuse_half_restored, restore, vacuum};
pub use chain::check_value;
pub use check::{CheckReport, Info, RowCounts, check, count_rows, info};
pub use files::{Log, LogReader, log};
pub use lock::{Owner, owner};
pub use paths::{create_beside, read_beside, rename_new, resolve};
pub use read::SqliteReader;
pub use schema::SCHEMA_VERSION;
pub use trim::{Pruned, forget_team, prune_file};

use self::{
    chain::Link,
    connection::{ReadMode, close, open_writer, set_level, used_bytes},
    error::{classify, fatal, is_failed_write},
    files::{FileId, size_of},
    lock::FileLock,
    names::{BatchNames, Interner, id_of},
    paths::{create_db, refuse_open_folder, refuse_second_name, refuse_unsafe_files, resolve_db},
    prune::{expire, floor, next_piece, prune},
    queries::{COMMIT, FORGET_RUNS, LAST_LINK, ROLLBACK, TEAMS},
    read::{ReadTimes, RowError, commit_time, named_team},
    topics::Topics,
    watch::LogWatch,
    write::{Counted, WriteError, Written, write},
};
use crate::{Expired, Expiry, Level, Loaded, Read, Sizes, Store, StoreError, WriteBatch, options::DAY};

/// How long the write-ahead log waits for readers before it is begun anew. 100 ms: most reads are over by then, and a
/// commit that waits for it is not late for a person.
const SHORTEN_PATIENCE_MS: u32 = 100;

/// How long the writing anew waits for readers. 2 s: nobody else is served meanwhile.
const RENEW_PATIENCE_MS: u32 = 2_000;

/// The size of a page as SQLite makes it.
const PAGE_BYTES: u64 = 4_096;

/// What a [`SqliteStore`] is opened with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SqliteOptions {
    /// The database file. Beside it: `-wal` and `-shm` while it is open, and `.lock`.
    pub path: PathBuf,
    /// Whether a missing file is created.
    pub create: bool,
    /// Reading connections, opened when needed. 4: as many as an HTTP server, the lagging readers and a person need
    /// at once on a small machine; each holds a thread and 8 MB of cache.
    pub readers: u32,
    /// How long one read may take before it is cut. 10 s: far above any page, and what a log of a busy store grows by
    /// meanwhile is bounded.
    pub read_deadline: Duration,
    /// From how long on a read is logged. 1 s.
    pub slow_after: Duration,
}

impl SqliteOptions {
    /// The file, created if missing, with four readers.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            create: true,
            readers: 4,
            read_deadline: Duration::from_secs(10),
            slow_after: Duration::from_secs(1),
        }
    }

    /// Checks every bound; the path is checked when it is opened.
    ///
    /// # Errors
    /// Each bound that is out of its range.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        let mut check = SettingCheck::new("storage");
        check.range("readers", self.readers, 1..=256);
        check.duration("read_deadline", self.read_deadline, Duration::from_millis(1)..=DAY);
        check.duration("slow_after", self.slow_after, Duration::ZERO..=DAY);
        check.finish()
    }
}

/// A store on a SQLite file, locked for this runtime alone.
#[derive(Debug)]
pub struct SqliteStore {
    /// Resolved: without links.
    path: PathBuf,
    /// As it was named.
    given: PathBuf,
    /// `None` after closing, and while it has to be opened again.
    db: Option<SqliteConnection>,
    /// The log and its index; `None` without a connection.
    watch: Option<LogWatch>,
    /// The files were changed by others: no more commits or checkpoints.
    fault: Option<StoreError>,
    /// The last seq that was committed, and the last one that is in the database file and not in the log only.
    last: Seq,
    moved: Seq,
    /// The warning was logged that its name leads to another file.
    was_moved_link: bool,
    is_closed: bool,
    /// What `synchronous` is set to.
    level: Level,
    /// A transaction was begun and its end was not seen: the future was dropped in between.
    is_in_transaction: bool,
    /// The last commit failed for want of space.
    was_full: bool,
    /// Whether something was committed, so that statistics may be out of date.
    has_written: bool,
    names: Interner,
    /// The topic index, and the events that are not in it yet.
    topics: Topics,
    /// What the next batch is chained to.
    link: Link,
    reader: Arc<SqliteReader>,
    /// The file that was opened: another one at the same path is not ours.
    id: FileId,
    /// Bytes of the database that hold something, when they were last read.
    used_bytes: u64,
    /// Size of the log when its readers were last told of.
    told_wal_bytes: u64,
    /// The other process that was found to hold it.
    log_held_by: Option<u32>,
    /// Held until the store is closed or dropped.
    lock: Option<FileLock>,
}

impl SqliteStore {
    /// Opens the file for writing, and creates or upgrades it if need be.
    ///
    /// # Cancel safety
    /// Dropped while it waits, nothing is left open; the file may have been created.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another runtime has it, [`StoreError::Newer`] when it was written by a newer
    /// atra, [`StoreError::Fatal`] when it is missing (and not to be created), not an atra database,
    /// or not writable. [`StoreError::Settings`] when a bound is out of its range.
    pub async fn open(options: SqliteOptions) -> Result<Self, StoreError> {
        options.check()?;
        let SqliteOptions { path: given, create, readers, read_deadline, slow_after } = options;
        // Before anything else: every file of the database is named after this path.
        let path = resolve_db(&given)?;
        if !create && !path.exists() {
            refuse_half_restored(&path)?;
            return Err(fatal(&path, "it does not exist; create it by starting a runtime on it"));
        }
        refuse_open_folder(&path)?;
        refuse_unsafe_files(&path)?;
        let mut lock = FileLock::take(&path).await?;
        refuse_half_restored(&path)?;
        if create {
            create_db(&path)?;
        }
        lock.take_inode().await?;
        refuse_second_name(&path)?;
        let db = open_writer(&path, create).await?;
        let id = FileId::of(&path)?;
        let watch = LogWatch::begin(&path).map_err(|error| fatal(&path, format!("its log cannot be read: {error}")))?;
        let times = ReadTimes { deadline: read_deadline, slow_after };
        let reader = Arc::new(SqliteReader::new(&path, readers, ReadMode::Runtime, times));
        Ok(Self {
            path,
            given,
            db: Some(db),
            watch: Some(watch),
            fault: None,
            last: Seq::ZERO,
            moved: Seq::ZERO,
            was_moved_link: false,
            is_closed: false,
            level: Level::Process,
            is_in_transaction: false,
            was_full: false,
            has_written: false,
            names: Interner::default(),
            topics: Topics::default(),
            link: Link::START,
            reader,
            id,
            used_bytes: 0,
            told_wal_bytes: 0,
            log_held_by: None,
            lock: Some(lock),
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Deletes what runs have written (journal, facts, teams) in one transaction, and keeps the blocks: the next
    /// run begins at seq 1. For use before a runtime is started on the store.
    ///
    /// # Cancel safety
    /// Dropped while it waits, everything is deleted or nothing.
    ///
    /// # Errors
    /// [`StoreError::Busy`], [`StoreError::Full`] or [`StoreError::Fatal`]; nothing is deleted then.
    pub async fn forget_runs(&mut self) -> Result<(), StoreError> {
        self.begin_at(Level::Power).await?;
        if let Some(lock) = &mut self.lock {
            lock.clear_acknowledged();
        }
        let path = self.path.clone();
        let db = self.db()?;
        let forgotten = sqlx::raw_sql(FORGET_RUNS).execute(db).await.map_err(|error| classify(&path, &error));
        if let Err(error) = forgotten {
            self.roll_back().await;
            return Err(error);
        }
        self.reader.forget_last();
        self.reader.newest.begin(None);
        self.topics = Topics::default();
        (self.link, self.last, self.moved) = (Link::START, Seq::ZERO, Seq::ZERO);
        Ok(())
    }

    fn db(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        self.db.as_mut().ok_or_else(|| fatal(&self.path, "it was closed"))
    }

    /// The class of a commit's error.
    fn class(&mut self, error: &sqlx::Error) -> StoreError {
        let class = classify(&self.path, error);
        let was_full = std::mem::replace(&mut self.was_full, matches!(class, StoreError::Full(_)));
        match class {
            // Space came after the write and before the look for it: once more, before the disk is said to fail.
            StoreError::Unknown(cause) if was_full && is_failed_write(error) => StoreError::Full(cause),
            class => class,
        }
    }

    /// Ends an open transaction without effect. An error is ignored: there may be none, or the connection
    /// may be broken, which the next use tells.
    async fn roll_back(&mut self) {
        if let Some(db) = &mut self.db {
            let _ = db.execute(ROLLBACK).await;
        }
        self.is_in_transaction = false;
    }

    async fn begin_at(&mut self, level: Level) -> Result<(), StoreError> {
        if self.is_in_transaction {
            self.roll_back().await;
            let error = StoreError::Unknown("an earlier commit was interrupted".into());
            self.reopen_if_unknown(&error).await;
            return Err(error);
        }
        if self.db.is_none() && !self.is_closed {
            return Err(StoreError::Unknown("the connection was given up; load first".into()));
        }
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        self.reserve_index(0)?;
        if self.level != level {
            let path = self.path.clone();
            set_level(self.db()?, &path, level).await?;
            self.level = level;
        }
        Ok(())
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn load(&mut self) -> Result<Loaded, StoreError> {
        if self.is_closed {
            return Err(fatal(&self.path, "it was closed"));
        }
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        if self.db.is_none() {
            let opened = open_writer(&self.path, false).await;
            self.db = Some(self.noted(opened)?);
            self.watch = LogWatch::begin(&self.path).ok();
            self.level = Level::Process;
            self.is_in_transaction = false;
        }
        let path = self.path.clone();
        let db = self.db()?;
        let loaded = load(db).await.map_err(|error| classify(&path, &error))?;
        let (loaded, names, link) = loaded;
        (self.names, self.link) = (names, link);
        self.refuse_lost_events(loaded.last_seq)?;
        self.last = loaded.last_seq;
        self.load_topics().await?;
        self.reader.raise_floor(loaded.floor);
        let is_unflushed = self.lock.as_ref().is_some_and(FileLock::is_unflushed);
        Ok(Loaded { is_unflushed, ..loaded })
    }

    async fn commit(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        self.begin_at(batch.level).await?;
        let Some(db) = &mut self.db else { return Err(fatal(&self.path, "it was closed")) };
        self.is_in_transaction = true;
        let written = write(db, batch, BatchNames::new(&self.names), &self.topics, self.link).await;
        let Written { names, topics, seen, link, is_committed } = match written {
            Ok(written) => written,
            Err(error) => {
                let error = match error {
                    WriteError::Refused(error) => error,
                    WriteError::Sql(error) => self.class(&error),
                };
                self.roll_back().await;
                self.reopen_if_unknown(&error).await;
                return Err(error);
            }
        };
        if !is_committed && let Err(error) = db.execute(COMMIT).await {
            let error = self.class(&error);
            self.roll_back().await;
            self.reopen_if_unknown(&error).await;
            return Err(error);
        }
        (self.is_in_transaction, self.has_written, self.was_full) = (false, true, false);
        for (text, id) in names {
            self.names.learn(&text, id);
        }
        if let Some(last) = batch.events.last() {
            self.reader.newest.add(seen, last.seq);
        }
        match topics {
            Counted::Ended(ended) => self.topics.ended(ended),
            Counted::Since(tally) => {
                if let Some(last) = batch.events.last() {
                    self.topics.add(tally, last.seq);
                }
            }
        }
        self.link = link;
        self.last = batch.events.last().map_or(self.last, |event| event.seq);
        Ok(())
    }

    async fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.begin_to_move().await?;
        let path = self.path.clone();
        let db = self.db()?;
        // Passive: it waits for nobody and moves what it can.
        let moved = db.execute("PRAGMA wal_checkpoint(PASSIVE)").await.map_err(|error| classify(&path, &error));
        self.noted(moved).map(drop)
    }

    async fn prune(&mut self, upto: Seq, events_max: u64) -> Result<Seq, StoreError> {
        self.begin_at(Level::Process).await?;
        let path = self.path.clone();
        let of = |error: sqlx::Error| classify(&path, &error);
        let reader = Arc::clone(&self.reader);
        let db = self.db()?;
        let before = floor(db).await.map_err(of)?;
        let Some(piece) = next_piece(db, before, upto, events_max).await.map_err(of)? else { return Ok(before) };
        // Before anything is gone: a reader that finds a hole finds the floor too.
        reader.raise_floor(piece.floor);
        self.is_in_transaction = true;
        let ended = self.topics.ends_before_pruning(piece.floor);
        let freed = match prune(self.db()?, before, &piece, ended.as_ref()).await.map_err(of) {
            Ok(freed) => freed,
            Err(error) => {
                self.roll_back().await;
                self.reopen_if_unknown(&error).await;
                return Err(error);
            }
        };
        freed.iter().for_each(|text| self.names.forget(text));
        if let Some(ended) = ended {
            self.topics.ended(ended);
        }
        self.is_in_transaction = false;
        Ok(piece.floor)
    }

    async fn expire(&mut self, expiry: &Expiry) -> Result<Expired, StoreError> {
        self.begin_at(Level::Process).await?;
        let path = self.path.clone();
        let of = |error: sqlx::Error| classify(&path, &error);
        // Who has no number has no facts, and then the piece begins with the next number.
        let from = match &expiry.from {
            Some((owner, key)) => id_of(self.db()?, owner.as_str()).await.map_err(of)?.map(|id| (id, key.clone())),
            None => None,
        };
        self.is_in_transaction = true;
        let expired = expire(self.db()?, expiry, from.unwrap_or_default()).await.map_err(of);
        if let Err(error) = &expired {
            self.roll_back().await;
            self.reopen_if_unknown(error).await;
        }
        self.is_in_transaction = false;
        expired
    }

    async fn look(&mut self, deep: bool) -> Result<Option<Sizes>, StoreError> {
        let unmoved_bytes = self.look_at_files().await?;
        if deep {
            self.warn_of_moved_link();
        }
        if deep && let Some(db) = &mut self.db {
            let path = self.path.clone();
            // What it is now is told with the next look; an error is the next commit's to tell.
            self.used_bytes = used_bytes(db, &path).await.unwrap_or(self.used_bytes);
        }
        let (readers, reads_cut) = self.reader.counts();
        let wal_bytes = size_of(&self.path, "-wal");
        let Self { used_bytes, log_held_by, .. } = *self;
        Ok(Some(Sizes { used_bytes, wal_bytes, unmoved_bytes, log_held_by, readers, reads_cut }))
    }

    async fn shorten_log(&mut self) -> Result<bool, StoreError> {
        self.begin_to_move().await?;
        let path = self.path.clone();
        let of = |error: sqlx::Error| classify(&path, &error);
        let db = self.db()?;
        let wait = AssertSqlSafe(format!("PRAGMA busy_timeout = {SHORTEN_PATIENCE_MS}"));
        db.execute(wait).await.map_err(of)?;
        let row = db.fetch_one("PRAGMA wal_checkpoint(TRUNCATE)").await;
        // In any case: the writer itself never waits inside SQLite.
        db.execute("PRAGMA busy_timeout = 0").await.map_err(of)?;
        let is_held = match row {
            Ok(row) => row.try_get::<i64, _>(0).map_err(of)? != 0,
            Err(error) => match of(error) {
                StoreError::Busy(_) => true,
                error => return self.noted(Err(error)),
            },
        };
        self.tell_who_holds_the_log(is_held);
        Ok(!is_held)
    }

    async fn renew(&mut self) -> Result<(), StoreError> {
        self.load().await?;
        self.begin_at(Level::Power).await?;
        self.begin_to_move().await?;
        let path = self.path.clone();
        let pages = used_bytes(self.db()?, &path).await? / PAGE_BYTES;
        self.reserve_index(pages)?;
        let renewed = write_anew(self.db()?, &path).await;
        self.noted(renewed)?;
        let report = check(&path).await?;
        if let Some(problem) = report.problems.first() {
            return Err(fatal(&path, format!("{problem}: go back to a backup")));
        }
        if let Some(lock) = &mut self.lock {
            lock.set_unflushed(false);
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<(), StoreError> {
        self.is_closed = true;
        let was_known = self.fault.is_some();
        let looked = self.look_at_files().await.map(drop);
        if self.has_written
            && looked.is_ok()
            && let Some(db) = &mut self.db
        {
            // Bounded by the limit. Nothing depends on it but speed.
            if let Err(error) = db.execute("PRAGMA analysis_limit = 400; PRAGMA optimize;").await {
                warn!(%error, "statistics were not renewed");
            }
        }
        // Readers first: the last connection to close moves the log into the file and removes it.
        self.reader.close().await;
        let closed = match self.db_to_close().await {
            Some(db) => close(db, &self.path).await,
            None => Ok(()),
        };
        if closed.is_ok()
            && self.fault.is_none()
            && self.refuse_lost_events(self.last).is_ok()
            && let Some(lock) = &mut self.lock
        {
            lock.clear_acknowledged();
        }
        self.lock = None;
        if was_known { closed } else { closed.and(looked) }
    }

    fn reader(&self) -> Arc<dyn Read> {
        Arc::clone(&self.reader) as Arc<dyn Read>
    }
}

impl SqliteStore {
    /// Reads the topic index, and adds missing stretches.
    async fn load_topics(&mut self) -> Result<(), StoreError> {
        if self.is_in_transaction {
            self.roll_back().await;
        }
        self.is_in_transaction = true;
        let path = self.path.clone();
        let db = self.db()?;
        let loaded = match Topics::load(db).await {
            Ok(topics) => topics.newest(db).await.map(|known| (topics, known)),
            Err(error) => Err(error),
        };
        let loaded = loaded.map_err(|error| classify(&path, &error));
        if loaded.is_err() {
            self.roll_back().await;
        }
        self.is_in_transaction = false;
        let (topics, known) = loaded?;
        self.reader.newest.begin(known);
        self.topics = topics;
        Ok(())
    }

    /// Notes for the next process when the disk has failed.
    fn noted<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let (Err(StoreError::Unknown(_)), Some(lock)) = (&result, &mut self.lock) {
            lock.set_unflushed(true);
        }
        result
    }

    /// Warns of processes that keep the log from being begun anew, each time that it has doubled since.
    fn tell_who_holds_the_log(&mut self, is_held: bool) {
        if !is_held {
            (self.told_wal_bytes, self.log_held_by) = (0, None);
            return;
        }
        let log = log(&self.path);
        let own = std::process::id();
        let others: Vec<u32> =
            log.readers.iter().map(|reader| reader.process).filter(|process| *process != own).collect();
        self.log_held_by = others.first().copied();
        if log.bytes < self.told_wal_bytes.saturating_mul(2) {
            return;
        }
        self.told_wal_bytes = log.bytes;
        warn!(wal_bytes = log.bytes, processes = ?others, "log cannot be begun anew: somebody reads from it");
    }

    /// After a failure that leaves the state of the connection in doubt, a new one tells the truth.
    async fn reopen_if_unknown(&mut self, error: &StoreError) {
        if let StoreError::Unknown(cause) = error
            && let Some(db) = self.db.take()
        {
            warn!(%cause, "connection is given up and opened again");
            if let Some(lock) = &mut self.lock {
                lock.set_unflushed(true);
            }
            self.watch = None;
            // It is broken anyway.
            let _ = close(db, &self.path).await;
        }
    }
}

/// Every page through the log into the file, all of it flushed.
async fn write_anew(db: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let of = |error: sqlx::Error| classify(path, &error);
    // In a file: the copy is as large as the database.
    db.execute("PRAGMA temp_store = FILE").await.map_err(of)?;
    let written = db.execute("VACUUM").await;
    db.execute("PRAGMA temp_store = MEMORY").await.map_err(of)?;
    written.map_err(of)?;
    db.execute(AssertSqlSafe(format!("PRAGMA busy_timeout = {RENEW_PATIENCE_MS}"))).await.map_err(of)?;
    let row = db.fetch_one("PRAGMA wal_checkpoint(TRUNCATE)").await;
    db.execute("PRAGMA busy_timeout = 0").await.map_err(of)?;
    if row.map_err(of)?.try_get::<i64, _>(0).map_err(of)? != 0 {
        return Err(StoreError::Busy("somebody reads from the log, which must be empty".into()));
    }
    Ok(())
}

async fn load(db: &mut SqliteConnection) -> Result<(Loaded, Interner, Link), sqlx::Error> {
    let names = Interner::load(db).await?;
    let (mut last, mut link, mut committed_at) = (0_i64, Link::START, None);
    if let Some(row) = db.fetch_optional(LAST_LINK).await? {
        last = row.try_get(0)?;
        committed_at = commit_time(&row, 2)?;
        if let Some(bytes) = row.try_get::<Option<&[u8]>, _>(1)? {
            let damaged = || sqlx::Error::Decode("the last check value has the wrong length".into());
            link = Link::from_slice(bytes).ok_or_else(damaged)?;
        }
    }
    let mut teams = Vec::new();
    for row in db.fetch_all(TEAMS).await? {
        teams.push(named_team(&row).map_err(RowError::into_sql)?);
    }
    teams.sort_by(|a, b| a.team.cmp(&b.team));
    let floor = floor(db).await?;
    let loaded = Loaded { last_seq: Seq(last as u64), teams, floor, committed_at, is_unflushed: false };
    Ok((loaded, names, link))
}
