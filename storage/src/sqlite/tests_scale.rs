//! Work that must not grow with the journal, or with the names that were ever used: told by what is asked, never by time.

use std::collections::BTreeMap;

use atra_bus::{Committed, Filter, Interest, Name, Seq};
use sqlx::{Executor as _, Row as _};

use super::{
    SqliteReader, SqliteStore, check,
    tests::{Folder, events},
    topics::STRETCH,
};
use crate::{Read, Store as _, TopicCounts, WriteBatch, conformance::event, digest};

/// Events of a large batch.
const BATCH: u64 = 4_096;

fn interest(filters: &[&str]) -> Interest {
    Interest::in_topics(filters.iter().map(|text| Filter::new(text).expect("a filter")).collect())
}

/// Writes up to `last` on `topic`.
async fn fill(store: &mut SqliteStore, topic: &str, last: u64) {
    let mut at = store.reader().last_seq().await.expect("a seq").get();
    while at < last {
        let upto = last.min(at + BATCH);
        store.commit(&events(at + 1..=upto, topic)).await.expect("committed");
        at = upto;
    }
}

/// How many calls look through a whole journal backwards, and the seqs that they find, newest first.
async fn back(reader: &dyn Read, filters: &[&str]) -> (usize, Vec<u64>) {
    let (mut before, mut n_calls, mut found) = (Seq(u64::MAX), 0, Vec::new());
    while before > Seq(1) {
        let (page, after) = reader.journal_before(before, &interest(filters), 10_000).await.expect("a page");
        found.extend(page.iter().rev().map(|event| event.seq.get()));
        assert!(after < before);
        (before, n_calls) = (after.next(), n_calls + 1);
    }
    (n_calls, found)
}

/// The same forward, as a subscription that is far behind reads.
async fn forward(reader: &dyn Read, filters: &[&str], last: Seq) -> (usize, Vec<u64>) {
    let (mut at, mut n_calls, mut found) = (Seq::ZERO, 0, Vec::new());
    while at < last {
        let (page, upto) = reader.journal(at, last, &interest(filters), 10_000).await.expect("a page");
        found.extend(page.iter().map(|event| event.seq.get()));
        assert!(upto > at, "it gets on");
        (at, n_calls) = (upto, n_calls + 1);
    }
    (n_calls, found)
}

async fn counted(reader: &dyn Read) -> BTreeMap<String, u64> {
    let counts = reader.topic_counts().await.expect("counts");
    assert_eq!(counts.after, Seq::ZERO);
    counts.topics.into_iter().collect()
}

/// A tail of a topic without events once looked through the whole journal, and so did a status and a start.
#[tokio::test]
async fn rare_topics_are_found_and_counted_without_looking_through_the_journal() {
    let folder = Folder::new();
    let mut store = folder.store().await;
    let rare = [3 * STRETCH + 5, 3 * STRETCH + 6, 9 * STRETCH];
    for seq in rare {
        fill(&mut store, "often.a", seq - 1).await;
        store.commit(&events(seq..=seq, "rare.b")).await.expect("committed");
    }
    let last = 14 * STRETCH + 77;
    fill(&mut store, "often.a", last).await;
    let expected = BTreeMap::from([("often.a".to_owned(), last - 3), ("rare.b".to_owned(), 3)]);
    for is_reopened in [false, true] {
        if is_reopened {
            store.close().await.expect("closed");
            store = folder.store().await;
        }
        let reader = store.reader();
        assert_eq!(counted(&*reader).await, expected);
        for filters in [["rare.b"], ["rare.*"]] {
            let (n_calls, found) = back(&*reader, &filters).await;
            assert_eq!(found, [rare[2], rare[1], rare[0]], "{filters:?}");
            assert!(n_calls <= 4, "{n_calls} calls: the end, and a stretch for each place");
            let (n_calls, found) = forward(&*reader, &filters, Seq(last)).await;
            assert_eq!(found, rare, "{filters:?}");
            // The last 65,536 events are read as they are.
            assert!(n_calls <= 5, "{n_calls} calls");
        }
        let (n_calls, found) = back(&*reader, &["never.>"]).await;
        assert!(n_calls <= 2 && found.is_empty(), "{n_calls} calls");
        assert_eq!(back(&*reader, &["often.a"]).await.1.len() as u64, last - 3);
    }
}

/// A topic that is new after an interest was looked at is found all the same, however far behind the reader is.
#[tokio::test]
async fn a_new_topic_is_not_skipped_by_who_looked_before_it_came() {
    let folder = Folder::new();
    let mut store = folder.store().await;
    fill(&mut store, "often.a", 6 * STRETCH).await;
    let reader = store.reader();
    let wanted = ["rare.*", "memory.*"];
    assert!(forward(&*reader, &wanted, Seq(6 * STRETCH)).await.1.is_empty());
    assert!(back(&*reader, &wanted).await.1.is_empty());
    let new = [("rare.new", 7 * STRETCH), ("memory.new", 8 * STRETCH), ("rare.newer", 12 * STRETCH)];
    for (topic, seq) in new {
        fill(&mut store, "often.a", seq - 1).await;
        store.commit(&events(seq..=seq, topic)).await.expect("committed");
    }
    fill(&mut store, "often.a", 20 * STRETCH).await;
    let expected: Vec<u64> = new.iter().map(|(_, seq)| *seq).collect();
    assert_eq!(forward(&*reader, &wanted, Seq(20 * STRETCH)).await.1, expected);
    assert_eq!(back(&*reader, &wanted).await.1.into_iter().rev().collect::<Vec<_>>(), expected);
    assert_eq!(back(&*reader, &["memory.new"]).await.0, 1, "a key has an index of its own");
}

