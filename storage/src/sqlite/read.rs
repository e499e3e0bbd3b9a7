//! The read path: a small pool of read-only connections, and rows back into events.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use atra_bus::{Committed, Event, EventId, Interest, Name, Payload, Seq, Timestamp, Topic, topic::MEMORY_ROOT};
use futures::TryStreamExt as _;
use sqlx::{
    Encode, Row as _, Sqlite, Type,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};
use tokio::time::Instant;
use tracing::warn;

use super::{
    connection::{ReadMode, identify, reader_options},
    error::{INTERRUPT, classify, code, damaged, fatal},
    names::{NameTable, UnknownName},
    newest::Newest,
    paths::{refuse_unsafe_files, resolve_db},
    pool::{Readers, Reading},
    queries,
    room::refuse_without_room,
    schema::views_of,
    sums::{FactSum, Summer, verify},
    wanted::{Wanted, WantedCache},
};
use crate::{
    Block, CommitTime, FactKind, FactPage, FactRow, PAGE_BYTES, Read, SeriesRow, StoreError, TeamRow, TopicCounts,
};

/// More events than a batch can have: 8 MiB, and one command of 16 MiB, of rows that count 128 bytes at least.
const BATCH_EVENTS_MAX: u64 = 1 << 18;
/// The key of the last seq without a commit time in the `meta` table.
const TIMED_FROM_KEY: &str = "timed_from";

/// The most look-ups of names for a page: an event has two names, and each attempt reports one missing name per row.
const LOOKUPS_MAX: usize = 4;

/// Memory keys that are read at once where all are wanted.
const KEYS_AT_ONCE: i64 = 8_192;

/// A query of the registry with its values.
pub(super) struct Prepared {
    sql: &'static str,
    query: Query<'static, Sqlite, SqliteArguments>,
}

pub(super) fn query(sql: &'static str) -> Prepared {
    Prepared { sql, query: sqlx::query(sql) }
}

impl Prepared {
    pub(super) fn bind<T: Encode<'static, Sqlite> + Type<Sqlite> + 'static>(self, value: T) -> Self {
        Self { query: self.query.bind(value), ..self }
    }
}

/// Reads of a SQLite file.
#[derive(Debug)]
pub struct SqliteReader {
    path: PathBuf,
    readers: Readers,
    /// How a read that takes longer is told of.
    slow_after: Duration,
    /// Interned texts that were in use lately; a row whose numbers are not in it makes it learn more.
    names: RwLock<NameTable>,
    /// Up to where each topic has events, if the writer is in this process.
    pub(super) newest: Newest,
    /// The ids that interests match.
    pub(super) wanted: WantedCache,
    /// A seq that is known to be committed; only grows. Relaxed: a stale value costs one query.
    last_known: AtomicU64,
    /// The journal's floor as the writer of this process knows it: raised before anything is deleted.
    floor: AtomicU64,
    /// Whether that writer is there; otherwise the floor is read from the file.
    is_beside_writer: bool,
}

/// How long a read may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadTimes {
    /// It is cut then.
    pub(super) deadline: Duration,
    /// It is logged then.
    pub(super) slow_after: Duration,
}

impl ReadTimes {
    /// Of a command: neither cut nor logged, since a person watches it.
    const COMMAND: Self = Self { deadline: Duration::MAX, slow_after: Duration::MAX };
}

/// What a row holds that is neither what we wrote nor what SQLite promises.
pub(super) enum RowError {
    Sql(sqlx::Error),
    /// A topic or name that is not known yet.
    UnknownName(i64),
    Damaged(String),
}

impl From<sqlx::Error> for RowError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<UnknownName> for RowError {
    fn from(UnknownName(id): UnknownName) -> Self {
        Self::UnknownName(id)
    }
}

impl RowError {
    /// The same as an error of the driver, for code that reads without a reader.
    pub(super) fn into_sql(self) -> sqlx::Error {
        match self {
            Self::Sql(error) => error,
            Self::UnknownName(_) => {
                sqlx::Error::Decode("a row refers to an entry that the names table does not have".into())
            }
            Self::Damaged(what) => sqlx::Error::Decode(what.into()),
        }
    }
}

