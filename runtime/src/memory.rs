//! Shared memory: the newest values of all keys, and enough older versions for as-of reads.
//!
//! A write is a durable event on `memory.<key>`; what is here is derived from those events when they are
//! released, in journal order. Reads are clones, never guards: a `DashMap` guard held across `.await`
//! freezes a runtime. Readers outside a turn read as of `released`, so they see whole steps only.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use atra_bus::{Batch, EventId, Name, Payload, PayloadError, Seq};
use dashmap::DashMap;
use rustc_hash::FxBuildHasher;
use serde::de::DeserializeOwned;

/// Versions kept per key whatever the teams' positions are: bounded memory; older reads use the journal.
const VERSIONS_MAX: usize = 64;

/// Bytes of older versions that are kept per key, independent of the teams' positions. 256 KiB: 64 versions of 4 KiB;
/// keys with larger values are seldom read as of an older position.
const KEY_BYTES_MAX: usize = 256 << 10;

/// When the older versions of all keys exceed this size, a written key keeps its newest version only. 64 MiB: a paused
/// team can retain only a small part of a machine's memory.
const OLDER_BYTES_MAX: usize = 64 << 20;

/// How often `list` tries to see all keys as of one `released`.
const LIST_TRIES_MAX: usize = 8;

/// A value of a key, with its revision.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The value.
    pub value: Payload,
    /// The event that wrote it: what `put_if` compares.
    pub revision: EventId,
}

impl Entry {
    /// The value as a `T`.
    ///
    /// # Errors
    /// [`PayloadError::Shape`] when it is not a `T`.
    pub fn get<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Result<&T, PayloadError> {
        self.value.get()
    }
}

/// What an as-of read found.
#[derive(Debug, Clone)]
pub enum AsOf {
    /// The key's entry at that position, or that it did not exist.
    Known(Option<Entry>),
    /// The position is before the oldest version kept; the journal knows.
    Older,
}

struct Version {
    seq: Seq,
    entry: Option<Entry>,
    /// Size of its value as JSON.
    bytes: usize,
}

impl Version {
    fn new(seq: Seq, entry: Option<Entry>) -> Self {
        // Encoded already: it comes from a commit or from the store.
        let bytes = entry.as_ref().and_then(|entry| entry.value.json().ok()).map_or(0, str::len);
        Self { seq, entry, bytes }
    }
}

#[derive(Default)]
struct Versions {
    /// Sorted by seq, newest last.
    list: VecDeque<Version>,
    /// Bytes of all versions but the newest.
    older_bytes: usize,
    /// Whether older versions may exist in the journal.
    pruned: bool,
}

struct Shared {
    /// Written by the releaser only. Never iterated: [`Shared::index`] gives the order.
    keys: DashMap<Arc<str>, Versions, FxBuildHasher>,
    /// Every key that has a version, sorted: what `list` walks.
    index: RwLock<BTreeSet<Arc<str>>>,
    released: AtomicU64,
    /// Bytes of the older versions of all keys. Relaxed: written by the releaser only.
    older_bytes: AtomicUsize,
    /// What was removed up to here is not known here any more, only in the journal: `released` at the start, or the
    /// last removal that no team can need.
    forgotten: AtomicU64,
    /// Removals that some team may still need, in journal order. Touched by the releaser only.
    removed: Mutex<VecDeque<(Seq, Arc<str>)>>,
    positions: Mutex<Positions>,
}

/// How far each team is; versions that the slowest still needs are kept.
#[derive(Default)]
struct Positions {
    by_team: BTreeMap<Name, Arc<AtomicU64>>,
    /// The least of them when it was last looked for.
    least: u64,
    /// Batches since then, times [`TEAMS_PER_BATCH`].
    age: usize,
}

/// Teams that a batch may cost a look: with a thousand of them the slowest is looked for at every 63rd batch. What it
/// says meanwhile is too low at worst, which keeps a version longer, or (a team was built anew) too high, and then the
/// journal knows.
const TEAMS_PER_BATCH: usize = 16;

