//! The seam under the storage actor: a backend that commits batches and can be read.

use std::sync::Arc;

use async_trait::async_trait;
use atra_bus::{Committed, Interest, InvalidSettings, Name, Seq, Timestamp};
use rustc_hash::FxHashMap;
use serde::Serialize;

use crate::{Block, CommitTime, Expired, Expiry, FactKind, FactRow, Level};

/// Why the store refused or failed. The class decides what the storage actor does next.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Somebody else holds the database for the moment; trying again may help.
    #[error("database is busy: {0}")]
    Busy(String),
    /// The row that a step builds on is not there: another writer, or a bug.
    #[error("team {team} is not at step {number} of epoch {epoch} in the store")]
    Conflict {
        /// The team.
        team: Name,
        /// The epoch that was expected.
        epoch: u64,
        /// The step that was expected.
        number: u64,
    },
    /// The content broke a rule of the store; a bug, since limits are checked before.
    #[error("store refused the content: {0}")]
    Invalid(String),
    /// No space; nothing was written, and it can go on when there is space.
    #[error("no space left for the database: {0}")]
    Full(String),
    /// It is not known whether the batch was committed; reopen and look at the last seq.
    #[error("outcome of the commit is unknown: {0}")]
    Unknown(String),
    /// The storage actor panicked. Writing has stopped; what was acknowledged is committed.
    #[error("the storage actor panicked: {0}; start again, what was acknowledged is committed")]
    Panicked(String),
    /// A setting has a value that is not allowed; nothing was opened.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// The file is locked by another runtime.
    #[error("database {path} is in use by another atra runtime{holder}; stop it first, or use another --db")]
    InUse {
        /// The file.
        path: String,
        /// Who holds it, if known (` (process 123)`), else empty.
        holder: String,
    },
    /// A read of this process took longer than it may, and was cut: it keeps the write-ahead log from being begun anew.
    #[error("read was cut after {after:?}; read in smaller pages, or raise storage.read_deadline_ms")]
    ReadDeadline {
        /// How long it may take.
        after: std::time::Duration,
    },
    /// What was asked for has been deleted: the journal is complete above `floor` only.
    #[error("events up to {floor} were pruned, so the events after {after} are incomplete; read after {floor}")]
    Pruned {
        /// Where the read began.
        after: Seq,
        /// The last seq that was pruned.
        floor: Seq,
    },
    /// No team of that name has written to the store.
    #[error("there is no team {0} in the store")]
    UnknownTeam(Name),
    /// The file was written by a newer atra.
    #[error("database {path} has schema version {found}, this build knows {known}; use a newer atra")]
    Newer {
        /// The file.
        path: String,
        /// Its version.
        found: u32,
        /// The newest version this build knows.
        known: u32,
    },
    /// The disk kept failing. Writing must stop.
    #[error("disk failed {attempts} times in a row: {cause}; look after the disk, then start again")]
    Failing {
        /// How often it was tried.
        attempts: u32,
        /// What the last error was.
        cause: String,
    },
    /// After a failed flush, level `power` needs a database that has been written anew, and that was not possible.
    #[error("a flush failed and the database could not be written anew, so level power is not promised: {0}")]
    Unflushed(String),
    /// The file is damaged. A read that finds the damage fails; other reads continue.
    #[error(
        "database {path} is damaged: {what}; `atra db check` lists all damage, `atra db restore BACKUP` puts a backup in \
         its place"
    )]
    Damaged {
        /// The file.
        path: String,
        /// The damaged part, and how it was detected.
        what: String,
    },
    /// The file cannot be opened, read or written. Writing must stop.
    #[error("database {path}: {cause}")]
    Fatal {
        /// The file.
        path: String,
        /// What happened, and what to do.
        cause: String,
    },
}

impl StoreError {
    /// Whether the same call may succeed later without anybody doing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::Full(_) | Self::Unflushed(_))
    }
}

/// A team's row: who may write for it, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TeamRow {
    /// The team.
    pub team: Name,
    /// Its newest incarnation.
    pub epoch: u64,
    /// Its last committed step.
    pub number: u64,
    /// How far it has taken what it subscribes to.
    pub cursor: Seq,
}

impl TeamRow {
    /// Writes it over the team's older one.
    pub(crate) fn put(&self, rows: &mut FxHashMap<Name, Self>) {
        match rows.get_mut(&self.team) {
            // Its name stays as it is: there are two uses of it less to be counted for each step.
            Some(row) => (row.epoch, row.number, row.cursor) = (self.epoch, self.number, self.cursor),
            None => _ = rows.insert(self.team.clone(), self.clone()),
        }
    }
}

