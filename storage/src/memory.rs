//! The model store: everything in memory, with faults on request.
//!
//! It promises what the trait promises, in the plainest way there is, so that tests compare other backends
//! with it and simulations run on it. What is committed lives on a [`MemoryDisk`]; a second store on the
//! same disk is a reopened one. Payloads are given out as JSON text, as a real store gives them, so that what
//! does not survive a round trip shows here too.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use atra_bus::{Committed, EventId, Interest, Name, Seq, Timestamp, Topic};
use rustc_hash::FxHashMap;

use crate::{
    Block, CommitTime, Expired, Expiry, FactKind, FactPage, FactRow, Loaded, OPEN_EFFECT, PAGE_BYTES, Read, SeriesRow,
    Store, StoreError, TeamRow, TopicCounts, WriteBatch,
    facts::{Fact, Facts},
    kept::{Journal, Kept},
    retention::{KEPT_TOPIC, event_of},
};

/// What is committed, and the faults to come. Cheap to clone; outlives the stores on it.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    journal: Journal,
    /// The last seq that was pruned.
    floor: Seq,
    /// How many events of each topic were pruned.
    pruned_by_topic: BTreeMap<String, u64>,
    /// The time at which facts without a time count as written: that of their first scan.
    untimed: Option<Timestamp>,
    /// The last seq of each batch with events, and when it was committed.
    batches: Vec<(Seq, Option<CommitTime>)>,
    facts: Facts,
    teams: FxHashMap<Name, TeamRow>,
    blocks: BTreeMap<(Name, i64), Block>,
    faults: VecDeque<Fault>,
    commit_delay: Option<Duration>,
    renew_fault: Option<StoreError>,
    n_commits: u64,
    /// Raised by every opened store: only the newest may commit, as with a locked file.
    opened: u64,
    /// How to take back what was not flushed, oldest first; `None`: everything counts as flushed.
    volatile: Option<VecDeque<Undo>>,
}

/// What was there before a commit that was not flushed.
#[derive(Debug)]
struct Undo {
    last: usize,
    /// The rows as they were; one without a value was not there.
    facts: Vec<FactRow>,
    teams: Vec<(Name, Option<TeamRow>)>,
    blocks: Vec<((Name, i64), Option<Block>)>,
}

#[derive(Debug, Clone)]
struct Fault {
    error: StoreError,
    is_after_effect: bool,
}