/// A handle on shared memory. Cheap to clone.
#[derive(Clone)]
pub struct SharedMemory(Arc<Shared>);

impl Default for SharedMemory {
    fn default() -> Self {
        Self(Arc::new(Shared {
            keys: DashMap::with_hasher(FxBuildHasher),
            index: RwLock::default(),
            released: AtomicU64::new(0),
            older_bytes: AtomicUsize::new(0),
            forgotten: AtomicU64::new(0),
            removed: Mutex::default(),
            positions: Mutex::default(),
        }))
    }
}

impl SharedMemory {
    /// The newest value of a key as of `released`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Entry> {
        let versions = self.0.keys.get(key)?;
        // Read under the guard: what is pruned meanwhile is older than this.
        let released = self.released();
        versions.list.iter().rev().find(|version| version.seq <= released)?.entry.clone()
    }

    /// Every key that begins with `prefix` with its value, sorted by key, as of one `released`.
    #[must_use]
    pub fn list(&self, prefix: &str) -> Vec<(Arc<str>, Entry)> {
        // A hot key may lose the version as of `released` while others are looked up: then all are looked up
        // anew, and at the latest a key that is hotter than that is taken as it is now.
        for _ in 0..LIST_TRIES_MAX {
            let released = self.released();
            let keys = self.keys_with(prefix);
            let found: Option<Vec<_>> = keys
                .into_iter()
                .map(|key| match self.as_of(&key, released) {
                    AsOf::Known(entry) => Some((key, entry)),
                    AsOf::Older => None,
                })
                .collect();
            if let Some(found) = found {
                return found.into_iter().filter_map(|(key, entry)| Some((key, entry?))).collect();
            }
        }
        self.keys_with(prefix).into_iter().filter_map(|key| Some((key.clone(), self.get(&key)?))).collect()
    }

    /// The value of a key as of `at`.
    #[must_use]
    pub fn as_of(&self, key: &str, at: Seq) -> AsOf {
        let versions = self.0.keys.get(key);
        // After the look: a key that has just been forgotten has raised it before.
        let is_forgotten = self.has_forgotten(at);
        let pruned = versions.as_ref().is_some_and(|versions| versions.pruned);
        match versions.as_ref().and_then(|versions| versions.list.iter().rev().find(|version| version.seq <= at)) {
            Some(version) => AsOf::Known(version.entry.clone()),
            None if pruned || is_forgotten => AsOf::Older,
            None => AsOf::Known(None),
        }
    }

    /// Whether keys that existed at `at` may be unknown here: the journal has them.
    pub(crate) fn has_forgotten(&self, at: Seq) -> bool {
        // SeqCst with `forget_removed`: who finds a key gone finds this raised.
        at.get() < self.0.forgotten.load(Ordering::SeqCst)
    }

    /// Every key with `prefix` that has a version here, sorted.
    #[must_use]
    pub fn keys_with(&self, prefix: &str) -> Vec<Arc<str>> {
        let index = self.0.index.read().unwrap_or_else(PoisonError::into_inner);
        index
            .range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded))
            .take_while(|key| key.starts_with(prefix))
            .cloned()
            .collect()
    }

    /// Whether a key with `prefix` has a version here.
    pub(crate) fn has_key_with(&self, prefix: &str) -> bool {
        let index = self.0.index.read().unwrap_or_else(PoisonError::into_inner);
        let from = (std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded);
        index.range::<str, _>(from).next().is_some_and(|key| key.starts_with(prefix))
    }

    /// The seq as of which readers outside read.
    #[must_use]
    pub fn released(&self) -> Seq {
        // Acquire pairs with the Release in `set_released`: versions up to it are visible.
        Seq(self.0.released.load(Ordering::Acquire))
    }

    /// Applies the writes of a committed batch; they become visible with [`SharedMemory::set_released`].
    pub(crate) fn apply(&self, batch: &Batch) {
        self.forget_removed();
        let mut floor = None;
        for committed in &batch.events {
            let Some(key) = committed.event.topic.memory_key() else { continue };
            let floor = *floor.get_or_insert_with(|| self.floor());
            let value = &committed.event.payload;
            // `null` is a removal; a removal is a version too.
            let removed = value.is_null();
            let entry = (!removed).then(|| Entry { value: value.clone(), revision: committed.event.id });
            self.push(key, Version::new(committed.seq, entry), floor, false);
            if removed {
                self.removed().push_back((committed.seq, key.into()));
            }
        }
    }

    /// Drops keys whose removal every team and every reader outside has seen.
    fn forget_removed(&self) {
        let mut removed = self.removed();
        if removed.is_empty() {
            return;
        }
        let seen = self.floor().min(self.released());
        while removed.front().is_some_and(|(seq, _)| *seq <= seen) {
            let Some((seq, key)) = removed.pop_front() else { return };
            let is_gone = |versions: &Versions| {
                versions.list.back().is_some_and(|newest| newest.seq == seq && newest.entry.is_none())
            };
            if self.0.keys.get(&*key).is_some_and(|versions| is_gone(&versions)) {
                // Before the key goes: who does not find it asks the journal for what came before.
                self.0.forgotten.fetch_max(seq.get(), Ordering::SeqCst);
                let versions = self.0.keys.remove(&*key).map(|(_, versions)| versions);
                self.0.older_bytes.fetch_sub(versions.map_or(0, |versions| versions.older_bytes), Ordering::Relaxed);
                self.0.index.write().unwrap_or_else(PoisonError::into_inner).remove(&*key);
            }
        }
    }

    fn removed(&self) -> MutexGuard<'_, VecDeque<(Seq, Arc<str>)>> {
        self.0.removed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes everything up to `seq` visible.
    pub(crate) fn set_released(&self, seq: Seq) {
        self.0.released.store(seq.get(), Ordering::Release);
    }

    /// Everything of the store is loaded, as of `seq`.
    pub(crate) fn set_loaded(&self, seq: Seq) {
        self.0.forgotten.store(seq.get(), Ordering::SeqCst);
        self.set_released(seq);
    }

    /// Loads a key's newest version from the store, at the start.
    pub(crate) fn load(&self, key: &str, seq: Seq, entry: Entry) {
        self.push(key, Version::new(seq, Some(entry)), Seq::ZERO, true);
    }

    /// Registers a team's position; versions it still needs are kept (up to a bound).
    pub(crate) fn position_of(&self, team: &Name) -> Arc<AtomicU64> {
        self.positions().by_team.entry(team.clone()).or_default().clone()
    }

    fn positions(&self) -> MutexGuard<'_, Positions> {
        self.0.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn floor(&self) -> Seq {
        let mut positions = self.positions();
        positions.age += TEAMS_PER_BATCH;
        if positions.age >= positions.by_team.len() {
            positions.age = 0;
            // Relaxed: a position that is read late only keeps a version longer.
            let least = positions.by_team.values().map(|at| at.load(Ordering::Relaxed)).min();
            positions.least = least.unwrap_or(u64::MAX);
        }
        Seq(positions.least)
    }

    fn push(&self, key: &str, version: Version, floor: Seq, pruned: bool) {
        let held = self.0.keys.get_mut(key).or_else(|| {
            let shared: Arc<str> = key.into();
            self.0.index.write().unwrap_or_else(PoisonError::into_inner).insert(shared.clone());
            self.0.keys.insert(shared, Versions { pruned, ..Versions::default() });
            self.0.keys.get_mut(key)
        });
        let Some(mut versions) = held else { return };
        let total = &self.0.older_bytes;
        if let Some(bytes) = versions.list.back().map(|newest| newest.bytes) {
            versions.older_bytes += bytes;
            total.fetch_add(bytes, Ordering::Relaxed);
        }
        versions.list.push_back(version);
        // The newest version at or before the floor is still needed, and so is the newest released one,
        // however many are kept; those before both are not.
        let released = self.released();
        while versions.list.get(1).is_some_and(|second| {
            let is_too_much = versions.list.len() > VERSIONS_MAX
                || versions.older_bytes > KEY_BYTES_MAX
                || total.load(Ordering::Relaxed) > OLDER_BYTES_MAX;
            second.seq <= floor.min(released) || (is_too_much && second.seq <= released)
        }) {
            let bytes = versions.list.pop_front().map_or(0, |oldest| oldest.bytes);
            versions.older_bytes -= bytes;
            total.fetch_sub(bytes, Ordering::Relaxed);
            versions.pruned = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use atra_bus::Committed;
    use atra_storage::conformance::{event, name};

    use super::*;

    fn write(memory: &SharedMemory, seq: u64, key: &str, bytes: usize) {
        let json = format!("\"{}\"", "v".repeat(bytes));
        let event = event("a", &format!("memory.{key}"), &json, seq);
        let committed = Committed { seq: Seq(seq), event, cause_seq: None, seen: None };
        memory.apply(&Batch { events: vec![committed] });
        memory.set_released(Seq(seq));
    }

    fn older_bytes(memory: &SharedMemory) -> usize {
        memory.0.older_bytes.load(Ordering::Relaxed)
    }

    /// A paused team held back 64 versions of each key whatever their size: 40 keys of 100 KB took 403 MB.
    #[test]
    fn older_versions_of_large_values_are_bounded_by_bytes_and_left_to_the_journal() {
        let memory = SharedMemory::default();
        memory.position_of(&name("paused")).store(1, Ordering::Relaxed);
        let (n_keys, bytes) = (40, 100_000);
        for seq in 1..=n_keys * 20 {
            write(&memory, seq, &format!("k{}", seq % n_keys), bytes);
        }
        assert!(older_bytes(&memory) <= n_keys as usize * KEY_BYTES_MAX, "{} bytes", older_bytes(&memory));
        let last = Seq(n_keys * 20);
        assert!(matches!(memory.as_of("k0", last), AsOf::Known(Some(_))), "the newest is known");
        assert!(matches!(memory.as_of("k0", Seq(n_keys)), AsOf::Older), "the journal knows the first");
        assert_eq!(memory.list("k").len() as u64, n_keys);
    }

    #[test]
    fn older_versions_of_all_keys_together_are_bounded() {
        let memory = SharedMemory::default();
        memory.position_of(&name("paused")).store(1, Ordering::Relaxed);
        let n_keys = (OLDER_BYTES_MAX / KEY_BYTES_MAX) as u64 * 2;
        for seq in 1..=n_keys * 4 {
            write(&memory, seq, &format!("k{}", seq % n_keys), KEY_BYTES_MAX / 2 - 2);
        }
        assert!(older_bytes(&memory) <= OLDER_BYTES_MAX, "{} bytes", older_bytes(&memory));
        assert_eq!(memory.list("k").len() as u64, n_keys);
    }

    #[test]
    fn small_values_keep_as_many_versions_as_before_and_what_is_forgotten_is_not_counted() {
        let memory = SharedMemory::default();
        let position = memory.position_of(&name("paused"));
        for seq in 1..=200 {
            write(&memory, seq, "k", 10);
        }
        assert!(matches!(memory.as_of("k", Seq(137)), AsOf::Known(Some(_))), "64 versions are kept");
        assert!(matches!(memory.as_of("k", Seq(136)), AsOf::Older));
        assert_eq!(older_bytes(&memory), (VERSIONS_MAX - 1) * 12);
        position.store(200, Ordering::Relaxed);
        write(&memory, 201, "k", 10);
        assert_eq!(older_bytes(&memory), 12, "nobody needs more than the one before");
        let removal =
            Committed { seq: Seq(202), event: event("a", "memory.k", "null", 202), cause_seq: None, seen: None };
        memory.apply(&Batch { events: vec![removal] });
        memory.set_released(Seq(202));
        position.store(202, Ordering::Relaxed);
        memory.apply(&Batch { events: Vec::new() });
        assert_eq!((older_bytes(&memory), memory.list("k").len()), (0, 0));
    }
}