/// A move of a team's row inside a batch. Merged: several steps of a team in one batch are one move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeamMove {
    /// The row before: must be what is stored, or the whole batch is a [`StoreError::Conflict`]. `None`:
    /// the team has no row yet.
    pub from: Option<TeamRow>,
    /// The row after.
    pub to: TeamRow,
}

/// What one transaction writes. All checks were made; seqs are assigned.
#[derive(Debug, Clone, Default)]
pub struct WriteBatch {
    /// New journal rows, contiguous, the first one after the last stored.
    pub events: Vec<Committed>,
    /// Facts, one per (kind, owner, key), newest only.
    pub facts: Vec<FactRow>,
    /// Moves of teams, one per team.
    pub teams: Vec<TeamMove>,
    /// Blocks of series, written over what is stored for the same (series, start).
    pub blocks: Vec<Block>,
    /// The level that the commit must reach.
    pub level: Level,
    /// When it is committed, kept with its events. The store has no clock of its own: the same batches leave the same
    /// store. `None`: unknown; its events count as committed with the next batch that has a time.
    pub committed_at: Option<CommitTime>,
}

/// What a store knows when it is opened.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// The last seq of the journal.
    pub last_seq: Seq,
    /// Every team's row.
    pub teams: Vec<TeamRow>,
    /// The last seq that was pruned: above it the journal is complete.
    pub floor: Seq,
    /// When the last batch with events was committed, if it has a time.
    pub committed_at: Option<CommitTime>,
    /// The disk failed in this process or one before, and the store was not written anew since: what it promises at
    /// level `power` is in doubt.
    pub is_unflushed: bool,
}

/// A backend. One owner, the storage actor, commits; anybody reads through [`Store::reader`].
///
/// # For implementers
/// - `commit` is all or nothing, and after `Ok` the batch survives what `level` promises.
/// - An error other than [`StoreError::Unknown`] means: nothing of the batch is stored.
/// - Readers see whole batches only, in the order of commits.
/// - A team's move is applied only if the stored row equals `from`.
/// - The suite in `conformance` states all of this as tests; run it on every new backend.
#[async_trait]
pub trait Store: Send + Sync {
    /// What is stored, as the actor needs it at the start or after a failure. Reopens if need be.
    async fn load(&mut self) -> Result<Loaded, StoreError>;

    /// Writes one batch in one transaction.
    async fn commit(&mut self, batch: &WriteBatch) -> Result<(), StoreError>;

    /// Moves what is in the write-ahead log into the database, if the backend has one; called when idle.
    async fn checkpoint(&mut self) -> Result<(), StoreError>;

    /// Deletes events from the beginning of the journal up to `upto`, some `events_max` at once, and gives the last seq
    /// that is gone now (the floor): `upto`, or less when there is more to do or batches end elsewhere. All or nothing.
    ///
    /// Kept, whatever their seq: the newest write of each memory key that exists, the events that dead letters, attempt
    /// marks and open effects name, the starts of teams, and the last batch.
    async fn prune(&mut self, upto: Seq, events_max: u64) -> Result<Seq, StoreError> {
        let _ = (upto, events_max);
        Err(StoreError::Invalid("this store does not delete".into()))
    }

    /// Scans the next facts of a kind, in the store's own order, and deletes those that [`Expiry`] allows. Never
    /// an intent without a result ([`OPEN_EFFECT`](crate::OPEN_EFFECT)). All or nothing.
    async fn expire(&mut self, expiry: &Expiry) -> Result<Expired, StoreError> {
        let _ = expiry;
        Ok(Expired::default())
    }

    /// Looks after what the store lies on: fatal when it is not there any more. Cheap; with `deep`, sizes are read anew.
    /// `None`: there is nothing to look after, and no need to ask again.
    async fn look(&mut self, deep: bool) -> Result<Option<Sizes>, StoreError> {
        let _ = deep;
        Ok(None)
    }

    /// Moves the whole write-ahead log into the database and begins it anew, waiting a moment for readers. `false`:
    /// one still reads from it.
    async fn shorten_log(&mut self) -> Result<bool, StoreError> {
        Ok(true)
    }