impl MemoryDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the next `n` commits fail with `error` and without effect.
    pub fn fail_next(&self, n: usize, error: &StoreError) {
        let fault = Fault { error: error.clone(), is_after_effect: false };
        self.state().faults.extend(std::iter::repeat_n(fault, n));
    }

    /// From now on nothing fails that was told to.
    pub fn mend(&self) {
        self.state().faults.clear();
    }

    /// Lets the next commit take effect and fail with `error` all the same: an answer that got lost.
    pub fn fail_next_after_effect(&self, error: &StoreError) {
        self.state().faults.push_back(Fault { error: error.clone(), is_after_effect: true });
    }

    /// Makes every commit take `delay` of tokio's time.
    pub fn delay_commits(&self, delay: Option<Duration>) {
        self.state().commit_delay = delay;
    }

    /// From now on tells what is flushed from what is not: a commit at level `power`, a checkpoint and a close flush,
    /// other commits are volatile until then.
    pub fn track_flushes(&self) {
        self.state().volatile.get_or_insert_default();
    }

    /// How many commits would be lost if power went now.
    #[must_use]
    pub fn n_volatile(&self) -> usize {
        self.state().volatile.as_ref().map_or(0, VecDeque::len)
    }

    /// Power goes: of the commits that were not flushed, the first `keep` stay.
    pub fn lose_power(&self, keep: usize) {
        let mut state = self.state();
        while state.volatile.as_ref().is_some_and(|volatile| volatile.len() > keep) {
            let undo = state.volatile.as_mut().and_then(VecDeque::pop_back);
            if let Some(undo) = undo {
                state.take_back(undo);
            }
        }
        // What survived is on the disk.
        state.flush();
    }

    /// How many events the journal holds.
    #[must_use]
    pub fn n_events(&self) -> u64 {
        self.state().last_seq().get()
    }

    /// Lets every writing anew fail with this, until it is taken back.
    pub fn fail_renewals(&self, error: Option<StoreError>) {
        self.state().renew_fault = error;
    }

    /// How many commits have taken effect.
    #[must_use]
    pub fn n_commits(&self) -> u64 {
        self.state().n_commits
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock is held can only come from the allocator; the state is whole before and
        // after each change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The model store. Opening another one on the same disk is what a new process does after a crash: the
/// older store can no longer commit.
#[derive(Debug)]
pub struct MemoryStore {
    disk: MemoryDisk,
    opened: u64,
    is_closed: bool,
}

impl MemoryStore {
    /// A store on an empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::on(&MemoryDisk::new())
    }

    /// A store on what is on `disk`.
    #[must_use]
    pub fn on(disk: &MemoryDisk) -> Self {
        let mut state = disk.state();
        state.opened += 1;
        let opened = state.opened;
        drop(state);
        Self { disk: disk.clone(), opened, is_closed: false }
    }

    /// Its disk.
    #[must_use]
    pub fn disk(&self) -> MemoryDisk {
        self.disk.clone()
    }

    /// Lets the next `n` commits fail with `error` and without effect.
    pub fn fail_next(&self, n: usize, error: &StoreError) {
        self.disk.fail_next(n, error);
    }

    fn fatal(cause: &str) -> StoreError {
        StoreError::Fatal { path: "(memory)".into(), cause: cause.into() }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn load(&mut self) -> Result<Loaded, StoreError> {
        let state = self.disk.state();
        let committed_at = state.batches.last().and_then(|(_, at)| *at);
        let (last_seq, teams, floor) = (state.last_seq(), state.teams(), state.floor);
        Ok(Loaded { last_seq, teams, floor, committed_at, is_unflushed: false })
    }

    async fn commit(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        let delay = self.disk.state().commit_delay;
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        let mut state = self.disk.state();
        if self.is_closed || state.opened != self.opened {
            return Err(Self::fatal("the store was closed, or opened by somebody else"));
        }
        let fault = state.faults.pop_front();
        if let Some(Fault { error, is_after_effect: false }) = fault {
            return Err(error);
        }
        state.check(batch)?;
        state.remember(batch);
        state.apply(batch);
        if batch.level == crate::Level::Power {
            state.flush();
        }
        fault.map_or(Ok(()), |fault| Err(fault.error))
    }

    async fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.disk.state().flush();
        Ok(())
    }

    async fn renew(&mut self) -> Result<(), StoreError> {
        self.disk.state().renew_fault.clone().map_or(Ok(()), Err)
    }

    async fn prune(&mut self, upto: Seq, events_max: u64) -> Result<Seq, StoreError> {
        let mut state = self.disk.state();
        let upto = upto.min(Seq(state.last_seq().get().saturating_sub(1)));
        let upto = upto.min(Seq(state.floor.get().saturating_add(events_max.max(1))));
        state.prune(upto);
        Ok(state.floor)
    }

    async fn expire(&mut self, expiry: &Expiry) -> Result<Expired, StoreError> {
        let mut state = self.disk.state();
        let untimed = *state.untimed.get_or_insert(expiry.now);
        let facts = state.facts.of_kind(expiry.kind).map(|fact| (fact.is_expired(expiry, untimed), fact.row()));
        let mut rows: Vec<(bool, FactRow)> = facts.collect();
        rows.sort_by(|(_, a), (_, b)| (&a.owner, &a.key).cmp(&(&b.owner, &b.key)));
        let from = expiry.from.as_ref();
        rows.retain(|(_, row)| from.is_none_or(|(owner, key)| (&row.owner, &row.key) > (owner, key)));
        let is_cut = rows.len() as u64 > expiry.facts_max;
        rows.truncate(usize::try_from(expiry.facts_max).unwrap_or(usize::MAX));
        let next = rows.last().filter(|_| is_cut).map(|(_, row)| (row.owner.clone(), row.key.clone()));
        let mut expired = Expired { deleted: 0, kept: rows.len() as u64, next };
        for (_, row) in rows.into_iter().filter(|(is_expired, _)| *is_expired) {
            state.facts.put(&FactRow { value: None, ..row }, None);
            expired.deleted += 1;
            expired.kept -= 1;
        }
        Ok(expired)
    }

    async fn close(&mut self) -> Result<(), StoreError> {
        self.is_closed = true;
        self.disk.state().flush();
        Ok(())
    }

    fn reader(&self) -> Arc<dyn Read> {
        Arc::new(self.disk.clone())
    }
}

