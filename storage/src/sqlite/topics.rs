//! The topic index: which stretches of the journal have events on a topic, and how many events each topic has had.
//!
//! The journal is cut into stretches of some [`STRETCH`] events. For each stretch and each topic in it there is a row with
//! the number of events on the topic up to the stretch's end, since counting began. So the newest row of a topic has
//! its total, including pruned events, and its rows show where its events are. An index of single events would slow
//! every commit; this index costs one row per topic and stretch, in the transaction of the batch that ends the stretch.
//! Events after the last stretch are counted in the journal itself.

use std::collections::{BTreeMap, BTreeSet};

use atra_bus::{Seq, Topic};
use rustc_hash::FxHashMap;
use sqlx::{Executor as _, Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    prune::floor,
    queries::{
        BEGIN, COMMIT, COUNT_TOPICS, INSERT_TOPIC, LAST_SEQ, LAST_STRETCH, NAMES_OF_IDS, STRETCH_AFTER, STRETCH_OF,
        TOPIC_AT, TOPIC_TOTALS,
    },
};

/// Events in a stretch, not counting the excess of its last batch. 16,384: read in some milliseconds.
pub(super) const STRETCH: u64 = 16_384;

/// Topics that are counted separately. 1,024: more than a person reads; also the limit of rows per stretch.
const TOPICS_MAX: usize = 1_024;

/// Stands for every event.
pub(super) const ALL: i64 = 0;
/// Stands for all writes of memory, each of which has a topic of its own.
pub(super) const MEMORY: i64 = -1;
/// Stands for all topics beyond the first [`TOPICS_MAX`].
pub(super) const OTHERS: i64 = -2;

/// Events by topic, for some seqs. Most come in runs of one topic.
#[derive(Debug, Default)]
pub(super) struct Tally {
    topic: i64,
    n_events: u64,
    counts: FxHashMap<i64, u64>,
}

impl Tally {
    pub(super) fn add(&mut self, topic: i64) {
        self.add_many(topic, 1);
    }

    fn add_many(&mut self, topic: i64, n_events: u64) {
        let topic = if topic < 0 { MEMORY } else { topic };
        if topic != self.topic {
            self.flush();
            self.topic = topic;
        }
        self.n_events += n_events;
    }

    fn flush(&mut self) {
        if self.n_events > 0 {
            *self.counts.entry(self.topic).or_insert(0) += std::mem::take(&mut self.n_events);
        }
    }

    fn finish(mut self) -> FxHashMap<i64, u64> {
        self.flush();
        self.counts
    }
}

/// What the writer knows of the index. Changed only after a transaction is committed.
#[derive(Debug, Default)]
pub(super) struct Topics {
    /// The newest row of each topic.
    totals: FxHashMap<i64, u64>,
    /// Events after the last stretch, by topic.
    since: FxHashMap<i64, u64>,
    /// The end of the last stretch.
    upto: Seq,
    /// The last event that was counted.
    last: Seq,
}

/// A row: topic, end of the stretch, events up to there.
pub(super) type TopicRow = (i64, i64, i64);

/// A stretch that a batch ends.
#[derive(Debug)]
pub(super) struct Ended {
    upto: Seq,
    /// Sorted by topic.
    pub(super) rows: Vec<TopicRow>,
}