impl SqliteReader {
    /// A reader with so many connections. One of a runtime has a deadline; who types a command waits.
    pub(super) fn new(path: &Path, readers: u32, mode: ReadMode, times: ReadTimes) -> Self {
        let deadline = Some(times.deadline).filter(|_| mode == ReadMode::Runtime);
        Self {
            path: path.to_owned(),
            readers: Readers::new(reader_options(path, mode), readers, deadline),
            slow_after: times.slow_after,
            names: RwLock::default(),
            newest: Newest::default(),
            wanted: WantedCache::default(),
            last_known: AtomicU64::new(0),
            floor: AtomicU64::new(0),
            is_beside_writer: mode == ReadMode::Runtime,
        }
    }

    /// A reader for a command line: of a file that a runtime is writing, or of a stopped one. Writes nothing
    /// and creates no database.
    ///
    /// # Cancel safety
    /// Reads only.
    ///
    /// # Errors
    /// [`StoreError::Fatal`] when the file is missing, cannot be read or is not an atra database;
    /// [`StoreError::Newer`].
    pub async fn open_read_only(path: impl AsRef<Path>) -> Result<Arc<dyn Read>, StoreError> {
        Ok(Arc::new(Self::open_concrete(path.as_ref()).await?))
    }

    pub(super) async fn open_concrete(path: &Path) -> Result<Self, StoreError> {
        let path = &resolve_db(path)?;
        if !path.exists() {
            return Err(fatal(path, "there is no such file"));
        }
        refuse_unsafe_files(path)?;
        refuse_without_room(path)?;
        let reader = Self::new(path, 2, ReadMode::CommandLine, ReadTimes::COMMAND);
        match reader.identify().await {
            Ok(()) => Ok(reader),
            // A log file cannot be made in this folder, and there is none: nobody can be writing.
            Err(StoreError::Fatal { .. }) if !has_log(path) => {
                reader.close().await;
                let reader = Self::new(path, 2, ReadMode::Immutable, ReadTimes::COMMAND);
                reader.identify().await.map(|()| reader)
            }
            Err(error) => Err(error),
        }
    }

    async fn identify(&self) -> Result<(), StoreError> {
        let mut db = self.acquire().await.map_err(|error| self.class(&error))?;
        match identify(&mut db, &self.path).await? {
            0 => Err(fatal(&self.path, "it is empty: no runtime has written to it")),
            version => {
                drop(db);
                self.readers.use_views(views_of(version)).await.map_err(|error| self.class(&error))
            }
        }
    }

    /// The journal begins anew: no seq is known to be committed any more.
    pub(super) fn forget_last(&self) {
        self.last_known.store(0, Ordering::Relaxed);
        self.floor.store(0, Ordering::SeqCst);
    }