impl State {
    /// By name.
    fn teams(&self) -> Vec<TeamRow> {
        let mut teams: Vec<TeamRow> = self.teams.values().cloned().collect();
        teams.sort_unstable_by(|a, b| a.team.cmp(&b.team));
        teams
    }

    fn last_seq(&self) -> Seq {
        Seq(self.journal.len() as u64)
    }

    /// Everything that could refuse the batch, before anything is changed.
    fn check(&self, batch: &WriteBatch) -> Result<(), StoreError> {
        for moved in &batch.teams {
            if self.teams.get(&moved.to.team) != moved.from.as_ref() {
                let (epoch, number) = moved.from.as_ref().map_or((0, 0), |row| (row.epoch, row.number));
                return Err(StoreError::Conflict { team: moved.to.team.clone(), epoch, number });
            }
        }
        let mut last = self.last_seq();
        for event in &batch.events {
            if event.seq != last.next() {
                return Err(StoreError::Invalid(format!("seq {} does not follow {last}", event.seq)));
            }
            last = event.seq;
            event.event.payload.json().map_err(|error| StoreError::Invalid(error.to_string()))?;
        }
        Ok(())
    }

    fn apply(&mut self, batch: &WriteBatch) {
        batch.events.iter().for_each(|committed| self.journal.push(committed));
        self.batches.extend(batch.events.last().map(|last| (last.seq, batch.committed_at)));
        batch.facts.iter().for_each(|fact| self.facts.put(fact, batch.committed_at));
        batch.teams.iter().for_each(|moved| moved.to.put(&mut self.teams));
        for block in &batch.blocks {
            self.blocks.insert((block.series.clone(), block.start), block.clone());
        }
        self.n_commits += 1;
    }

    fn flush(&mut self) {
        if let Some(volatile) = &mut self.volatile {
            volatile.clear();
        }
    }

    /// Keeps what the batch is about to write over.
    fn remember(&mut self, batch: &WriteBatch) {
        if self.volatile.is_none() {
            return;
        }
        let facts = batch.facts.iter().map(|fact| {
            let row = self.facts.get(fact.kind, &fact.owner, &fact.key).map(Fact::row);
            row.unwrap_or_else(|| FactRow { value: None, ..fact.clone() })
        });
        let blocks = batch.blocks.iter().map(|block| (block.series.clone(), block.start));
        let teams = batch.teams.iter().map(|moved| moved.to.team.clone());
        let undo = Undo {
            last: self.journal.len(),
            facts: facts.collect(),
            teams: teams.map(|team| (team.clone(), self.teams.get(&team).cloned())).collect(),
            blocks: blocks.map(|id| (id.clone(), self.blocks.get(&id).cloned())).collect(),
        };
        if let Some(volatile) = &mut self.volatile {
            volatile.push_back(undo);
        }
    }

    fn take_back(&mut self, undo: Undo) {
        self.journal.truncate(undo.last);
        let last = self.last_seq();
        while self.batches.pop_if(|(end, _)| *end > last).is_some() {}
        // Without their times they are kept longer.
        undo.facts.iter().for_each(|fact| self.facts.put(fact, None));
        for (team, row) in undo.teams {
            match row {
                Some(row) => _ = self.teams.insert(team, row),
                None => _ = self.teams.remove(&team),
            }
        }
        for (place, block) in undo.blocks {
            match block {
                Some(block) => _ = self.blocks.insert(place, block),
                None => _ = self.blocks.remove(&place),
            }
        }
    }