impl Topics {
    /// Reads the index, adds missing stretches (all of them in a file of an older version), and counts the remaining
    /// events. Each stretch is a transaction.
    pub(super) async fn load(db: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let mut topics = Self::default();
        let last: i64 = db.fetch_one(LAST_SEQ).await?.try_get(0)?;
        let floor = floor(db).await?;
        match db.fetch_one(LAST_STRETCH).await?.try_get::<Option<i64>, _>(0)? {
            Some(upto) => topics.upto = Seq(upto as u64),
            // Events pruned earlier can no longer be counted.
            None if floor > Seq::ZERO => {
                topics.upto = floor;
                insert(db, &[(ALL, floor.get() as i64, 0)]).await?;
            }
            None => {}
        }
        for row in db.fetch_all(TOPIC_TOTALS).await? {
            topics.totals.insert(row.try_get(0)?, row.try_get::<i64, _>(1)? as u64);
        }
        let (last, mut told) = (Seq(last as u64), false);
        while last.get() - topics.upto.get() >= STRETCH {
            if !std::mem::replace(&mut told, true) && last.get() - topics.upto.get() > 64 * STRETCH {
                tracing::info!(after = %topics.upto, upto = %last, "topics of the journal are being indexed, once");
            }
            let upto = Seq(topics.upto.get() + STRETCH);
            let tally = count(db, topics.upto, upto).await?;
            let ended = topics.end(upto, tally);
            db.execute(BEGIN).await?;
            insert(db, &ended.rows).await?;
            db.execute(COMMIT).await?;
            topics.ended(ended);
        }
        topics.since = count(db, topics.upto, last).await?.finish();
        topics.last = last;
        Ok(topics)
    }

    /// Up to where each topic has events: topics, memory, and the last event of all. `None`: there are topics that are
    /// not counted by themselves.
    pub(super) async fn newest(
        &self,
        db: &mut SqliteConnection,
    ) -> Result<Option<(BTreeMap<Topic, Seq>, Seq, Seq)>, sqlx::Error> {
        if self.totals.contains_key(&OTHERS) {
            return Ok(None);
        }
        let (mut topics, mut memory) = (BTreeMap::new(), Seq::ZERO);
        let ids: BTreeSet<i64> = self.totals.keys().chain(self.since.keys()).copied().collect();
        let mut list = Vec::new();
        for topic in ids {
            let end = if self.since.contains_key(&topic) {
                self.last
            } else {
                newest(db, topic, self.upto).await?.0.unwrap_or(self.last)
            };
            match topic {
                ALL => {}
                MEMORY => memory = end,
                topic => list.push((topic, end)),
            }
        }
        let texts = serde_json::to_string(&list.iter().map(|(topic, _)| topic).collect::<Vec<_>>());
        let texts = texts.map_err(|error| sqlx::Error::Encode(error.into()))?;
        for row in sqlx::query(NAMES_OF_IDS).bind(texts).fetch_all(db).await? {
            let (id, text): (i64, &str) = (row.try_get(0)?, row.try_get(1)?);
            let end = list.binary_search_by_key(&id, |(topic, _)| *topic).ok().map(|at| list[at].1);
            if let (Some(end), Ok(topic)) = (end, Topic::new(text)) {
                topics.insert(topic, end);
            }
        }
        Ok((topics.len() == list.len()).then_some((topics, memory, self.last)))
    }

    /// The rows that a batch has to write if it ends a stretch.
    pub(super) fn ends(&self, last: Seq, tally: &Tally) -> Option<Ended> {
        if last.get().saturating_sub(self.upto.get()) < STRETCH {
            return None;
        }
        let mut all = Tally { topic: tally.topic, n_events: tally.n_events, counts: tally.counts.clone() };
        self.since.iter().for_each(|(topic, n)| all.add_many(*topic, *n));
        Some(self.end(last, all))
    }

    fn end(&self, upto: Seq, tally: Tally) -> Ended {
        let mut counts = tally.finish();
        counts.insert(ALL, counts.values().sum());
        let mut new: Vec<(i64, u64)> = counts.into_iter().collect();
        // The first topics of a journal are counted separately, so the order matters.
        new.sort_unstable();
        let n_known = self.totals.keys().filter(|topic| **topic > 0).count();
        let (mut n_new, mut n_others) = (0, 0);
        let mut rows: Vec<TopicRow> = Vec::with_capacity(new.len() + 1);
        for (topic, n) in new {
            let before = self.totals.get(&topic).copied();
            if topic > 0 && before.is_none() {
                if n_known + n_new >= TOPICS_MAX {
                    n_others += n;
                    continue;
                }
                n_new += 1;
            }
            rows.push((topic, upto.get() as i64, (before.unwrap_or(0) + n) as i64));
        }
        if n_others > 0 {
            let before = self.totals.get(&OTHERS).copied().unwrap_or(0);
            rows.insert(0, (OTHERS, upto.get() as i64, (before + n_others) as i64));
        }
        Ended { upto, rows }
    }

