//! The ids that an interest matches: the topics and sources that a query compares.
//!
//! The lists are computed from the existing names and are complete up to the highest and lowest id at that time. The
//! query also returns rows of later names, and they are filtered here. The same filter replaces a list that would be
//! too long.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use atra_bus::{Filter, Interest, Seq, topic::MEMORY_ROOT};
use rustc_hash::FxHashMap;
use sqlx::{Connection as _, Executor as _, Row as _, sqlite::SqliteRow};

use super::{
    queries,
    read::{SqliteReader, query},
    topics::{ALL, MEMORY, OTHERS},
};
use crate::{Read as _, StoreError, TopicCounts};

/// Topics in a list. 4,096: above it, filtering each row costs less than the list.
pub(super) const TOPICS_MAX: usize = 4_096;
/// Names that are compared with filters for one list. 65,536: some tens of milliseconds.
pub(super) const COMPARED_MAX: usize = 65_536;

/// The topics and sources that an interest matches, as ids.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Every topic and every source is wanted.
    pub(super) is_all: bool,
    /// JSON arrays of ids.
    pub(super) topics: String,
    pub(super) except: String,
    /// The query also returns topics beyond these; they are filtered afterwards.
    pub(super) greatest: i64,
    pub(super) least: i64,
    /// Sources beyond this are filtered afterwards.
    pub(super) greatest_source: i64,
    /// The lists hold every topic and source that is wanted, up to the ends.
    is_exact: bool,
    /// The one memory topic that is wanted, if nothing else is.
    pub(super) only_key: Option<i64>,
    /// The topics as the topic index has them, a JSON array; `None`: the index does not help.
    pub(super) indexed: Option<String>,
    /// The names hold for events up to here.
    pub(super) as_of: Seq,
    /// A stretch of the journal, (from, upto], that has wanted events.
    pub(super) stretch: Mutex<(Seq, Seq)>,
}

/// Which names a filter has to be compared with.
pub(super) enum Compared {
    /// All topics, or all of memory.
    All { memory: bool, others: bool },
    /// One.
    Text(String),
    /// Those in this range of texts.
    Range(String, String),
}

/// How a filter's topics are found.
pub(super) fn compared(filter: &Filter) -> Compared {
    let text = filter.as_str();
    if filter.is_literal() {
        return Compared::Text(text.to_owned());
    }
    if text == ">" {
        return Compared::All { memory: true, others: true };
    }
    if text == format!("{MEMORY_ROOT}>") {
        return Compared::All { memory: true, others: false };
    }
    let wildcard = text.find(['*', '>']).unwrap_or(text.len());
    let prefix = &text[..wildcard];
    // `.` ends a prefix, and `/` is the next character.
    let end = prefix.strip_suffix('.').map_or_else(|| char::MAX.to_string(), |start| format!("{start}/"));
    Compared::Range(prefix.to_owned(), end)
}

impl Wanted {
    /// Everything from everybody.
    pub(super) fn is_all(interest: &Interest) -> bool {
        interest.except.is_empty() && interest.filters.iter().any(|filter| filter.as_str() == ">")
    }

    /// For an interest in everything.
    pub(super) fn all() -> Self {
        Self::new(&[], &[], (0, 0), Seq::ZERO, (true, true), true)
    }

    /// `topics`: those that are wanted among the names up to `ends`, (greatest, least). `whole`: (memory, others) that
    /// have to be looked at one by one, since they were too many for a list.
    pub(super) fn new(
        topics: &[i64],
        except: &[i64],
        ends: (i64, i64),
        as_of: Seq,
        whole: (bool, bool),
        is_all: bool,
    ) -> Self {
        let (whole_memory, whole_others) = whole;
        let only_key = match *topics {
            [topic] if topic < 0 && !whole_memory && !whole_others && except.is_empty() => Some(topic),
            _ => None,
        };
        let mut indexed: Vec<i64> = topics.iter().copied().filter(|topic| *topic > 0).collect();
        if whole_memory || topics.iter().any(|topic| *topic < 0) {
            indexed.push(MEMORY);
        }
        indexed.push(OTHERS);
        Self {
            is_all,
            topics: json_array(topics),
            except: json_array(except),
            greatest: if whole_others { 0 } else { ends.0 },
            least: if whole_memory { 0 } else { ends.1 },
            greatest_source: ends.0,
            is_exact: !whole_memory && !whole_others,
            only_key,
            indexed: (!whole_others).then(|| json_array(&indexed)),
            as_of,
            stretch: Mutex::default(),
        }
    }
}