    fn get(&self, seq: Seq) -> Option<Kept<'_>> {
        self.journal.get(usize::try_from(seq.get()).ok()?.checked_sub(1)?)
    }

    /// What is left of the journal, in order.
    fn events(&self) -> impl DoubleEndedIterator<Item = Kept<'_>> {
        self.journal.first(self.journal.len())
    }

    fn check_floor(&self, after: Seq) -> Result<(), StoreError> {
        if after < self.floor { Err(StoreError::Pruned { after, floor: self.floor }) } else { Ok(()) }
    }

    fn prune(&mut self, upto: Seq) {
        if upto <= self.floor {
            return;
        }
        let marks = self.facts.of_kind(FactKind::DeadLetter).chain(self.facts.of_kind(FactKind::Attempt));
        let is_open = |fact: &&Fact| fact.value() == OPEN_EFFECT;
        let open = self.facts.of_kind(FactKind::Result).filter(is_open);
        let needed: BTreeSet<EventId> = marks.chain(open).filter_map(|fact| event_of(fact.key())).collect();
        let mut newest: BTreeMap<Topic, Seq> = BTreeMap::new();
        for kept in self.events().take_while(|kept| kept.seq <= upto) {
            if kept.topic.memory_key().is_some() {
                newest.insert(kept.topic.clone(), kept.seq);
            }
        }
        let floor = self.floor;
        let mut pruned = std::mem::take(&mut self.pruned_by_topic);
        self.journal.first(upto.get() as usize).for_each(|kept| {
            *pruned.entry(counted(kept.topic).to_owned()).or_insert(0) += 1;
        });
        self.journal.retain(upto.get() as usize, |kept| {
            let (seq, is_needed) = (kept.seq, needed.contains(&kept.id()));
            match newest.get(kept.topic) {
                Some(newest) if *newest != seq => is_needed && seq > floor,
                Some(_) => is_needed || kept.json() != "null",
                None => seq <= floor || is_needed || kept.topic.as_str() == KEPT_TOPIC,
            }
        });
        self.floor = upto;
        self.journal.first(upto.get() as usize).for_each(|kept| {
            pruned.entry(counted(kept.topic).to_owned()).and_modify(|n| *n -= 1);
        });
        self.pruned_by_topic = pruned;
    }
}

/// The topic under which an event is counted.
fn counted(topic: &Topic) -> &str {
    if topic.memory_key().is_some() { TopicCounts::MEMORY } else { topic.as_str() }
}

fn fact_page<'a>(facts: impl Iterator<Item = &'a Fact>, limit: usize) -> FactPage {
    let mut facts = facts.peekable();
    let (mut page, mut n_bytes) = (FactPage::default(), 0);
    while let Some(fact) = facts.next_if(|_| page.facts.len() < limit && n_bytes < PAGE_BYTES) {
        n_bytes += fact.value().len();
        page.facts.push(fact.row());
    }
    let is_cut = n_bytes >= PAGE_BYTES && facts.peek().is_some();
    let last = page.facts.last().filter(|_| is_cut || page.facts.len() >= limit);
    page.next = last.map(|last| format!("{}\0", last.key));
    page
}

#[async_trait]
impl Read for MemoryDisk {
    async fn last_seq(&self) -> Result<Seq, StoreError> {
        Ok(self.state().last_seq())
    }

    async fn journal(
        &self,
        after: Seq,
        upto: Seq,
        interest: &Interest,
        limit: usize,
    ) -> Result<(Vec<Committed>, Seq), StoreError> {
        let state = self.state();
        state.check_floor(after)?;
        let end = upto.min(state.last_seq());
        let (mut events, mut at, mut n_bytes) = (Vec::new(), after, 0);
        while at < end {
            let next = at.next();
            if let Some(kept) = state.get(next)
                && interest.wants(kept.topic.as_str(), kept.source)
            {
                if events.len() == limit || n_bytes >= PAGE_BYTES {
                    return Ok((events, at));
                }
                n_bytes += kept.json().len();
                events.push(kept.committed());
            }
            at = next;
        }
        Ok((events, end.max(after)))
    }

    async fn floor(&self) -> Result<Seq, StoreError> {
        Ok(self.state().floor)
    }

    async fn last_committed_before(&self, clock: Timestamp) -> Result<Seq, StoreError> {
        let state = self.state();
        let timed = state.batches.iter().filter_map(|(end, at)| Some((*end, (*at)?)));
        let older = timed.take_while(|(_, at)| at.clock < clock).last();
        Ok(older.map_or(state.floor, |(end, _)| end.max(state.floor)))
    }

    async fn commit_time(&self, seq: Seq) -> Result<Option<CommitTime>, StoreError> {
        let state = self.state();
        let batch = state.batches.partition_point(|(end, _)| *end < seq);
        // The end of a pruned batch is known only if its last event is kept.
        let is_known = |end: Seq| seq > state.floor || (end == seq && state.get(seq).is_some());
        Ok(state.batches.get(batch).filter(|(end, _)| is_known(*end)).and_then(|(_, at)| *at))
    }

    async fn journal_before(
        &self,
        before: Seq,
        interest: &Interest,
        limit: usize,
    ) -> Result<(Vec<Committed>, Seq), StoreError> {
        let state = self.state();
        let n_before = before.get().saturating_sub(1).min(state.last_seq().get());
        let wanted = |kept: &Kept<'_>| interest.wants(kept.topic.as_str(), kept.source);
        let (mut events, mut n_bytes) = (Vec::new(), 0);
        for kept in state.journal.first(n_before as usize).rev().filter(wanted) {
            if events.len() == limit || n_bytes >= PAGE_BYTES {
                events.reverse();
                let first = events.first().map_or(n_before + 1, |first: &Committed| first.seq.get());
                return Ok((events, Seq(first - 1)));
            }
            n_bytes += kept.json().len();
            events.push(kept.committed());
        }
        events.reverse();
        Ok((events, Seq::ZERO))
    }