/// A file of an older version, or a runtime that was killed, lacks stretches.
#[tokio::test]
async fn what_the_index_lacks_is_added_when_the_file_is_loaded() {
    let folder = Folder::new();
    let mut store = folder.store().await;
    fill(&mut store, "often.a", 2 * STRETCH).await;
    store.commit(&events(2 * STRETCH + 1..=2 * STRETCH + 1, "rare.b")).await.expect("committed");
    fill(&mut store, "often.a", 20 * STRETCH + 9).await;
    let expected = counted(&*store.reader()).await;
    store.close().await.expect("closed");
    let mut db = folder.raw().await;
    db.execute("DELETE FROM topic_index").await.expect("deleted");
    let reader = SqliteReader::open_read_only(folder.db()).await.expect("opened");
    let unknown = reader.topic_counts().await.expect("counts");
    assert_eq!(unknown, TopicCounts { topics: Vec::new(), after: Seq(20 * STRETCH + 9) }, "nothing is counted by hand");
    let (n_calls, found) = back(&*reader, &["rare.b"]).await;
    assert_eq!(found, [2 * STRETCH + 1]);
    assert_eq!(n_calls as u64, (20 * STRETCH).div_ceil(65_536) + 1, "each call looks through 65,536 events");
    let store = folder.store().await;
    assert_eq!(counted(&*store.reader()).await, expected);
    assert!(back(&*store.reader(), &["rare.b"]).await.0 <= 3);
    let ends = db.fetch_all("SELECT upto FROM topic_index WHERE topic = 0").await.expect("rows");
    assert_eq!(ends.len(), 20);
}

/// A reader does not look where the index says that there is nothing.
#[tokio::test]
async fn a_check_compares_the_index_with_the_journal() {
    let folder = Folder::new();
    let mut store = folder.store().await;
    fill(&mut store, "often.a", STRETCH + 5).await;
    store.commit(&events(STRETCH + 6..=STRETCH + 6, "rare.b")).await.expect("committed");
    fill(&mut store, "often.a", 6 * STRETCH).await;
    while store.prune(Seq(STRETCH - 9), 30_000).await.expect("pruned") < Seq(STRETCH / 2) {}
    store.close().await.expect("closed");
    let report = check(folder.db()).await.expect("a report");
    assert!(report.is_sound(), "{report:?}");
    let changes = [
        "DELETE FROM topic_index WHERE topic = (SELECT id FROM names WHERE text = 'rare.b')",
        "UPDATE topic_index SET events = events + 1 WHERE topic = (SELECT id FROM names WHERE text = 'often.a') \
         AND upto > 50000 AND upto < 70000",
    ];
    for change in changes {
        let mut db = folder.raw().await;
        db.execute("CREATE TEMP TABLE sound AS SELECT * FROM topic_index").await.expect("copied");
        db.execute(change).await.expect("changed");
        let report = check(folder.db()).await.expect("a report");
        assert!(report.problems.iter().any(|problem| problem.contains("topic_index")), "{change}: {report:?}");
        db.execute("DELETE FROM topic_index; INSERT INTO topic_index SELECT * FROM sound").await.expect("as before");
    }
}

#[tokio::test]
async fn topics_beyond_a_number_are_counted_as_one_and_still_found() {
    let folder = Folder::new();
    let mut store = folder.store().await;
    let n = 1_500;
    for part in 0..2 {
        let named = (1..=n).map(|i| Committed {
            seq: Seq(part * STRETCH + i),
            event: event("a", &format!("room.{i}"), "1", i),
            cause_seq: None,
            seen: None,
        });
        store.commit(&WriteBatch { events: named.collect(), ..WriteBatch::default() }).await.expect("committed");
        fill(&mut store, "often.a", (part + 1) * STRETCH).await;
    }
    let counts = counted(&*store.reader()).await;
    assert_eq!(counts.len(), 1_025, "1,024 topics, and all others");
    assert_eq!(counts.values().sum::<u64>(), 2 * STRETCH);
    let found = back(&*store.reader(), &[&format!("room.{n}")]).await.1;
    assert_eq!(found, [STRETCH + n, n]);
}

