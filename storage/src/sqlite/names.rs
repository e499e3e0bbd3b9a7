//! Interned texts: topics, agents, callers, teams and series are stored as numbers.
//!
//! Ids grow away from zero: topics of memory writes downwards from −1, all others upwards from 1. An id is never used
//! twice, since the names at both ends are never deleted. So every new name has an id beyond the known ends, and a
//! cached id never stands for another text.
//!
//! There may be millions of names, so they are not all held in memory: the writer and each reader have a bounded cache
//! and look up other names.

use std::{borrow::Borrow, collections::BTreeMap, hash::Hash, sync::Arc};

use atra_bus::{Name, Topic, topic::MEMORY_ROOT};
use rustc_hash::FxHashMap;
use sqlx::{Executor as _, Row as _, SqliteConnection};

use super::queries::{NAMES_AFTER, NAMES_ENDS, NAMES_OF_TEXTS};

/// Names of each generation of a cache. 131,072: some 20 MB, and a topic for each of a hundred thousand keys in use stays
/// known.
const NAMES_MAX: usize = 131_072;

/// Up to this many names, all are read when the file is opened. 65,536: a tenth of a second.
const READ_AT_OPENING_MAX: u64 = 65_536;

/// A bounded map in two generations: when the young one is full it becomes the old one, and the old one is dropped. A
/// name in use is looked up again at most once for each change of generations.
#[derive(Debug)]
struct Cache<K, V> {
    young: FxHashMap<K, V>,
    old: FxHashMap<K, V>,
    n_max: usize,
    /// Whether something was dropped.
    has_dropped: bool,
}

impl<K: Eq + Hash, V> Cache<K, V> {
    fn new(n_max: usize) -> Self {
        Self { young: FxHashMap::default(), old: FxHashMap::default(), n_max, has_dropped: false }
    }

    fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.n_max {
            self.has_dropped |= !self.old.is_empty();
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.young.remove(key);
        self.old.remove(key);
    }
}

/// The writer's names. Changed only after the transaction that stored the new ones.
#[derive(Debug)]
pub(super) struct Interner {
    ids: Cache<Arc<str>, i64>,
    /// The greatest id given, and the least.
    greatest: i64,
    least: i64,
    /// Whether every name was read: then a name that is not in the cache does not exist.
    has_all: bool,
}

impl Default for Interner {
    fn default() -> Self {
        Self { ids: Cache::new(NAMES_MAX), greatest: 0, least: 0, has_all: false }
    }
}

impl Interner {
    /// Reads the ends, and all names if they are few.
    pub(super) async fn load(db: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let row = db.fetch_one(NAMES_ENDS).await?;
        let mut names = Self { greatest: row.try_get(0)?, least: row.try_get(1)?, ..Self::default() };
        // Names that were deleted leave gaps, so there are no more than this.
        if names.greatest.abs_diff(names.least) <= READ_AT_OPENING_MAX {
            for row in sqlx::query(NAMES_AFTER).bind(0_i64).bind(0_i64).fetch_all(db).await? {
                names.learn(row.try_get(1)?, row.try_get(0)?);
            }
            names.has_all = true;
        }
        Ok(names)
    }

    pub(super) fn learn(&mut self, text: &str, id: i64) {
        self.ids.insert(text.into(), id);
        self.greatest = self.greatest.max(id);
        self.least = self.least.min(id);
    }

    /// Removes a deleted name. If it is used again, it gets another id.
    pub(super) fn forget(&mut self, text: &str) {
        self.ids.remove(text);
    }

    fn has_all(&self) -> bool {
        self.has_all && !self.ids.has_dropped
    }
}

/// The id of a text that is in the table.
pub(super) async fn id_of(db: &mut SqliteConnection, text: &str) -> Result<Option<i64>, sqlx::Error> {
    let list = serde_json::to_string(&[text]).map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query(NAMES_OF_TEXTS).bind(list).fetch_optional(db).await?.map(|row| row.try_get(0)).transpose()
}

/// The ids of one batch: known ones, and new ones that become known when the batch is committed.
#[derive(Debug)]
pub(super) struct BatchNames<'a> {
    known: &'a Interner,
    /// Found in the table while the batch is written.
    found: FxHashMap<Arc<str>, i64>,
    new: BTreeMap<Arc<str>, i64>,
    greatest: i64,
    least: i64,
}