fn json_array(ids: &[i64]) -> String {
    let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
    format!("[{}]", ids.join(","))
}

// === computing it ===

/// Seqs that one query scans for wanted events. 65,536: some ten milliseconds.
const LOOKED_THROUGH_MAX: u64 = 65_536;
/// Interests whose numbers are kept. 1,024: above it they are computed again.
const INTERESTS_MAX: usize = 1_024;
/// Unwanted rows of later names in one page, above which the list is computed again.
const FOR_NOTHING_MAX: usize = 256;
/// Names that are read at once.
const NAMES_AT_ONCE: i64 = 4_096;

/// The ids of interests, by their text.
#[derive(Debug, Default)]
pub(super) struct WantedCache(Mutex<FxHashMap<String, Arc<Wanted>>>);

impl WantedCache {
    fn map(&self) -> MutexGuard<'_, FxHashMap<String, Arc<Wanted>>> {
        // A map that is only inserted into and cleared is whole after a panic elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key_of(interest: &Interest) -> String {
    let mut key = String::new();
    for filter in &interest.filters {
        key.push_str(filter.as_str());
        key.push(' ');
    }
    for name in &interest.except {
        key.push('-');
        key.push_str(name.as_str());
    }
    key
}

/// A stretch of the journal: (from, upto].
type Stretch = (Seq, Seq);

impl SqliteReader {
    /// What an interest wants, and where on the way from `after` to `end` to look next: nothing is wanted between `after`
    /// and the stretch.
    pub(super) async fn wanted_after(
        &self,
        interest: &Interest,
        after: Seq,
        end: Seq,
    ) -> Result<(Arc<Wanted>, Stretch), StoreError> {
        let is_near = end.get() - after.get() <= LOOKED_THROUGH_MAX;
        let piece = Seq(after.get().saturating_add(LOOKED_THROUGH_MAX)).min(end);
        let wanted = self.wanted_as_of(interest, if is_near { Seq::ZERO } else { piece }).await?;
        if is_near || wanted.is_all {
            return Ok((wanted, (after, end)));
        }
        let known = *wanted.stretch.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 <= after && after < known.1 {
            return Ok((wanted, (after, end.min(known.1))));
        }
        let Some(indexed) = &wanted.indexed else { return Ok((wanted, (after, piece))) };
        let next = query(queries::NEXT_WANTED).bind(indexed.clone()).bind(seq_of(after));
        let next = self.number(next).await?.map(|seq| Seq(seq as u64));
        let last = self.number(query(queries::LAST_STRETCH)).await?.unwrap_or(0);
        let covered = Seq(last as u64).min(wanted.as_of);
        let stretch = match next.filter(|next| *next <= covered) {
            Some(next) => {
                let before = self.number(query(queries::STRETCH_BEFORE).bind(seq_of(next))).await?.unwrap_or(0);
                let from = Seq(before as u64).max(after);
                *wanted.stretch.lock().unwrap_or_else(PoisonError::into_inner) = (from, next);
                (from.min(end), next.min(end))
            }
            None => {
                let from = covered.max(after).min(end);
                (from, Seq(from.get().saturating_add(LOOKED_THROUGH_MAX)).min(end))
            }
        };
        Ok((wanted, stretch))
    }

