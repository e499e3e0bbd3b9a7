//! The interest index: which subscribers want an event on a topic.
//!
//! Literal filters are looked up in a map. Wildcard filters are grouped by the tokens before their first wildcard, and
//! those of the groups that a topic begins with are matched once per topic; the merged answer is cached, so that in the
//! steady state an event costs one look-up and the members that it reaches. Tens of thousands of members with a
//! wildcard filter each (`to.name.>`) do not slow each other down. Adding or removing a filter forgets exactly the
//! cached topics that it matches. The cache is bounded: when full it is emptied, which costs one new resolution per
//! topic in use and needs no bookkeeping per look-up.
//!
//! Answers are ordered by slot, never by hash, so that delivery order is the same in every run.

use std::{collections::BTreeSet, sync::Arc};

use rustc_hash::FxHashMap;

use crate::{Filter, Topic};

/// The place of a member in its [`Index`]; reused after removal, lowest first.
pub(crate) type Slot = u32;

/// Sorted slots. Where each event has one reader, as in a swarm whose members address each other, the answer lies in the
/// cache itself and is not fetched from anywhere else.
#[derive(Debug, Clone)]
enum Slots {
    One(Slot),
    Any(Arc<[Slot]>),
}

impl Slots {
    fn as_slice(&self) -> &[Slot] {
        match self {
            Self::One(slot) => std::slice::from_ref(slot),
            Self::Any(slots) => slots,
        }
    }
}

/// Members (subscribers or observers), found by what they want.
pub(crate) struct Index<T> {
    /// Members by slot.
    members: Vec<Option<Arc<T>>>,
    /// The empty ones of `members`.
    free: BTreeSet<Slot>,
    /// Filters without wildcards → slots, each sorted and without repeats. No empty lists.
    literals: FxHashMap<Box<str>, Vec<Slot>>,
    /// Filters with wildcards by what is before the first one (`to.name.`), in the order they were added. No empty lists.
    wildcards: FxHashMap<Box<str>, Vec<(Filter, Slot)>>,
    /// Topic → the merged answer. At most `topics_cached_max` entries.
    cached: FxHashMap<Topic, Slots>,
    /// The cached topics, sorted, so that the topics that a filter matches are close together.
    sorted: BTreeSet<Topic>,
    topics_cached_max: usize,
}

impl<T> Index<T> {
    /// An empty index that caches the answers for at most `topics_cached_max` topics (at least one).
    pub(crate) fn new(topics_cached_max: usize) -> Self {
        Self {
            members: Vec::new(),
            free: BTreeSet::new(),
            literals: FxHashMap::default(),
            wildcards: FxHashMap::default(),
            cached: FxHashMap::default(),
            sorted: BTreeSet::new(),
            topics_cached_max: topics_cached_max.max(1),
        }
    }

    /// Adds a member that wants `filters`, in the lowest free slot.
    pub(crate) fn insert(&mut self, member: Arc<T>, filters: &[Filter]) -> Slot {
        let slot = self.free.pop_first().unwrap_or_else(|| {
            self.members.push(None);
            (self.members.len() - 1) as Slot
        });
        self.members[slot as usize] = Some(member);
        for filter in filters {
            if filter.is_literal() {
                let slots = self.literals.entry(filter.as_str().into()).or_default();
                if let Err(place) = slots.binary_search(&slot) {
                    slots.insert(place, slot);
                }
            } else {
                self.wildcards.entry(start_of(filter).into()).or_default().push((filter.clone(), slot));
            }
            self.forget(filter);
        }
        slot
    }

    /// Removes the member in `slot`; `filters` are those it was added with.
    pub(crate) fn remove(&mut self, slot: Slot, filters: &[Filter]) {
        self.members[slot as usize] = None;
        self.free.insert(slot);
        for filter in filters {
            if let Some(wildcards) = self.wildcards.get_mut(start_of(filter)) {
                wildcards.retain(|(_, held)| *held != slot);
                if wildcards.is_empty() {
                    self.wildcards.remove(start_of(filter));
                }
            }
            if let Some(slots) = self.literals.get_mut(filter.as_str()) {
                slots.retain(|held| *held != slot);
                if slots.is_empty() {
                    self.literals.remove(filter.as_str());
                }
            }
            self.forget(filter);
        }
    }