    async fn event(&self, seq: Seq) -> Result<Option<Committed>, StoreError> {
        Ok(self.state().get(seq).map(|kept| kept.committed()))
    }

    async fn effects_of(&self, seq: Seq, limit: usize) -> Result<Vec<Committed>, StoreError> {
        let state = self.state();
        let effects = state.events().filter(|kept| kept.cause_seq() == Some(seq));
        Ok(effects.take(limit).map(|kept| kept.committed()).collect())
    }

    async fn topic_counts(&self) -> Result<TopicCounts, StoreError> {
        let state = self.state();
        let mut counts = state.pruned_by_topic.clone();
        state.events().for_each(|kept| *counts.entry(counted(kept.topic).to_owned()).or_insert(0) += 1);
        Ok(TopicCounts { topics: counts.into_iter().collect(), after: Seq::ZERO })
    }

    async fn memory_as_of(&self, key: &str, at: Seq) -> Result<Option<Committed>, StoreError> {
        let Ok(topic) = Topic::memory(key) else { return Ok(None) };
        let state = self.state();
        state.check_floor(at)?;
        let upto = at.min(state.last_seq()).get() as usize;
        let mut writes = state.journal.first(upto).rev();
        Ok(writes.find(|kept| *kept.topic == topic).map(|kept| kept.committed()))
    }

    async fn fact(&self, kind: FactKind, owner: &Name, key: &str) -> Result<Option<FactRow>, StoreError> {
        Ok(self.state().facts.get(kind, owner, key).map(Fact::row))
    }

    async fn facts_page(&self, kind: FactKind, owner: &Name, from: &str, limit: usize) -> Result<FactPage, StoreError> {
        let state = self.state();
        let mut facts: Vec<&Fact> = state.facts.of(kind, owner).filter(|fact| fact.key() >= from).collect();
        facts.sort_unstable_by(|a, b| a.key().cmp(b.key()));
        Ok(fact_page(facts.into_iter(), limit))
    }

    async fn memory_page(&self, from: &str, limit: usize) -> Result<FactPage, StoreError> {
        Ok(fact_page(self.state().facts.memory_from(from), limit))
    }

    async fn fact_owners(&self, kind: FactKind) -> Result<Vec<Name>, StoreError> {
        Ok(self.state().facts.owners(kind))
    }

    async fn count_facts(&self, kind: FactKind, owner: Option<&Name>) -> Result<u64, StoreError> {
        let state = self.state();
        let count = match owner {
            Some(owner) if kind != FactKind::Memory => state.facts.of(kind, owner).count(),
            _ => state.facts.of_kind(kind).count(),
        };
        Ok(count as u64)
    }

    async fn memory_keys(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let state = self.state();
        let written = state.events().filter_map(|kept| kept.topic.memory_key());
        let keys: BTreeSet<&str> = written.filter(|key| key.starts_with(prefix)).collect();
        Ok(keys.into_iter().map(str::to_owned).collect())
    }

    async fn teams(&self) -> Result<Vec<TeamRow>, StoreError> {
        Ok(self.state().teams())
    }

    async fn blocks(&self, series: &Name, from: i64, to: i64, limit: usize) -> Result<Vec<Block>, StoreError> {
        if from > to {
            return Ok(Vec::new());
        }
        let state = self.state();
        let range = (series.clone(), from)..=(series.clone(), to);
        Ok(state.blocks.range(range).take(limit).map(|(_, block)| block.clone()).collect())
    }

    async fn series(&self) -> Result<Vec<SeriesRow>, StoreError> {
        let mut rows: Vec<SeriesRow> = Vec::new();
        for ((series, start), block) in &self.state().blocks {
            match rows.last_mut() {
                Some(row) if row.series == *series => {
                    row.rows += u64::from(block.rows);
                    row.last_start = *start;
                }
                _ => rows.push(SeriesRow {
                    series: series.clone(),
                    rows: block.rows.into(),
                    first_start: *start,
                    last_start: *start,
                }),
            }
        }
        Ok(rows)
    }
}