    /// What an interest wants, and where to look first on the way back from `last`: nothing is wanted between the stretch
    /// and `last`. A stretch that begins at 0 is the last one.
    pub(super) async fn wanted_before(
        &self,
        interest: &Interest,
        last: Seq,
    ) -> Result<(Arc<Wanted>, Stretch), StoreError> {
        let wanted = self.wanted_as_of(interest, last).await?;
        if wanted.is_all || wanted.only_key.is_some() {
            return Ok((wanted, (Seq::ZERO, last)));
        }
        let piece = |last: Seq| (Seq(last.get().saturating_sub(LOOKED_THROUGH_MAX)), last);
        let Some(indexed) = &wanted.indexed else { return Ok((wanted, piece(last))) };
        let end = self.number(query(queries::LAST_STRETCH)).await?.unwrap_or(0);
        let covered = Seq(end as u64).min(wanted.as_of);
        if last > covered {
            let (from, last) = piece(last);
            return Ok((wanted, (from.max(covered), last)));
        }
        let own = self.number(query(queries::STRETCH_OF).bind(seq_of(last))).await?.unwrap_or(end);
        let found = self.number(query(queries::LAST_WANTED).bind(indexed.clone()).bind(own)).await?;
        let stretch = match found {
            Some(found) => {
                let before = self.number(query(queries::STRETCH_BEFORE).bind(found)).await?.unwrap_or(0);
                (Seq(before as u64), Seq(found as u64).min(last))
            }
            // Events pruned before the index existed are in no stretch; some of them are kept.
            None => {
                let uncounted = self.number(query(queries::UNCOUNTED)).await?.unwrap_or(0);
                piece(last.min(Seq(uncounted as u64)))
            }
        };
        Ok((wanted, stretch))
    }

    /// What an interest wants, as of `seq` at least.
    async fn wanted_as_of(&self, interest: &Interest, seq: Seq) -> Result<Arc<Wanted>, StoreError> {
        if Wanted::is_all(interest) {
            return Ok(Arc::new(Wanted::all()));
        }
        let key = key_of(interest);
        // In a statement of its own: no lock is held while it is computed.
        let known = self.wanted.map().get(&key).cloned();
        if let Some(known) = known.filter(|known| known.as_of >= seq) {
            return Ok(known);
        }
        let wanted = Arc::new(self.compute(interest).await?);
        let mut map = self.wanted.map();
        if map.len() >= INTERESTS_MAX {
            map.clear();
        }
        map.insert(key, Arc::clone(&wanted));
        Ok(wanted)
    }

    /// Drops a list that is too imprecise: `n_rows` rows of a page were not wanted.
    pub(super) fn forget_if_stale(&self, interest: &Interest, wanted: &Wanted, n_rows: usize) {
        // If every row is filtered anyway, a new list would not help.
        if n_rows > FOR_NOTHING_MAX && wanted.is_exact {
            self.wanted.map().remove(&key_of(interest));
        }
    }

    async fn compute(&self, interest: &Interest) -> Result<Wanted, StoreError> {
        // In this order: every event up to `as_of` has names within the ends.
        let as_of = self.last_seq().await?;
        let ends = self.rows(query(queries::NAMES_ENDS), |row, _| Ok((row.try_get(0)?, row.try_get(1)?))).await?;
        let ends: (i64, i64) = ends.first().copied().unwrap_or_default();
        let (mut topics, mut texts) = (BTreeSet::new(), BTreeSet::new());
        let (mut whole, mut n_left) = ((false, false), COMPARED_MAX);
        for filter in &interest.filters {
            match compared(filter) {
                Compared::Text(text) => _ = texts.insert(text),
                Compared::All { memory, others } => whole = (whole.0 || memory, whole.1 || others),
                Compared::Range(from, end) => {
                    let is_memory = from.starts_with(MEMORY_ROOT);
                    let may_be_memory = MEMORY_ROOT.starts_with(from.as_str()) || is_memory;
                    if !self.compare(filter, from, &end, &mut n_left, &mut topics).await? {
                        whole = (whole.0 || may_be_memory, whole.1 || !is_memory);
                    }
                }
            }
        }
        topics.extend(self.ids_of(texts).await?);
        if topics.len() > TOPICS_MAX {
            whole = (whole.0 || topics.iter().any(|id| *id < 0), whole.1 || topics.iter().any(|id| *id > 0));
            topics.clear();
        }
        let except = interest.except.iter().map(|name| name.as_str().to_owned()).collect();
        let except = self.ids_of(except).await?;
        Ok(Wanted::new(&topics.into_iter().collect::<Vec<_>>(), &except, ends, as_of, whole, false))
    }