    /// Writes everything anew, flushes it and checks it: after a failed flush, the only way to know what the disk holds.
    async fn renew(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Flushes and closes for good.
    async fn close(&mut self) -> Result<(), StoreError>;

    /// A handle for readers; cheap to clone, stays valid until the store is closed.
    fn reader(&self) -> Arc<dyn Read>;
}

/// What a store takes up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// Bytes of the database that hold something; what was freed by deleting does not count.
    pub used_bytes: u64,
    /// Size of the write-ahead log.
    pub wal_bytes: u64,
    /// Bytes of the log that have not been moved into the database; `None`: it cannot be told.
    pub unmoved_bytes: Option<u64>,
    /// Another process that reads from the log and so keeps it from being begun anew, if one was found the last time
    /// that this failed.
    pub log_held_by: Option<u32>,
    /// Reading connections that were opened.
    pub readers: u64,
    /// Reads that were cut at their deadline.
    pub reads_cut: u64,
}

/// Bytes of content from which on a page ends, whatever its limit of rows is; the row that crosses the line is still
/// in it. 4 MiB: the price of a page is spread, and a few of them fit anywhere.
pub const PAGE_BYTES: usize = 4 << 20;

/// Facts that are read at once where all are wanted.
const FACTS_AT_ONCE: usize = 4_096;

/// A page of facts, sorted by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FactPage {
    /// The facts; at least one, unless there are no more.
    pub facts: Vec<FactRow>,
    /// The key that the next page begins from; `None`: there are no more.
    pub next: Option<String>,
}

/// Reads of committed data. All are cancel safe and see whole batches only.
///
/// What can be large is read in pages, each bounded by a count and by [`PAGE_BYTES`], and each a read of its own: between
/// two of them something may be committed. What gives everything at once says so.
#[async_trait]
pub trait Read: Send + Sync {
    /// The last committed seq.
    async fn last_seq(&self) -> Result<Seq, StoreError>;

    /// Events of seqs in (`after`, `upto`] that `interest` wants, in order, at most `limit` of them and
    /// [`PAGE_BYTES`]; and the seq up to which the answer is complete.
    async fn journal(
        &self,
        after: Seq,
        upto: Seq,
        interest: &Interest,
        limit: usize,
    ) -> Result<(Vec<Committed>, Seq), StoreError>;

    /// The last seq that was pruned, 0 if none was. Above it the journal is complete; what is kept below it is what
    /// somebody still needs. [`journal`](Self::journal) after a smaller seq, and
    /// [`memory_as_of`](Self::memory_as_of) a smaller one, give [`StoreError::Pruned`].
    async fn floor(&self) -> Result<Seq, StoreError>;

    /// How often the journal was reset, so that a reader that waits for events notices that seqs have a new meaning.
    /// Stays 0 in a store that cannot be reset.
    async fn generation(&self) -> Result<u64, StoreError> {
        Ok(0)
    }

    /// The last seq of the last batch that was committed before `clock`, by the commit clock; at least the floor.
    /// Batches without a time count as committed with the next one that has one. The events' own times do not matter.
    async fn last_committed_before(&self, clock: Timestamp) -> Result<Seq, StoreError>;

    /// When the batch was committed that has the event `seq`; `None`: that is unknown, or there is no such event.
    async fn commit_time(&self, seq: Seq) -> Result<Option<CommitTime>, StoreError>;

    /// The last events before `before` that `interest` wants, in journal order, at most `limit` of them and
    /// [`PAGE_BYTES`]; and the seq after which the answer is complete, 0 when there are no more. Those below the floor
    /// that are kept are among them. Like [`journal`](Self::journal), one call looks through a bounded part of the
    /// journal, so a page may be empty and yet not be the last.
    async fn journal_before(
        &self,
        before: Seq,
        interest: &Interest,
        limit: usize,
    ) -> Result<(Vec<Committed>, Seq), StoreError>;

    /// The last `limit` events that `interest` wants, in journal order: all at once, so for a small `limit`.
    async fn journal_tail(&self, interest: &Interest, limit: usize) -> Result<Vec<Committed>, StoreError> {
        let (mut pages, mut before, mut left) = (Vec::new(), Seq(u64::MAX), limit);
        while left > 0 && before > Seq(1) {
            let (page, after) = self.journal_before(before, interest, left).await?;
            (before, left) = (after.next(), left - page.len());
            pages.push(page);
        }
        Ok(pages.into_iter().rev().flatten().collect())
    }

    /// One event.
    async fn event(&self, seq: Seq) -> Result<Option<Committed>, StoreError>;

    /// The durable events whose nearest durable cause is `seq`, in order, at most `limit`.
    async fn effects_of(&self, seq: Seq, limit: usize) -> Result<Vec<Committed>, StoreError>;