    /// Ends a stretch early if the journal is about to be pruned up to `floor` and some of those events are in no
    /// stretch yet, since pruned events cannot be counted again.
    pub(super) fn ends_before_pruning(&self, floor: Seq) -> Option<Ended> {
        (floor > self.upto).then(|| self.end(self.last, Tally { counts: self.since.clone(), ..Tally::default() }))
    }

    /// A batch is committed that ended no stretch.
    pub(super) fn add(&mut self, tally: Tally, last: Seq) {
        self.last = last;
        tally.finish().into_iter().for_each(|(topic, n)| *self.since.entry(topic).or_insert(0) += n);
    }

    /// A stretch is committed.
    pub(super) fn ended(&mut self, ended: Ended) {
        (self.upto, self.last) = (ended.upto, self.last.max(ended.upto));
        self.since.clear();
        self.totals.extend(ended.rows.into_iter().map(|(topic, _, n)| (topic, n as u64)));
    }
}

/// Compares the index with the journal above `floor`, since readers rely on it. Returns the problem of the first
/// stretch that differs.
pub(super) async fn check(db: &mut SqliteConnection, floor: Seq) -> Result<Option<String>, sqlx::Error> {
    let end = |row: SqliteRow| row.try_get::<Option<i64>, _>(0).map(|end| end.map(|end| Seq(end as u64)));
    // The rest of a partly pruned stretch cannot be compared.
    let first = match end(sqlx::query(STRETCH_OF).bind(floor.get() as i64).fetch_one(&mut *db).await?)? {
        Some(first) if floor > Seq::ZERO => first,
        _ => Seq::ZERO,
    };
    let mut after = first;
    while let Some(upto) = end(sqlx::query(STRETCH_AFTER).bind(after.get() as i64).fetch_one(&mut *db).await?)? {
        let mut n_others = 0;
        for (topic, n) in count(db, after, upto).await?.finish() {
            let (end, total) = newest(db, topic, upto).await?;
            match end {
                None => n_others += n,
                Some(end) if end == upto && total == newest(db, topic, after).await?.1 + n => {}
                Some(_) => return Ok(Some(differs(after, upto))),
            }
        }
        if n_others > 0 && newest(db, OTHERS, after).await?.1 + n_others != newest(db, OTHERS, upto).await?.1 {
            return Ok(Some(differs(after, upto)));
        }
        after = upto;
    }
    Ok(None)
}

fn differs(after: Seq, upto: Seq) -> String {
    format!("table topic_index: it differs from the journal between seqs {} and {upto}", after.next())
}

/// The end of the last stretch up to `upto` that has a topic, and the topic's total there.
async fn newest(db: &mut SqliteConnection, topic: i64, upto: Seq) -> Result<(Option<Seq>, u64), sqlx::Error> {
    let query = sqlx::query(TOPIC_AT).bind(topic).bind(upto.get() as i64);
    let Some(row) = query.fetch_optional(db).await? else { return Ok((None, 0)) };
    Ok((Some(Seq(row.try_get::<i64, _>(0)? as u64)), row.try_get::<i64, _>(1)? as u64))
}

/// How many events each topic has in (`after`, `upto`].
async fn count(db: &mut SqliteConnection, after: Seq, upto: Seq) -> Result<Tally, sqlx::Error> {
    let mut tally = Tally::default();
    let query = sqlx::query(COUNT_TOPICS).bind(after.get() as i64).bind(upto.get() as i64);
    for row in query.fetch_all(db).await? {
        tally.add_many(row.try_get(0)?, row.try_get::<i64, _>(1)? as u64);
    }
    Ok(tally)
}

pub(super) async fn insert(db: &mut SqliteConnection, rows: &[TopicRow]) -> Result<(), sqlx::Error> {
    for (topic, upto, n) in rows {
        sqlx::query(INSERT_TOPIC).bind(topic).bind(upto).bind(n).execute(&mut *db).await?;
    }
    Ok(())
}