    /// A connection of its own for several statements; one of a runtime has a deadline for all of them.
    pub(super) async fn acquire(&self) -> Result<Reading<'_>, sqlx::Error> {
        self.readers.acquire().await
    }

    /// How many connections were opened, and how many reads were cut.
    pub(super) fn counts(&self) -> (u64, u64) {
        self.readers.counts()
    }

    /// Everything up to `floor` is deleted, or about to be.
    pub(super) fn raise_floor(&self, floor: Seq) {
        // SeqCst with the look in `check_floor`: who reads rows after the deletion sees the floor too.
        self.floor.fetch_max(floor.get(), Ordering::SeqCst);
    }

    pub(super) fn class(&self, error: &sqlx::Error) -> StoreError {
        // A read changes nothing, so its outcome is never unknown.
        if code(error) == Some(INTERRUPT)
            && let Some(after) = self.readers.deadline()
        {
            self.readers.count_cut();
            return StoreError::ReadDeadline { after };
        }
        match classify(&self.path, error) {
            StoreError::Unknown(cause) => fatal(&self.path, format!("it could not be read: {cause}")),
            other => other,
        }
    }

    /// Closes the connections; reads fail afterwards.
    pub(super) async fn close(&self) {
        self.readers.close().await;
    }

    pub(super) fn with_names<T>(&self, read: impl FnOnce(&NameTable) -> T) -> T {
        // The table is whole after each change, so a panic elsewhere does not matter.
        read(&self.names.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads names that rows have.
    pub(super) async fn learn(&self, ids: impl IntoIterator<Item = i64>) -> Result<(), StoreError> {
        let ids: BTreeSet<i64> = ids.into_iter().collect();
        let list: Vec<String> = ids.iter().map(i64::to_string).collect();
        let query = sqlx::query(queries::NAMES_OF_IDS).bind(format!("[{}]", list.join(",")));
        let mut db = self.acquire().await.map_err(|error| self.class(&error))?;
        let rows = query.fetch_all(&mut *db).await.map_err(|error| self.class(&error))?;
        db.finish();
        let pairs: Result<Vec<(i64, String)>, sqlx::Error> =
            rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect();
        let pairs = pairs.map_err(|error| self.class(&error))?;
        self.names.write().unwrap_or_else(PoisonError::into_inner).learn(pairs);
        Ok(())
    }

    /// Runs a query and turns its rows into values, in order.
    pub(super) async fn rows<T>(
        &self,
        query: Prepared,
        decode: impl Fn(&SqliteRow, &NameTable) -> Result<T, RowError>,
    ) -> Result<Vec<T>, StoreError> {
        Ok(self.page(query, None, decode).await?.0)
    }

    /// The same for as many rows as fit a page by the length of the text in column `measured`; and whether there were
    /// more. Rows with names that are not known yet wait until the others are read, since learning needs a connection
    /// of its own.
    async fn page<T>(
        &self,
        query: Prepared,
        measured: Option<usize>,
        decode: impl Fn(&SqliteRow, &NameTable) -> Result<T, RowError>,
    ) -> Result<(Vec<T>, bool), StoreError> {
        let (mut values, mut waiting) = (Vec::new(), Vec::new());
        let began = Instant::now();
        let mut db = self.acquire().await.map_err(|error| self.class(&error))?;
        let (sql, waited) = (query.sql, began.elapsed());
        let mut rows = query.query.fetch(&mut *db);
        let (mut n_bytes, mut is_cut) = (0, false);
        while let Some(row) = rows.try_next().await.map_err(|error| self.class(&error))? {
            if n_bytes >= PAGE_BYTES {
                is_cut = true;
                break;
            }
            if let Some(column) = measured {
                n_bytes += row.try_get_unchecked::<&str, _>(column).map_err(|error| self.class(&error))?.len();
            }
            if !waiting.is_empty() {
                waiting.push(row);
                continue;
            }
            match self.with_names(|names| decode(&row, names)) {
                Ok(value) => values.push(value),
                Err(RowError::UnknownName(_)) => waiting.push(row),
                Err(error) => return Err(self.row_error(error)),
            }
        }
        drop(rows);
        // After a cut the statement may still be running: the next user of the connection waits until it is not.
        if is_cut {
            drop(db);
        } else {
            db.finish();
        }
        self.tell_if_slow(sql, began, waited, values.len() + waiting.len());
        values.extend(self.decode_all(&waiting, decode).await?);
        Ok((values, is_cut))
    }

    /// Decodes rows after a look-up of their names.
    async fn decode_all<T>(
        &self,
        rows: &[SqliteRow],
        decode: impl Fn(&SqliteRow, &NameTable) -> Result<T, RowError>,
    ) -> Result<Vec<T>, StoreError> {
        self.learn_for(&rows.iter().collect::<Vec<_>>(), |row, names| decode(row, names).map(drop)).await?;
        let decoded: Result<Vec<T>, RowError> =
            self.with_names(|names| rows.iter().map(|row| decode(row, names)).collect());
        decoded.map_err(|error| self.row_error(error))
    }

    /// Looks up the unknown names of rows.
    pub(super) async fn learn_for(
        &self,
        rows: &[&SqliteRow],
        decode: impl Fn(&SqliteRow, &NameTable) -> Result<(), RowError>,
    ) -> Result<(), StoreError> {
        for _ in 0..LOOKUPS_MAX {
            let unknown: Vec<i64> = self.with_names(|names| {
                let id = |row: &&SqliteRow| match decode(row, names) {
                    Err(RowError::UnknownName(id)) => Some(id),
                    _ => None,
                };
                rows.iter().filter_map(id).collect()
            });
            if unknown.is_empty() {
                return Ok(());
            }
            self.learn(unknown).await?;
        }
        Ok(())
    }

    fn tell_if_slow(&self, sql: &str, began: Instant, waited: Duration, n_rows: usize) {
        let took = began.elapsed();
        if took > self.slow_after {
            let (took_ms, waited_ms) = (took.as_millis() as u64, waited.as_millis() as u64);
            warn!(took_ms, waited_for_connection_ms = waited_ms, rows = n_rows, sql, "read was slow");
        }
    }

    /// Refuses what was read after `after` when the journal was pruned beyond it. Called after the rows were read: what
    /// was deleted before they were has raised the floor before that.
    async fn check_floor(&self, after: Seq) -> Result<(), StoreError> {
        let floor = self.floor().await?;
        if after < floor { Err(StoreError::Pruned { after, floor }) } else { Ok(()) }
    }

    pub(super) fn row_error(&self, error: RowError) -> StoreError {
        match error {
            RowError::Sql(error) => self.class(&error),
            RowError::UnknownName(_) => {
                damaged(&self.path, "a row refers to an entry that the names table does not have")
            }
            RowError::Damaged(what) => damaged(&self.path, what),
        }
    }

    async fn fact_page(&self, query: Prepared, kind: FactKind, limit: usize) -> Result<FactPage, StoreError> {
        let (facts, is_cut) = self.page(query, Some(VALUE), |row, names| fact(row, names, kind)).await?;
        let last = facts.last().filter(|_| is_cut || facts.len() >= limit);
        // The smallest key that is greater.
        let next = last.map(|last| format!("{}\0", last.key));
        Ok(FactPage { facts, next })
    }

    /// The number that a query gives, if it gives one.
    pub(super) async fn number(&self, query: Prepared) -> Result<Option<i64>, StoreError> {
        Ok(self.rows(query, |row, _| Ok(row.try_get::<Option<i64>, _>(0)?)).await?.pop().flatten())
    }

    /// The end of the first batch in (`before`, `upto`] that has a commit time, and that time.
    async fn timed(&self, before: Seq, upto: Seq) -> Result<Option<(Seq, CommitTime)>, StoreError> {
        let query = query(queries::COMMIT_TIME).bind(seq_of(before)).bind(seq_of(upto));
        let decode = |row: &SqliteRow, _: &NameTable| {
            Ok(commit_time(row, 1)?.map(|at| (Seq(row.try_get::<i64, _>(0).unwrap_or(0) as u64), at)))
        };
        Ok(self.rows(query, decode).await?.pop().flatten())
    }

    /// Refuses a commit time that is earlier than that of the previous batch: it is damaged, and new events would count
    /// as old.
    async fn refuse_younger_before(&self, end: Seq, at: Option<CommitTime>) -> Result<(), StoreError> {
        let Some(at) = at else { return Ok(()) };
        let query = query(queries::COMMIT_TIME_BEFORE).bind(seq_of(end));
        let earlier = self.rows(query, |row, _| commit_time(row, 1).map_err(RowError::from)).await?.pop().flatten();
        match earlier {
            Some(earlier) if earlier.clock > at.clock => {
                let (found, least) = (at.clock, earlier.clock);
                Err(damaged(
                    &self.path,
                    format!("batch that ends at seq {end} has clock {found}, the one before {least}"),
                ))
            }
            _ => Ok(()),
        }
    }

    /// The end of the first batch in (`before`, `upto`].
    async fn batch_end(&self, before: Seq, upto: Seq) -> Result<Option<Seq>, StoreError> {
        let query = query(queries::FIRST_BATCH_END).bind(seq_of(before)).bind(seq_of(upto));
        Ok(self.number(query).await?.map(|seq| Seq(seq as u64)))
    }

    /// Events of a query that asked for `wanted` and got what came after the known names, too.
    async fn events(
        &self,
        query: Prepared,
        filter: Option<(&Interest, &Wanted)>,
    ) -> Result<(Vec<Committed>, Rows), StoreError> {
        let decode = |row: &SqliteRow, names: &NameTable| -> Result<(Committed, bool), RowError> {
            let EventRow { committed, topic, source } = event(row, names)?;
            let is_wanted = match filter {
                Some((interest, wanted)) => {
                    let is_new = topic > wanted.greatest || topic < wanted.least || source > wanted.greatest_source;
                    !is_new || interest.wants(committed.event.topic.as_str(), &committed.event.source)
                }
                None => true,
            };
            Ok((committed, is_wanted))
        };
        let (rows, is_cut) = self.page(query, Some(PAYLOAD), decode).await?;
        let read = Rows { n_rows: rows.len(), last: rows.last().map(|(committed, _)| committed.seq), is_cut };
        let events = rows.into_iter().filter(|(_, is_wanted)| *is_wanted).map(|(committed, _)| committed).collect();
        Ok((events, read))
    }
}

/// What a query gave before its filter.
struct Rows {
    n_rows: usize,
    last: Option<Seq>,
    /// There were more than fit a page.
    is_cut: bool,
}

/// Whether there is a log with something in it beside the file.
fn has_log(path: &Path) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    std::fs::metadata(log).is_ok_and(|log| log.len() > 0)
}