impl<'a> BatchNames<'a> {
    pub(super) fn new(known: &'a Interner) -> Self {
        let (greatest, least) = (known.greatest, known.least);
        Self { known, found: FxHashMap::default(), new: BTreeMap::new(), greatest, least }
    }

    /// The id of a text; `None`: it must be looked up with [`find`](Self::find) first.
    pub(super) fn get(&mut self, text: &str) -> Option<i64> {
        let known = self.known.ids.get(text).or_else(|| self.new.get(text)).or_else(|| self.found.get(text));
        if known.is_none() && self.known.has_all() {
            return Some(self.give(text));
        }
        known.copied()
    }

    /// The id of a text that is known or was looked for.
    pub(super) fn id(&mut self, text: &str) -> i64 {
        self.get(text).unwrap_or_else(|| self.give(text))
    }

    /// The texts that must be looked up.
    pub(super) fn missing<'t>(&mut self, texts: impl Iterator<Item = &'t str>) -> Vec<&'t str> {
        if self.known.has_all() {
            return Vec::new();
        }
        let mut missing: Vec<&str> = texts.filter(|text| self.get(text).is_none()).collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    }

    /// Looks texts up in the table, and assigns new ids to those that are not in it.
    pub(super) async fn find(&mut self, texts: Vec<&str>, db: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let list = serde_json::to_string(&texts).map_err(|error| sqlx::Error::Encode(error.into()))?;
        for row in sqlx::query(NAMES_OF_TEXTS).bind(list).fetch_all(db).await? {
            self.found.insert(row.try_get::<&str, _>(1)?.into(), row.try_get(0)?);
        }
        for text in texts {
            if self.get(text).is_none() {
                self.give(text);
            }
        }
        Ok(())
    }

    fn give(&mut self, text: &str) -> i64 {
        let id = if text.starts_with(MEMORY_ROOT) {
            self.least -= 1;
            self.least
        } else {
            self.greatest += 1;
            self.greatest
        };
        self.new.insert(text.into(), id);
        id
    }

    /// What has to be stored, sorted by text; and what was found.
    pub(super) fn into_parts(self) -> (IdByText, IdByText) {
        (self.new.into_iter().collect(), self.found.into_iter().collect())
    }
}

/// Texts with their ids, sorted by text.
pub(super) type IdByText = Vec<(Arc<str>, i64)>;

/// A text as readers need it: checked once.
#[derive(Debug, Clone)]
pub(super) struct Known {
    topic: Option<Topic>,
    name: Option<Name>,
}

/// The readers' names, by id.
#[derive(Debug)]
pub(super) struct NameTable(Cache<i64, Known>);

impl Default for NameTable {
    fn default() -> Self {
        Self(Cache::new(NAMES_MAX))
    }
}

impl NameTable {
    /// Takes rows of the names table.
    pub(super) fn learn(&mut self, rows: Vec<(i64, String)>) {
        for (id, text) in rows {
            self.0.insert(id, Known { topic: Topic::new(&text).ok(), name: Name::new(&text).ok() });
        }
    }

    /// A topic; or the error that names the id that is not known.
    pub(super) fn topic(&self, id: i64) -> Result<Topic, UnknownName> {
        self.0.get(&id).and_then(|known| known.topic.clone()).ok_or(UnknownName(id))
    }

    /// A name; or the error that names the id that is not known.
    pub(super) fn name(&self, id: i64) -> Result<Name, UnknownName> {
        self.0.get(&id).and_then(|known| known.name.clone()).ok_or(UnknownName(id))
    }
}

/// The id of a name that is not in the cache, or whose text is not what the row says it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnknownName(pub(super) i64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_holds_the_newest_and_at_most_two_generations() {
        let mut cache = Cache::new(3);
        for n in 0_u32..100 {
            cache.insert(n, n * 2);
            assert!(cache.young.len() + cache.old.len() <= 6);
            assert!((n.saturating_sub(2)..=n).all(|n| cache.get(&n) == Some(&(n * 2))), "the newest three are there");
        }
        assert!(cache.get(&1).is_none() && cache.has_dropped);
        cache.remove(&99);
        assert!(cache.get(&99).is_none());
    }
}
