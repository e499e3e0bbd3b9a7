//! Interned texts: topics, agents, callers, teams and series are stored as numbers.
//!
//! Ids grow away from zero without gaps: topics of memory writes downwards from −1, all others upwards
//! from 1. So what is new is what lies beyond the ends that are known.

use std::{collections::BTreeMap, sync::Arc};

use atra_bus::{Interest, Name, Topic, topic::MEMORY_ROOT};
use rustc_hash::FxHashMap;

/// The writer's map. Changed only after the transaction that stored the new names.
#[derive(Debug, Default)]
pub(super) struct Interner {
    ids: FxHashMap<Arc<str>, i64>,
    /// The greatest id given, and the least.
    greatest: i64,
    least: i64,
}

impl Interner {
    pub(super) fn get(&self, text: &str) -> Option<i64> {
        self.ids.get(text).copied()
    }

    pub(super) fn learn(&mut self, text: &str, id: i64) {
        self.ids.insert(text.into(), id);
        self.greatest = self.greatest.max(id);
        self.least = self.least.min(id);
    }
}

/// The ids of one batch: known ones, and new ones that become known when the batch is committed.
#[derive(Debug)]
pub(super) struct BatchNames<'a> {
    known: &'a Interner,
    new: BTreeMap<Arc<str>, i64>,
    greatest: i64,
    least: i64,
}

impl<'a> BatchNames<'a> {
    pub(super) fn new(known: &'a Interner) -> Self {
        Self { known, new: BTreeMap::new(), greatest: known.greatest, least: known.least }
    }

    pub(super) fn id(&mut self, text: &str) -> i64 {
        if let Some(id) = self.known.ids.get(text).or_else(|| self.new.get(text)) {
            return *id;
        }
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

    /// What has to be stored, sorted by text.
    pub(super) fn into_new(self) -> Vec<(Arc<str>, i64)> {
        self.new.into_iter().collect()
    }
}

/// A text as readers need it: checked once.
#[derive(Debug, Clone)]
struct Known {
    topic: Option<Topic>,
    name: Option<Name>,
}

/// The readers' map, by id.
#[derive(Debug, Default)]
pub(super) struct NameTable {
    /// Id n at index n − 1.
    upwards: Vec<Known>,
    /// Id −n at index n − 1.
    downwards: Vec<Known>,
}

/// The topics and sources that an interest means, as ids, for what is known now.
#[derive(Debug)]
pub(super) struct Wanted {
    /// JSON arrays of ids.
    pub(super) topics: String,
    pub(super) except: String,
    pub(super) greatest: i64,
    pub(super) least: i64,
    /// Every topic and every source is wanted.
    pub(super) is_all: bool,
}

impl NameTable {
    /// The ends of what is known: (greatest, least) id.
    pub(super) fn ends(&self) -> (i64, i64) {
        (self.upwards.len() as i64, -(self.downwards.len() as i64))
    }

    /// Takes rows of the names table, in any order; known ones are skipped.
    pub(super) fn learn(&mut self, mut rows: Vec<(i64, String)>) {
        rows.sort_by_key(|(id, _)| id.abs());
        for (id, text) in rows {
            let known = Known { topic: Topic::new(&text).ok(), name: Name::new(&text).ok() };
            let (side, index) = self.place(id);
            // A gap would be a damaged file; the missing name is reported when it is asked for.
            if index == side.len() {
                side.push(known);
            }
        }
    }

    fn place(&mut self, id: i64) -> (&mut Vec<Known>, usize) {
        let index = (id.unsigned_abs() as usize).wrapping_sub(1);
        if id > 0 { (&mut self.upwards, index) } else { (&mut self.downwards, index) }
    }

    fn get(&self, id: i64) -> Option<&Known> {
        let side = if id > 0 { &self.upwards } else { &self.downwards };
        side.get((id.unsigned_abs() as usize).wrapping_sub(1))
    }

    pub(super) fn topic(&self, id: i64) -> Option<Topic> {
        self.get(id)?.topic.clone()
    }

    pub(super) fn name(&self, id: i64) -> Option<Name> {
        self.get(id)?.name.clone()
    }

    pub(super) fn wanted(&self, interest: &Interest) -> Wanted {
        let is_all = interest.except.is_empty() && interest.filters.iter().any(|filter| filter.as_str() == ">");
        let (greatest, least) = self.ends();
        let mut wanted = Wanted { topics: "[]".into(), except: "[]".into(), greatest, least, is_all };
        if !is_all {
            let ids = (1..=greatest).chain((1..=-least).map(|id| -id));
            let matches = |id: &i64| {
                self.get(*id)
                    .and_then(|known| known.topic.as_ref())
                    .is_some_and(|topic| interest.filters.iter().any(|filter| filter.matches(topic.as_str())))
            };
            wanted.topics = json_array(ids.filter(matches));
            let excepted = |id: &i64| {
                self.get(*id).and_then(|known| known.name.as_ref()).is_some_and(|name| interest.except.contains(name))
            };
            wanted.except = json_array((1..=greatest).filter(excepted));
        }
        wanted
    }
}

fn json_array(ids: impl Iterator<Item = i64>) -> String {
    let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
    format!("[{}]", ids.join(","))
}
