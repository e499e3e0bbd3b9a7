//! The newest seq of each topic, in memory: readers in the writer's process use it instead of a query.
//!
//! Without it, tens of thousands of subscriptions that are behind, as after a start with as many teams, would each
//! search the newest events for topics that have none. Here they learn that there are no events.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use atra_bus::{Filter, Interest, Seq, Topic, topic::MEMORY_ROOT};
use rustc_hash::FxHashMap;

/// The most topics. 65,536: some megabytes. With more, nothing is known.
const TOPICS_MAX: usize = 65_536;

/// Shared by the writer and its reader.
#[derive(Debug, Default)]
pub(super) struct Newest(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The last seq of the last batch, or the end of the last stretch, that has the topic: at least its newest event's.
    topics: BTreeMap<Topic, Seq>,
    /// The same of memory.
    memory: Seq,
    /// What is known holds for events up to here; `None`: nothing is known.
    upto: Option<Seq>,
}

/// The topics of a batch.
#[derive(Debug, Default)]
pub(super) struct Seen {
    last: i64,
    topics: FxHashMap<i64, Topic>,
    has_memory: bool,
}

impl Seen {
    pub(super) fn add(&mut self, id: i64, topic: &Topic) {
        if id == self.last {
            return;
        }
        self.last = id;
        if id < 0 {
            self.has_memory = true;
        } else {
            self.topics.entry(id).or_insert_with(|| topic.clone());
        }
    }
}

impl Newest {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change leaves it whole, so a panic elsewhere does not matter.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins with what the index says; `None`: nothing is known.
    pub(super) fn begin(&self, known: Option<(BTreeMap<Topic, Seq>, Seq, Seq)>) {
        let known = known.filter(|(topics, ..)| topics.len() <= TOPICS_MAX);
        *self.state() = match known {
            Some((topics, memory, upto)) => State { topics, memory, upto: Some(upto) },
            None => State::default(),
        };
    }

    /// A batch is committed, up to `last`.
    pub(super) fn add(&self, seen: Seen, last: Seq) {
        let mut state = self.state();
        if state.upto.is_none() {
            return;
        }
        if seen.has_memory {
            state.memory = last;
        }
        for topic in seen.topics.into_values() {
            state.topics.insert(topic, last);
        }
        state.upto = Some(last).filter(|_| state.topics.len() <= TOPICS_MAX);
    }

    /// If nothing is wanted between `after` and some later seq: that seq.
    pub(super) fn nothing_until(&self, interest: &Interest, after: Seq) -> Option<Seq> {
        let state = self.state();
        let upto = state.upto.filter(|upto| *upto > after)?;
        let may_have = |filter: &Filter| {
            let text = filter.as_str();
            let start = &text[..text.find(['*', '>']).unwrap_or(text.len())];
            let is_memory = MEMORY_ROOT.starts_with(start) || start.starts_with(MEMORY_ROOT);
            if is_memory && state.memory > after {
                return true;
            }
            if filter.is_literal() {
                return state.topics.get(text).is_some_and(|newest| *newest > after);
            }
            let from = (Bound::Included(start), Bound::Unbounded);
            let begin_so =
                state.topics.range::<str, _>(from).take_while(|(topic, _)| topic.as_str().starts_with(start));
            begin_so.into_iter().any(|(topic, newest)| *newest > after && filter.matches(topic.as_str()))
        };
        (!interest.filters.iter().any(may_have)).then_some(upto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(topics: &[(i64, &'static str)]) -> Seen {
        let mut seen = Seen::default();
        topics.iter().for_each(|(id, topic)| seen.add(*id, &Topic::literal(topic)));
        seen
    }

    #[test]
    fn it_says_that_nothing_is_there_only_where_nothing_is() {
        let newest = Newest::default();
        let until = |filters: &[&str], after: u64| {
            let filters = filters.iter().map(|text| Filter::new(text).expect("a filter")).collect();
            newest.nothing_until(&Interest::in_topics(filters), Seq(after)).map(Seq::get)
        };
        assert_eq!(until(&["a"], 0), None, "nothing is known");
        newest.begin(Some((BTreeMap::from([(Topic::literal("old.a"), Seq(5))]), Seq(3), Seq(10))));
        newest.add(seen(&[(1, "job.1.x"), (2, "job.2.x")]), Seq(12));
        newest.add(seen(&[(-1, "memory.k"), (3, "job")]), Seq(14));
        for (filters, after, expected) in [
            (["old.a", "old.b"], 5, Some(14)),
            (["old.a", "old.b"], 4, None),
            (["job.3.*", "to.me.>"], 0, Some(14)),
            (["job.2.*", "to.me.>"], 11, None),
            (["job.2.*", "to.me.>"], 12, Some(14)),
            (["*.2.x", "to.me.>"], 11, None),
            (["memory.k", "x"], 13, None),
            (["memory.>", "x"], 13, None),
            ([">", "x"], 13, None),
            (["job", "x"], 13, None),
            (["job.>", "x"], 13, Some(14)),
            (["x", "y"], 14, None),
        ] {
            assert_eq!(until(&filters, after), expected, "{filters:?} after {after}");
        }
        newest.begin(None);
        assert_eq!(until(&["x"], 0), None);
    }
}