    async fn ids_of(&self, texts: BTreeSet<String>) -> Result<Vec<i64>, StoreError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let list = serde_json::to_string(&texts).map_err(|error| StoreError::Invalid(error.to_string()))?;
        self.rows(query(queries::NAMES_OF_TEXTS).bind(list), |row, _| Ok(row.try_get(0)?)).await
    }

    /// Adds the topics that a filter wants of those with texts from `from` to `end`; `false`: there are too many.
    async fn compare(
        &self,
        filter: &Filter,
        mut from: String,
        end: &str,
        n_left: &mut usize,
        topics: &mut BTreeSet<i64>,
    ) -> Result<bool, StoreError> {
        loop {
            let page = query(queries::NAMES_IN_RANGE).bind(from).bind(end.to_owned()).bind(NAMES_AT_ONCE);
            let rows = self.rows(page, |row, _| Ok((row.try_get::<i64, _>(0)?, row.try_get::<String, _>(1)?))).await?;
            topics.extend(rows.iter().filter(|(_, text)| filter.matches(text)).map(|(id, _)| *id));
            let Some((_, last)) = rows.last().filter(|_| rows.len() as i64 == NAMES_AT_ONCE) else { return Ok(true) };
            *n_left = n_left.saturating_sub(rows.len());
            if *n_left == 0 || topics.len() > TOPICS_MAX {
                return Ok(false);
            }
            // The smallest text that is greater.
            from = format!("{last}\0");
        }
    }

    /// How many events each topic has had.
    pub(super) async fn topic_counts(&self) -> Result<TopicCounts, StoreError> {
        let (after, counts) = self.counts_by_topic().await.map_err(|error| self.class(&error))?;
        self.learn(counts.keys().copied().filter(|topic| *topic > 0)).await?;
        let mut topics = Vec::with_capacity(counts.len());
        for (topic, n_events) in counts {
            let text = match topic {
                ALL => continue,
                MEMORY => TopicCounts::MEMORY.to_owned(),
                OTHERS => TopicCounts::OTHERS.to_owned(),
                id => {
                    let topic = self.with_names(|names| names.topic(id));
                    topic.map_err(|error| self.row_error(error.into()))?.as_str().to_owned()
                }
            };
            topics.push((text, n_events));
        }
        topics.sort();
        Ok(TopicCounts { topics, after })
    }

    /// How many events each topic has had, by its id, and up to where they were not counted.
    pub(super) async fn counts_by_topic(&self) -> Result<(Seq, BTreeMap<i64, u64>), sqlx::Error> {
        let mut db = self.acquire().await?;
        // One transaction: a stretch may be ending.
        let mut read = db.begin().await?;
        let number = |row: SqliteRow| row.try_get::<Option<i64>, _>(0);
        let last = number(read.fetch_one(queries::LAST_SEQ).await?)?.unwrap_or(0);
        let upto = number(read.fetch_one(queries::LAST_STRETCH).await?)?.unwrap_or(0);
        let after = number(read.fetch_one(queries::UNCOUNTED).await?)?.unwrap_or(0);
        let mut counts = BTreeMap::new();
        if (last - upto) as u64 > 4 * LOOKED_THROUGH_MAX {
            // A file of an older version that no runtime of this one has opened.
            read.rollback().await?;
            db.finish();
            return Ok((Seq(last as u64), counts));
        }
        for row in read.fetch_all(queries::TOPIC_TOTALS).await? {
            counts.insert(row.try_get(0)?, row.try_get::<i64, _>(1)? as u64);
        }
        let is_full = counts.contains_key(&OTHERS);
        for row in read.fetch_all(sqlx::query(queries::COUNT_TOPICS).bind(upto).bind(last)).await? {
            let topic = row.try_get(0)?;
            let counted = if is_full && !counts.contains_key(&topic) { OTHERS } else { topic };
            *counts.entry(counted).or_insert(0) += row.try_get::<i64, _>(1)? as u64;
        }
        read.rollback().await?;
        db.finish();
        Ok((Seq(after as u64), counts))
    }
}

fn seq_of(seq: Seq) -> i64 {
    i64::try_from(seq.get()).unwrap_or(i64::MAX)
}