    /// Who wants `topic` (sorted slots), and the members to look the slots up in.
    pub(crate) fn route(&mut self, topic: &Topic) -> Route<'_, T> {
        let known = self.cached.get(topic).cloned();
        Route { slots: known.unwrap_or_else(|| self.resolve(topic)), members: &self.members }
    }

    /// All members, by slot.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Arc<T>> {
        self.members.iter().flatten()
    }

    /// The number of members.
    pub(crate) fn n_members(&self) -> usize {
        self.members.len() - self.free.len()
    }

    /// The number of slots, free ones included.
    pub(crate) fn n_slots(&self) -> usize {
        self.members.len()
    }

    /// The member in `slot`.
    pub(crate) fn member(&self, slot: Slot) -> Option<&Arc<T>> {
        self.members.get(slot as usize).and_then(Option::as_ref)
    }

    #[cold]
    fn resolve(&mut self, topic: &Topic) -> Slots {
        let mut slots = self.literals.get(topic.as_str()).cloned().unwrap_or_default();
        let text = topic.as_str();
        let starts = std::iter::once("").chain(text.match_indices('.').map(|(at, _)| &text[..=at]));
        for wildcards in starts.filter_map(|start| self.wildcards.get(start)) {
            slots.extend(wildcards.iter().filter(|(filter, _)| filter.matches(text)).map(|(_, slot)| *slot));
        }
        slots.sort_unstable();
        slots.dedup();
        if self.cached.len() >= self.topics_cached_max {
            self.cached.clear();
            self.sorted.clear();
        }
        let slots = if let [slot] = slots[..] { Slots::One(slot) } else { Slots::Any(slots.into()) };
        self.cached.insert(topic.clone(), slots.clone());
        self.sorted.insert(topic.clone());
        slots
    }

    fn forget(&mut self, filter: &Filter) {
        if filter.is_literal() {
            self.cached.remove(filter.as_str());
            self.sorted.remove(filter.as_str());
            return;
        }
        let start = start_of(filter);
        let from = (std::ops::Bound::Included(start), std::ops::Bound::Unbounded);
        let begin_so = self.sorted.range::<str, _>(from).take_while(|topic| topic.as_str().starts_with(start));
        let matching: Vec<Topic> = begin_so.filter(|topic| filter.matches(topic.as_str())).cloned().collect();
        for topic in &matching {
            self.cached.remove(topic);
            self.sorted.remove(topic);
        }
    }
}

/// What is before the first wildcard of a filter.
fn start_of(filter: &Filter) -> &str {
    let text = filter.as_str();
    &text[..text.find(['*', '>']).unwrap_or(text.len())]
}

/// The members that want one topic.
pub(crate) struct Route<'a, T> {
    slots: Slots,
    members: &'a [Option<Arc<T>>],
}

impl<'a, T> Route<'a, T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.as_slice().is_empty()
    }

    /// The members with their slots, by slot.
    pub(crate) fn members(&self) -> impl Iterator<Item = (Slot, &'a Arc<T>)> {
        let members = self.members;
        self.slots
            .as_slice()
            .iter()
            .filter_map(move |slot| members[*slot as usize].as_ref().map(|member| (*slot, member)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPICS: [&str; 7] = ["a", "b", "a.b", "a.c", "a.b.c", "b.c", "memory.a.b"];
    const FILTERS: [&str; 9] = ["a", "b", "a.b", "a.*", "*.b", ">", "a.>", "*.*.c", "memory.>"];

    /// Random inserts, removals and look-ups, checked against matching every filter of every member.
    #[test]
    fn the_index_answers_as_matching_every_filter_would() {
        let mut bits = 7_u64;
        let mut draw = move |n: usize| {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (bits >> 33) as usize % n
        };
        for topics_cached_max in [1, 3, 100] {
            let mut index = Index::new(topics_cached_max);
            let mut held: Vec<(Slot, Vec<Filter>)> = Vec::new();
            for round in 0..4_000 {
                match draw(4) {
                    0 if held.len() < 12 => {
                        let n = draw(3) + 1;
                        let filters: Vec<Filter> =
                            (0..n).map(|_| Filter::new(FILTERS[draw(FILTERS.len())]).expect("a filter")).collect();
                        held.push((index.insert(Arc::new(round), &filters), filters));
                    }
                    1 if !held.is_empty() => {
                        let (slot, filters) = held.swap_remove(draw(held.len()));
                        index.remove(slot, &filters);
                    }
                    _ => {
                        let topic = Topic::new(TOPICS[draw(TOPICS.len())]).expect("a topic");
                        let mut expected: Vec<Slot> = held
                            .iter()
                            .filter(|(_, filters)| filters.iter().any(|filter| filter.matches(topic.as_str())))
                            .map(|(slot, _)| *slot)
                            .collect();
                        expected.sort_unstable();
                        assert_eq!(index.route(&topic).slots.as_slice(), expected, "{topic}");
                        assert!(index.cached.len() <= topics_cached_max);
                        assert!(index.cached.len() == index.sorted.len());
                        assert!(index.sorted.iter().all(|topic| index.cached.contains_key(topic)));
                    }
                }
            }
        }
    }

    /// With 50,000 teams, each new topic was once compared with the address filter of every one.
    #[test]
    fn a_topic_is_compared_with_the_filters_that_begin_as_it_does() {
        let mut index = Index::new(8);
        for n in 0..1_000 {
            index.insert(Arc::new(n), &[Filter::new(&format!("to.a{n}.>")).expect("a filter")]);
        }
        index.insert(Arc::new(1_000), &[Filter::new("to.*.x").expect("a filter")]);
        let groups = ["", "to.", "to.a7."].map(|start| index.wildcards.get(start).map_or(0, Vec::len));
        assert_eq!(groups, [0, 1, 1]);
        let topic = Topic::new("to.a7.x").expect("a topic");
        assert_eq!(index.route(&topic).slots.as_slice(), [7, 1_000]);
    }

    #[test]
    fn an_emptied_index_holds_nothing() {
        let mut index = Index::new(8);
        let filters = [Filter::new("a.b").expect("a filter"), Filter::all()];
        let slot = index.insert(Arc::new(()), &filters);
        index.remove(slot, &filters);
        assert!(index.literals.is_empty() && index.wildcards.is_empty());
        assert_eq!(index.members().count(), 0);
    }
}