    /// How many events each topic has had, including pruned ones. The cost grows with the number of topics, not of
    /// events.
    async fn topic_counts(&self) -> Result<TopicCounts, StoreError>;

    /// The newest write of a memory key at or before `at`, from the journal.
    async fn memory_as_of(&self, key: &str, at: Seq) -> Result<Option<Committed>, StoreError>;

    /// One fact.
    async fn fact(&self, kind: FactKind, owner: &Name, key: &str) -> Result<Option<FactRow>, StoreError>;

    /// Facts of a kind other than memory, of one owner, with keys from `from` on, at most `limit` of them and
    /// [`PAGE_BYTES`].
    async fn facts_page(&self, kind: FactKind, owner: &Name, from: &str, limit: usize) -> Result<FactPage, StoreError>;

    /// Memory facts with keys from `from` on, at most `limit` of them and [`PAGE_BYTES`].
    async fn memory_page(&self, from: &str, limit: usize) -> Result<FactPage, StoreError>;

    /// Who has facts of a kind other than memory, sorted.
    async fn fact_owners(&self, kind: FactKind) -> Result<Vec<Name>, StoreError>;

    /// How many facts of a kind there are, of one owner or of all; the owner of memory does not count.
    async fn count_facts(&self, kind: FactKind, owner: Option<&Name>) -> Result<u64, StoreError>;

    /// Facts of one kind, of one owner or of all, sorted by (owner, key): all at once, so for few.
    async fn facts(&self, kind: FactKind, owner: Option<&Name>) -> Result<Vec<FactRow>, StoreError> {
        let mut facts = Vec::new();
        let owners = match owner {
            _ if kind == FactKind::Memory => Vec::new(),
            Some(owner) => vec![owner.clone()],
            None => self.fact_owners(kind).await?,
        };
        for owner in &owners {
            let mut from = Some(String::new());
            while let Some(key) = from {
                let page = self.facts_page(kind, owner, &key, FACTS_AT_ONCE).await?;
                facts.extend(page.facts);
                from = page.next;
            }
        }
        let mut from = (kind == FactKind::Memory).then(String::new);
        while let Some(key) = from {
            let page = self.memory_page(&key, FACTS_AT_ONCE).await?;
            facts.extend(page.facts.into_iter().filter(|fact| owner.is_none_or(|owner| fact.owner == *owner)));
            from = page.next;
        }
        facts.sort_by(|a: &FactRow, b| (&a.owner, &a.key).cmp(&(&b.owner, &b.key)));
        Ok(facts)
    }

    /// Every memory key that begins with `prefix` and was ever written, removed ones too, sorted.
    async fn memory_keys(&self, prefix: &str) -> Result<Vec<String>, StoreError>;

    /// Every team's row, sorted by name.
    async fn teams(&self) -> Result<Vec<TeamRow>, StoreError>;

    /// Blocks of a series with `start` in `from ..= to`, sorted by start, at most `limit`.
    async fn blocks(&self, series: &Name, from: i64, to: i64, limit: usize) -> Result<Vec<Block>, StoreError>;

    /// Every series with its number of rows, first and last block start, sorted by name.
    async fn series(&self) -> Result<Vec<SeriesRow>, StoreError>;
}

/// How many events each topic has had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TopicCounts {
    /// Topics as texts with their numbers of events, sorted. All writes of memory are one, [`TopicCounts::MEMORY`]; a
    /// store may count topics beyond some number as one, [`TopicCounts::OTHERS`].
    pub topics: Vec<(String, u64)>,
    /// Events up to here are not in it: they had been pruned before counting began, or were written by an older version
    /// and are counted when a runtime opens the file.
    pub after: Seq,
}

impl TopicCounts {
    /// Stands for all writes of memory.
    pub const MEMORY: &'static str = "memory.>";
    /// Stands for topics that are not counted separately.
    pub const OTHERS: &'static str = ">";

    /// The number of events of a topic that is counted separately.
    #[must_use]
    pub fn of(&self, topic: &str) -> u64 {
        self.topics.iter().find(|(counted, _)| counted == topic).map_or(0, |(_, n_events)| *n_events)
    }
}

/// A series in the block table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeriesRow {
    /// Its name.
    pub series: Name,
    /// Rows in all its blocks.
    pub rows: u64,
    /// The start of its first block.
    pub first_start: i64,
    /// The start of its last block.
    pub last_start: i64,
}