#[tokio::test]
async fn a_tail_says_where_pruned_events_were() {
    let folder = Folder::new();
    let mut store = folder.store().await;
    store.commit(&events(1..=1, "sys.team.started")).await.expect("committed");
    fill(&mut store, "often.a", 5 * STRETCH).await;
    let expected = counted(&*store.reader()).await;
    while store.prune(Seq(5 * STRETCH - 1), 30_000).await.expect("pruned") < Seq(4 * STRETCH) {}
    assert_eq!(counted(&*store.reader()).await, expected);
    assert_eq!(back(&*store.reader(), &["sys.>"]).await.1, [1], "what is kept below the floor is found");
    store.close().await.expect("closed");
    // A file whose beginning was pruned before there was an index.
    folder.raw().await.execute("DELETE FROM topic_index").await.expect("deleted");
    let store = folder.store().await;
    let counts = store.reader().topic_counts().await.expect("counts");
    assert_eq!(counts.after, store.reader().floor().await.expect("a floor"), "what is counted is told");
    assert_eq!(back(&*store.reader(), &["sys.>"]).await.1, [1]);
}

/// More names than any cache of a small file holds whole, so that all sides look names up.
#[tokio::test]
async fn names_are_looked_up_and_never_given_twice() {
    let folder = Folder::new();
    let mut store = folder.store().await;
    let key = |n: u64| format!("memory.k{n}");
    let write = |seqs: std::ops::RangeInclusive<u64>, of: &dyn Fn(u64) -> String| WriteBatch {
        events: seqs
            .map(|n| Committed { seq: Seq(n), event: event("a", &of(n), "1", n), cause_seq: None, seen: None })
            .collect(),
        ..WriteBatch::default()
    };
    let n = 70_000;
    for from in (0..n).step_by(10_000) {
        store.commit(&write(from + 1..=from + 10_000, &key)).await.expect("committed");
    }
    store.close().await.expect("closed");
    let mut store = folder.store().await;
    // Old keys, new ones, one twice, and a new source.
    store.commit(&write(n + 1..=n + 600, &|seq| key(seq - 300))).await.expect("committed");
    let mut batch = write(n + 601..=n + 602, &|_| key(n + 9_999));
    batch.events[1].event = event("new", "memory.k1", "1", n + 602);
    store.commit(&batch).await.expect("committed");
    let reader = store.reader();
    let (page, _) = reader.journal(Seq(n), Seq(n + 602), &interest(&[">"]), 1_000).await.expect("a page");
    for event in &page[..600] {
        assert_eq!(event.event.topic.as_str(), key(event.seq.get() - 300));
    }
    let last = &page[601].event;
    assert_eq!((last.topic.as_str(), &last.source), ("memory.k1", &Name::new("new").expect("a name")));
    let keys = reader.memory_keys("k").await.expect("keys");
    assert_eq!(keys.len() as u64, n + 301);
    assert!(keys.is_sorted());
    let (page, _) = reader.journal(Seq(3), Seq(9), &interest(&["memory.k7", "memory.k8"]), 10).await.expect("a page");
    assert_eq!(page.iter().map(|event| event.seq.get()).collect::<Vec<_>>(), [7, 8]);
    assert!(digest(&*reader).await.is_ok());
    store.close().await.expect("closed");
    let report = check(folder.db()).await.expect("a report");
    assert!(!report.problems.iter().any(|problem| problem.contains("not as it was written")), "{report:?}");
}

/// A removed key's name goes with its last event; what is at the end stays, so that no id is given twice.
#[tokio::test]
async fn the_name_of_a_removed_key_goes_with_its_last_event() {
    let folder = Folder::new();
    let mut store = folder.store().await;
    let mut at = 0;
    let mut write = |topic: &str, json: &str| {
        at += 1;
        let event = event("a", topic, json, at);
        let events = vec![Committed { seq: Seq(at), event, cause_seq: None, seen: None }];
        WriteBatch { events, ..WriteBatch::default() }
    };
    for (topic, json) in [
        ("memory.gone", "1"),
        ("memory.stays", "1"),
        ("memory.back", "1"),
        ("memory.last", "1"),
        ("memory.gone", "null"),
        ("memory.back", "null"),
        ("memory.last", "null"),
        ("x", "1"),
        ("memory.back", "2"),
        ("x", "2"),
    ] {
        store.commit(&write(topic, json)).await.expect("committed");
    }
    while store.prune(Seq(8), 2).await.expect("pruned") < Seq(8) {}
    let names = |mut db: sqlx::SqliteConnection| async move {
        let rows = db.fetch_all("SELECT text FROM names WHERE id < 0 ORDER BY id DESC").await.expect("rows");
        rows.iter().map(|row| row.get::<String, _>(0)).collect::<Vec<_>>()
    };
    let left = names(folder.raw().await).await;
    assert_eq!(left, ["memory.stays", "memory.back", "memory.last"], "the one at the end stays");
    // A key that comes again is a new one, also for who knew it before.
    for topic in ["memory.gone", "memory.new"] {
        store.commit(&write(topic, "5")).await.expect("committed");
    }
    let reader = store.reader();
    let (page, _) = reader.journal(Seq(10), Seq(12), &interest(&["memory.gone"]), 9).await.expect("a page");
    assert_eq!(page.iter().map(|event| event.seq.get()).collect::<Vec<_>>(), [11]);
    store.close().await.expect("closed");
    let left = names(folder.raw().await).await;
    assert_eq!(left, ["memory.stays", "memory.back", "memory.last", "memory.gone", "memory.new"]);
}