fn limit_of(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn seq_of(seq: Seq) -> i64 {
    i64::try_from(seq.get()).unwrap_or(i64::MAX)
}

#[async_trait]
impl Read for SqliteReader {
    async fn last_seq(&self) -> Result<Seq, StoreError> {
        let last = self.number(query(queries::LAST_SEQ)).await?.unwrap_or(0);
        self.last_known.fetch_max(last as u64, Ordering::Relaxed);
        Ok(Seq(last as u64))
    }

    async fn journal(
        &self,
        after: Seq,
        upto: Seq,
        interest: &Interest,
        limit: usize,
    ) -> Result<(Vec<Committed>, Seq), StoreError> {
        // The end is read before the rows, so it is never beyond what the rows show.
        let end =
            if upto.get() <= self.last_known.load(Ordering::Relaxed) { upto } else { upto.min(self.last_seq().await?) };
        if end <= after || limit == 0 {
            self.check_floor(after).await?;
            return Ok((Vec::new(), after));
        }
        if let Some(upto) = self.newest.nothing_until(interest, after) {
            self.check_floor(after).await?;
            return Ok((Vec::new(), end.min(upto)));
        }
        let (wanted, stretch) = self.wanted_after(interest, after, end).await?;
        let (from, end) = stretch;
        let sql = if wanted.is_all { queries::JOURNAL } else { queries::JOURNAL_WANTED };
        let mut query = query(sql).bind(seq_of(from)).bind(seq_of(end)).bind(limit_of(limit));
        if !wanted.is_all {
            query =
                query.bind(wanted.topics.clone()).bind(wanted.greatest).bind(wanted.least).bind(wanted.except.clone());
        }
        let filter = Some((interest, &*wanted)).filter(|_| !wanted.is_all);
        let (events, rows) = self.events(query, filter).await?;
        self.check_floor(after).await?;
        self.forget_if_stale(interest, &wanted, rows.n_rows - events.len());
        // A full page ends at its last row; any other is complete.
        let complete = if rows.n_rows >= limit || rows.is_cut { rows.last.unwrap_or(end) } else { end };
        Ok((events, complete))
    }

    async fn journal_before(
        &self,
        before: Seq,
        interest: &Interest,
        limit: usize,
    ) -> Result<(Vec<Committed>, Seq), StoreError> {
        let last = self.last_seq().await?.min(Seq(before.get().saturating_sub(1)));
        if last == Seq::ZERO || limit == 0 {
            return Ok((Vec::new(), last));
        }
        let (wanted, (from, upto)) = self.wanted_before(interest, last).await?;
        let sql = match wanted.only_key {
            _ if wanted.is_all => queries::TAIL,
            Some(_) => queries::TAIL_OF_KEY,
            None => queries::TAIL_WANTED,
        };
        let mut query = query(sql).bind(limit_of(limit)).bind(seq_of(upto.next()));
        if let Some(topic) = wanted.only_key {
            query = query.bind(topic);
        } else if !wanted.is_all {
            query = query.bind(wanted.topics.clone()).bind(wanted.greatest).bind(wanted.least);
            query = query.bind(wanted.except.clone()).bind(seq_of(from));
        }
        let filter = Some((interest, &*wanted)).filter(|_| !wanted.is_all && wanted.only_key.is_none());
        let (mut events, rows) = self.events(query, filter).await?;
        let first = rows.last.filter(|_| rows.n_rows >= limit || rows.is_cut);
        events.reverse();
        Ok((events, first.map_or(from, |first| Seq(first.get() - 1))))
    }

    async fn floor(&self) -> Result<Seq, StoreError> {
        if self.is_beside_writer {
            return Ok(Seq(self.floor.load(Ordering::SeqCst)));
        }
        let floor = self.number(query(queries::FLOOR)).await?;
        Ok(Seq(floor.unwrap_or(0) as u64))
    }

    async fn generation(&self) -> Result<u64, StoreError> {
        Ok(self.number(query(queries::GENERATION)).await?.unwrap_or(0) as u64)
    }

    async fn last_committed_before(&self, clock: Timestamp) -> Result<Seq, StoreError> {
        // The commit clock never goes back, so the batch is found by binary search, and the cost does not grow with the
        // events that a team pins. Invariant: the batch ends in (before, upto], or at `before`.
        let (mut before, mut upto) = (self.floor().await?, self.last_seq().await?);
        // The events of older versions have no times, all of them: one look instead of one at each.
        let untimed = self.number(query(queries::META_NUMBER).bind(TIMED_FROM_KEY)).await?.unwrap_or(0);
        let (untimed, mut found) = (Seq(untimed as u64), None);
        if before < untimed {
            match self.timed(untimed, upto).await? {
                Some((end, at)) if at.clock < clock => (before, found) = (end, Some(at)),
                _ => return Ok(before),
            }
        }
        while before < upto {
            let middle = Seq(before.get() + (upto.get() - before.get()) / 2);
            match self.timed(middle, upto).await? {
                Some((end, at)) if at.clock < clock => (before, found) = (end, Some(at)),
                _ => upto = middle,
            }
        }
        self.refuse_younger_before(before, found).await?;
        Ok(before)
    }

    async fn commit_time(&self, seq: Seq) -> Result<Option<CommitTime>, StoreError> {
        let Some(before) = seq.get().checked_sub(1) else { return Ok(None) };
        let end = Seq(seq.get().saturating_add(BATCH_EVENTS_MAX));
        let (chained, timed) = futures::join!(self.batch_end(Seq(before), end), self.timed(Seq(before), end));
        let (chained, timed, floor) = (chained?, timed?, self.floor().await?);
        // A batch without a time must not get that of a later one; the end of a pruned batch is known only if its last
        // event is kept.
        let is_known = |end: Seq| chained == Some(end) && (seq > floor || end == seq);
        Ok(timed.filter(|(end, _)| is_known(*end)).map(|(_, at)| at))
    }

    async fn event(&self, seq: Seq) -> Result<Option<Committed>, StoreError> {
        let before = Seq(seq.get().saturating_sub(1));
        let query = query(queries::JOURNAL).bind(seq_of(before)).bind(seq_of(seq)).bind(1_i64);
        Ok(self.events(query, None).await?.0.pop())
    }

    async fn effects_of(&self, seq: Seq, limit: usize) -> Result<Vec<Committed>, StoreError> {
        let query = query(queries::EFFECTS_OF).bind(seq_of(seq)).bind(limit_of(limit));
        Ok(self.events(query, None).await?.0)
    }

    async fn topic_counts(&self) -> Result<TopicCounts, StoreError> {
        self.topic_counts().await
    }

    async fn memory_as_of(&self, key: &str, at: Seq) -> Result<Option<Committed>, StoreError> {
        let Ok(topic) = Topic::memory(key) else { return Ok(None) };
        let query = query(queries::MEMORY_AS_OF).bind(topic.as_str().to_owned()).bind(seq_of(at));
        let found = self.events(query, None).await?.0.pop();
        // The newest write at the floor is kept, those before it are not.
        self.check_floor(at).await?;
        Ok(found)
    }

    async fn fact(&self, kind: FactKind, owner: &Name, key: &str) -> Result<Option<FactRow>, StoreError> {
        let query = if kind == FactKind::Memory {
            query(queries::MEMORY_FACT).bind(key.to_owned())
        } else {
            query(queries::FACT).bind(kind as i64).bind(owner.as_str().to_owned()).bind(key.to_owned())
        };
        Ok(self.rows(query, |row, names| fact(row, names, kind)).await?.pop())
    }

    async fn facts_page(&self, kind: FactKind, owner: &Name, from: &str, limit: usize) -> Result<FactPage, StoreError> {
        let query = query(queries::FACTS_PAGE).bind(kind as i64).bind(owner.as_str().to_owned());
        self.fact_page(query.bind(from.to_owned()).bind(limit_of(limit)), kind, limit).await
    }

    async fn memory_page(&self, from: &str, limit: usize) -> Result<FactPage, StoreError> {
        let query = query(queries::MEMORY_PAGE).bind(from.to_owned()).bind(limit_of(limit));
        self.fact_page(query, FactKind::Memory, limit).await
    }

    async fn fact_owners(&self, kind: FactKind) -> Result<Vec<Name>, StoreError> {
        let query = query(queries::FACT_OWNERS).bind(kind as i64);
        let decode = |row: &SqliteRow, names: &NameTable| Ok(names.name(row.try_get(0)?)?);
        let mut owners = self.rows(query, decode).await?;
        owners.sort();
        Ok(owners)
    }

    async fn count_facts(&self, kind: FactKind, owner: Option<&Name>) -> Result<u64, StoreError> {
        let query = match owner {
            Some(owner) if kind != FactKind::Memory => {
                query(queries::COUNT_FACTS_OF).bind(kind as i64).bind(owner.as_str().to_owned())
            }
            _ => query(queries::COUNT_FACTS).bind(kind as i64),
        };
        Ok(self.number(query).await?.unwrap_or(0) as u64)
    }

    async fn memory_keys(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let (mut keys, mut after): (Vec<String>, _) = (Vec::new(), String::new());
        loop {
            let query = query(queries::MEMORY_KEYS).bind(prefix.to_owned()).bind(after).bind(KEYS_AT_ONCE);
            let page: Vec<String> = self.rows(query, |row, _| Ok(row.try_get(0)?)).await?;
            let Some(last) = page.last().filter(|_| page.len() as i64 == KEYS_AT_ONCE) else {
                keys.extend(page);
                return Ok(keys);
            };
            after = format!("{MEMORY_ROOT}{last}");
            keys.extend(page);
        }
    }

    async fn teams(&self) -> Result<Vec<TeamRow>, StoreError> {
        let decode = |row: &SqliteRow, _: &NameTable| named_team(row);
        let mut teams = self.rows(query(queries::TEAMS), decode).await?;
        teams.sort_by(|a, b| a.team.cmp(&b.team));
        Ok(teams)
    }

    async fn blocks(&self, series: &Name, from: i64, to: i64, limit: usize) -> Result<Vec<Block>, StoreError> {
        let query = query(queries::BLOCKS).bind(series.as_str().to_owned());
        let query = query.bind(from).bind(to).bind(limit_of(limit));
        let decode = |row: &SqliteRow, _: &NameTable| block(row, series);
        self.rows(query, decode).await
    }

    async fn series(&self) -> Result<Vec<SeriesRow>, StoreError> {
        let decode = |row: &SqliteRow, names: &NameTable| {
            Ok(SeriesRow {
                series: names.name(row.try_get(0)?)?,
                rows: row.try_get::<i64, _>(1)? as u64,
                first_start: row.try_get(2)?,
                last_start: row.try_get(3)?,
            })
        };
        let mut series = self.rows(query(queries::SERIES), decode).await?;
        series.sort_by(|a, b| a.series.cmp(&b.series));
        Ok(series)
    }
}

// === rows ===

/// An event and the numbers of its topic and source.
pub(super) struct EventRow {
    pub(super) committed: Committed,
    topic: i64,
    source: i64,
}

/// The column of an event's payload.
const PAYLOAD: usize = 2;
/// How long an event's payload is.
pub(super) fn payload_bytes(row: &SqliteRow) -> usize {
    row.try_get_unchecked::<&str, _>(PAYLOAD).map_or(0, str::len)
}

/// The column of a fact's value.
const VALUE: usize = 5;

/// Columns: numbers (seq, topic, version, source, time, hops, cause_seq, seen), ids (id, root, cause), payload.
pub(super) fn event(row: &SqliteRow, names: &NameTable) -> Result<EventRow, RowError> {
    // Unchecked: the query makes these types; this is the hot path.
    let numbers = row.try_get_unchecked::<&str, _>(0)?;
    let mut numbers = numbers.split(' ').map(str::parse::<i64>);
    let mut next = || numbers.next().and_then(Result::ok).ok_or(RowError::Damaged("a number that is none".into()));
    let (seq, topic, version, source) = (next()?, next()?, next()?, next()?);
    let (time, hops, cause_seq, seen) = (next()?, next()?, next()?, next()?);
    let ids = row.try_get_unchecked::<&[u8], _>(1)?;
    let id = |place: usize| ids.get(place * 16..place * 16 + 16).and_then(EventId::from_slice);
    let needed = |place: usize| id(place).ok_or(RowError::Damaged("an id of the wrong length".into()));
    if !matches!(ids.len(), 32 | 48) {
        return Err(RowError::Damaged("ids of the wrong length".into()));
    }
    let event = Event {
        id: needed(0)?,
        topic: names.topic(topic)?,
        version: version as u16,
        durable: true,
        source: names.name(source)?,
        time: Timestamp(time),
        cause: id(2),
        root: needed(1)?,
        hops: hops as u16,
        payload: Payload::from_journal(row.try_get_unchecked::<&str, _>(PAYLOAD)?.into()),
    };
    let committed = Committed {
        seq: Seq(seq as u64),
        event: Arc::new(event),
        cause_seq: (cause_seq > 0).then_some(Seq(cause_seq as u64)),
        seen: (seen >= 0).then_some(Seq(seen as u64)),
    };
    Ok(EventRow { committed, topic, source })
}

/// Columns: owner, writer, key, version, event, value, written, check value.
pub(super) fn fact(row: &SqliteRow, names: &NameTable, kind: FactKind) -> Result<FactRow, RowError> {
    let (owner_id, writer_id) = (row.try_get::<i64, _>(0)?, row.try_get::<i64, _>(1)?);
    let owner = names.name(writer_id)?;
    let (key, version) = (row.try_get::<&str, _>(2)?, row.try_get::<i64, _>(3)?);
    let (id, value) = (row.try_get::<Option<&[u8]>, _>(4)?, row.try_get::<&str, _>(VALUE)?);
    let sum = Summer::default().fact(&FactSum {
        kind: kind as i64,
        writer: owner.as_str(),
        key: key.as_bytes(),
        version,
        event: id,
        written: row.try_get(6)?,
        value: value.as_bytes(),
    });
    let what = || format!("fact {key:?} of {owner} ({kind:?})");
    verify(row, 7, sum, what)?;
    if owner_id != if kind == FactKind::Memory { 0 } else { writer_id } {
        return Err(RowError::Damaged(format!("{} has another owner", what())));
    }
    let event = id.map(|bytes| EventId::from_slice(bytes).ok_or_else(|| RowError::Damaged(what())));
    Ok(FactRow {
        kind,
        key: key.to_owned(),
        value: Some(value.into()),
        version: Seq(version as u64),
        event: event.transpose()?,
        owner,
    })
}

/// Columns: start, rows, data, check value.
pub(super) fn block(row: &SqliteRow, series: &Name) -> Result<Block, RowError> {
    let (start, rows, data) = (row.try_get(0)?, row.try_get::<i64, _>(1)?, row.try_get::<&[u8], _>(2)?);
    let sum = Summer::default().block(series.as_str(), start, rows, data);
    verify(row, 3, sum, || format!("block {start} of series {series}"))?;
    Ok(Block { series: series.clone(), start, rows: rows as u32, data: data.into() })
}

/// Columns: the team's name, epoch, number, cursor, check value.
pub(super) fn named_team(row: &SqliteRow) -> Result<TeamRow, RowError> {
    let team = row.try_get::<Option<&str>, _>(0)?.and_then(|text| Name::new(text).ok());
    team_row(row, team.ok_or_else(|| RowError::Damaged("a team has no entry in the names table".into()))?)
}

/// Columns: team (which is known), epoch, number, cursor, check value.
fn team_row(row: &SqliteRow, team: Name) -> Result<TeamRow, RowError> {
    let (epoch, number, cursor) = (row.try_get::<i64, _>(1)?, row.try_get::<i64, _>(2)?, row.try_get::<i64, _>(3)?);
    verify(row, 4, Summer::default().team(team.as_str(), epoch, number, cursor), || format!("row of team {team}"))?;
    Ok(TeamRow { team, epoch: epoch as u64, number: number as u64, cursor: Seq(cursor as u64) })
}

/// Columns from `first` on: the wall clock, the commit clock.
pub(super) fn commit_time(row: &SqliteRow, first: usize) -> Result<Option<CommitTime>, sqlx::Error> {
    let (wall, clock) = (row.try_get::<Option<i64>, _>(first)?, row.try_get::<Option<i64>, _>(first + 1)?);
    Ok(wall.zip(clock).map(|(wall, clock)| CommitTime { wall: Timestamp(wall), clock: Timestamp(clock) }))
}
