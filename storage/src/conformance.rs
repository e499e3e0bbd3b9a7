//! The rules of [`Store`] as one suite that every backend passes.
//!
//! Each case gets a fresh place and panics, with what it found, when the backend breaks the rule that is its
//! name. Run all of them with [`run`].

mod pages;
mod prune;

use std::sync::Arc;

use async_trait::async_trait;
use atra_bus::{Committed, Event, EventId, Filter, Interest, Name, Payload, Seq, Timestamp, Topic};

use crate::{Block, FactKind, FactRow, Level, Read, Store, StoreError, TeamMove, TeamRow, WriteBatch};

/// A place where a store keeps its data.
#[async_trait]
pub trait Place: Send {
    /// Opens a store on the place: an empty one the first time, later with all that was committed. The
    /// store opened before has been closed or dropped.
    async fn open(&mut self) -> Box<dyn Store>;
}

/// Runs every case, each on a fresh place.
///
/// # Panics
/// When the backend breaks a rule.
pub async fn run<P: Place>(mut fresh: impl FnMut() -> P) {
    a_batch_is_stored_whole_or_not_at_all(&mut fresh()).await;
    a_batch_that_does_not_follow_the_journal_is_refused(&mut fresh()).await;
    a_team_moves_only_from_the_row_that_is_stored(&mut fresh()).await;
    the_newest_fact_wins_and_none_removes(&mut fresh()).await;
    memory_is_unique_by_key_alone(&mut fresh()).await;
    the_journal_is_paged_without_gap_or_repeat(&mut fresh()).await;
    the_tail_is_the_last_of_what_is_wanted(&mut fresh()).await;
    an_event_comes_back_as_it_was_written(&mut fresh()).await;
    effects_are_found_by_their_cause(&mut fresh()).await;
    memory_is_read_as_of_a_seq(&mut fresh()).await;
    topics_are_counted(&mut fresh()).await;
    a_block_is_written_over_the_one_before(&mut fresh()).await;
    reopening_keeps_everything(&mut fresh()).await;
    a_reader_sees_whole_batches_only(&mut fresh()).await;
    large_batches_of_every_size_are_stored(&mut fresh()).await;
    pages::run(&mut fresh).await;
    prune::run(&mut fresh).await;
}

// === what the cases are made of ===

/// A name; for tests.
///
/// # Panics
/// When `text` is not a name.
#[must_use]
pub fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

/// An event of `source` on `topic` whose payload is `json`, unique by `order`; for tests.
///
/// # Panics
/// When `source` or `topic` breaks its rules.
#[must_use]
pub fn event(source: &str, topic: &str, json: &str, order: u64) -> Arc<Event> {
    let source = name(source);
    let id = EventId::of(&source, &order.to_string());
    Arc::new(Event {
        id,
        topic: Topic::new(topic).expect("a topic"),
        version: 1,
        durable: true,
        source,
        time: Timestamp(1_000 + order as i64),
        cause: None,
        root: id,
        hops: 0,
        payload: Payload::from_journal(json.into()),
    })
}

fn committed(seq: u64, source: &str, topic: &str, json: &str) -> Committed {
    Committed { seq: Seq(seq), event: event(source, topic, json, seq), cause_seq: None, seen: None }
}

fn row(team: &str, epoch: u64, number: u64, cursor: u64) -> TeamRow {
    TeamRow { team: name(team), epoch, number, cursor: Seq(cursor) }
}

fn fact(kind: FactKind, owner: &str, key: &str, value: Option<&str>, version: u64) -> FactRow {
    let event = (kind == FactKind::Memory).then(|| EventId::of(&name(owner), &version.to_string()));
    FactRow { kind, owner: name(owner), key: key.into(), value: value.map(Into::into), version: Seq(version), event }
}

fn of_events(events: Vec<Committed>) -> WriteBatch {
    WriteBatch { events, ..WriteBatch::default() }
}

fn of_facts(facts: Vec<FactRow>) -> WriteBatch {
    WriteBatch { facts, ..WriteBatch::default() }
}

fn all() -> Interest {
    Interest::in_topics(vec![Filter::all()])
}

fn interest(filters: &[&str], except: &[&str]) -> Interest {
    let filters = filters.iter().map(|text| Filter::new(text).expect("a filter")).collect();
    Interest { filters, except: except.iter().map(|text| name(text)).collect() }
}

async fn opened(place: &mut dyn Place) -> (Box<dyn Store>, Arc<dyn Read>) {
    let mut store = place.open().await;
    store.load().await.expect("a store that was opened can be loaded");
    let reader = store.reader();
    (store, reader)
}

async fn commit(store: &mut Box<dyn Store>, batch: &WriteBatch) {
    store.commit(batch).await.expect("a correct batch is committed");
}

async fn seqs(reader: &Arc<dyn Read>, interest: &Interest) -> Vec<u64> {
    let events = reader.journal_tail(interest, usize::MAX).await.expect("a tail");
    events.iter().map(|event| event.seq.get()).collect()
}

// === the cases ===

async fn a_batch_is_stored_whole_or_not_at_all(place: &mut dyn Place) {
    let (mut store, reader) = opened(place).await;
    // Given a batch with something of everything, and a team's move that does not fit.
    let mut batch = WriteBatch {
        events: vec![committed(1, "a", "x.y", "1"), committed(2, "a", "memory.k", "2")],
        facts: vec![fact(FactKind::Memory, "a", "k", Some("2"), 2), fact(FactKind::State, "a", "s", Some("{}"), 2)],
        teams: vec![TeamMove { from: Some(row("t", 1, 0, 0)), to: row("t", 1, 1, 2) }],
        blocks: vec![Block { series: name("s"), start: 0, rows: 1, data: vec![7].into() }],
        level: Level::Process,
        committed_at: None,
    };
    // When it is committed, then nothing of it is there.
    let refused = store.commit(&batch).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "found {refused:?}");
    assert_eq!(reader.last_seq().await.expect("a seq"), Seq::ZERO);
    assert!(seqs(&reader, &all()).await.is_empty());
    assert_eq!(reader.fact(FactKind::State, &name("a"), "s").await.expect("a read"), None);
    assert!(reader.teams().await.expect("teams").is_empty());
    assert!(reader.series().await.expect("series").is_empty());
    // And the same batch with the move mended is there as a whole.
    batch.teams[0].from = None;
    commit(&mut store, &batch).await;
    assert_eq!(seqs(&reader, &all()).await, [1, 2]);
    assert!(reader.fact(FactKind::State, &name("a"), "s").await.expect("a read").is_some());
    assert_eq!(reader.teams().await.expect("teams"), [row("t", 1, 1, 2)]);
    assert_eq!(reader.series().await.expect("series").len(), 1);
}

async fn a_batch_that_does_not_follow_the_journal_is_refused(place: &mut dyn Place) {
    let (mut store, reader) = opened(place).await;
    commit(&mut store, &of_events(vec![committed(1, "a", "x", "1")])).await;
    let repeated = of_events(vec![committed(2, "a", "x", "2"), committed(1, "a", "x", "1")]);
    let refused = store.commit(&repeated).await;
    assert!(matches!(refused, Err(StoreError::Invalid(_))), "found {refused:?}");
    assert_eq!(seqs(&reader, &all()).await, [1]);
    // The store goes on.
    commit(&mut store, &of_events(vec![committed(2, "a", "x", "2")])).await;
    assert_eq!(seqs(&reader, &all()).await, [1, 2]);
}

async fn a_team_moves_only_from_the_row_that_is_stored(place: &mut dyn Place) {
    let (mut store, reader) = opened(place).await;
    let moved =
        |from: Option<TeamRow>, to: TeamRow| WriteBatch { teams: vec![TeamMove { from, to }], ..WriteBatch::default() };
    commit(&mut store, &moved(None, row("t", 1, 0, 0))).await;
    commit(&mut store, &moved(Some(row("t", 1, 0, 0)), row("t", 1, 1, 5))).await;
    for (why, wrong) in [
        ("it exists already", None),
        ("an older step", Some(row("t", 1, 0, 0))),
        ("a newer epoch", Some(row("t", 2, 1, 5))),
        ("another cursor", Some(row("t", 1, 1, 4))),
    ] {
        let refused = store.commit(&moved(wrong, row("t", 9, 9, 9))).await;
        assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{why}: found {refused:?}");
        assert_eq!(reader.teams().await.expect("teams"), [row("t", 1, 1, 5)], "{why}");
    }
    let refused = store.commit(&moved(Some(row("u", 1, 1, 5)), row("u", 1, 2, 5))).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "no such team: found {refused:?}");
    commit(&mut store, &moved(Some(row("t", 1, 1, 5)), row("t", 2, 1, 5))).await;
    commit(&mut store, &moved(None, row("b", 1, 0, 0))).await;
    assert_eq!(reader.teams().await.expect("teams"), [row("b", 1, 0, 0), row("t", 2, 1, 5)], "sorted by name");
}

async fn the_newest_fact_wins_and_none_removes(place: &mut dyn Place) {
    let (mut store, reader) = opened(place).await;
    let a = name("a");
    commit(&mut store, &of_facts(vec![fact(FactKind::State, "a", "k", Some("1"), 0)])).await;
    commit(
        &mut store,
        &of_facts(vec![
            fact(FactKind::Offset, "a", "k", Some("\"o\""), 0),
            fact(FactKind::State, "a", "k", Some("2"), 0),
            fact(FactKind::State, "b", "k", Some("3"), 0),
        ]),
    )
    .await;
    assert_eq!(
        reader.fact(FactKind::State, &a, "k").await.expect("a read"),
        Some(fact(FactKind::State, "a", "k", Some("2"), 0))
    );
    assert_eq!(reader.facts(FactKind::State, None).await.expect("facts").len(), 2);
    assert_eq!(reader.facts(FactKind::State, Some(&a)).await.expect("facts").len(), 1);
    let removed = vec![fact(FactKind::State, "a", "k", None, 0), fact(FactKind::State, "a", "never", None, 0)];
    commit(&mut store, &of_facts(removed)).await;
    assert_eq!(reader.fact(FactKind::State, &a, "k").await.expect("a read"), None);
    assert!(reader.fact(FactKind::Offset, &a, "k").await.expect("a read").is_some(), "another kind stays");
    assert!(reader.fact(FactKind::State, &name("b"), "k").await.expect("a read").is_some(), "another owner stays");
    assert_eq!(reader.fact(FactKind::State, &name("nobody"), "k").await.expect("a read"), None);
    // Sorted by (owner, key), whatever the order in which they came.
    let many: Vec<_> =
        [("z", "1"), ("b", "2"), ("b", "1"), ("m", "9")].map(|(o, k)| fact(FactKind::Timer, o, k, Some("0"), 0)).into();
    commit(&mut store, &of_facts(many)).await;
    let found = reader.facts(FactKind::Timer, None).await.expect("facts");
    let found: Vec<_> = found.iter().map(|fact| (fact.owner.as_str(), fact.key.as_str())).collect();
    assert_eq!(found, [("b", "1"), ("b", "2"), ("m", "9"), ("z", "1")]);
}

async fn memory_is_unique_by_key_alone(place: &mut dyn Place) {
    let (mut store, reader) = opened(place).await;
    let first = of_facts(vec![fact(FactKind::Memory, "a", "k.x", Some("1"), 1)]);
    commit(&mut store, &WriteBatch { events: vec![committed(1, "a", "memory.k.x", "1")], ..first }).await;
    let second = of_facts(vec![fact(FactKind::Memory, "b", "k.x", Some("2"), 2)]);
    commit(&mut store, &WriteBatch { events: vec![committed(2, "b", "memory.k.x", "2")], ..second }).await;
    let expected = fact(FactKind::Memory, "b", "k.x", Some("2"), 2);
    assert_eq!(reader.fact(FactKind::Memory, &name("anybody"), "k.x").await.expect("a read"), Some(expected.clone()));
    assert_eq!(reader.facts(FactKind::Memory, None).await.expect("facts"), [expected]);
    assert!(reader.facts(FactKind::Memory, Some(&name("a"))).await.expect("facts").is_empty(), "b wrote last");
    assert_eq!(reader.facts(FactKind::Memory, Some(&name("b"))).await.expect("facts").len(), 1);
}

async fn the_journal_is_paged_without_gap_or_repeat(place: &mut dyn Place) {
    let (mut store, reader) = opened(place).await;
    let topics = ["a.x", "b", "memory.k", "a.y"];
    let sources = ["p", "q", "r"];
    let events = |seqs: std::ops::RangeInclusive<u64>| {
        seqs.map(|n| committed(n, sources[n as usize % 3], topics[n as usize % 4], "0")).collect::<Vec<_>>()
    };
    commit(&mut store, &of_events(events(1..=50))).await;
    commit(&mut store, &of_events(events(51..=100))).await;
    for wanted in [all(), interest(&["a.*"], &[]), interest(&["b", "memory.>"], &["q"]), interest(&["none"], &[])] {
        let expected: Vec<u64> =
            (6..=90).filter(|n| wanted.wants(topics[*n as usize % 4], &name(sources[*n as usize % 3]))).collect();
        for limit in [1, 2, 7, 1_000] {
            let (mut found, mut at) = (Vec::new(), Seq(5));
            for _ in 0..1_000 {
                let (page, upto) = reader.journal(at, Seq(90), &wanted, limit).await.expect("a page");
                assert!(page.len() <= limit, "a page of {} above the limit {limit}", page.len());
                assert!(page.iter().all(|event| event.seq > at && event.seq <= upto), "a page within its bounds");
                found.extend(page.iter().map(|event| event.seq.get()));
                assert!(upto > at || at >= Seq(90), "a page that does not advance");
                at = upto;
                if at >= Seq(90) {
                    break;
                }
            }
            assert_eq!(found, expected, "{wanted:?} with limit {limit}");
        }
    }
    let (page, upto) = reader.journal(Seq(100), Seq(500), &all(), 10).await.expect("a page");
    assert!(page.is_empty() && upto == Seq(100), "beyond the end: found {upto}");
    let (page, upto) = reader.journal(Seq(98), Seq(500), &all(), 10).await.expect("a page");
    assert!(page.len() == 2 && upto == Seq(100), "complete to the end, not beyond: found {upto}");
    assert_eq!(reader.journal(Seq(5), Seq(90), &all(), 0).await.expect("a page").1, Seq(5));
    // Topics and sources that are new since the last read are wanted, or not, like any other.
    commit(&mut store, &of_events(vec![committed(101, "new", "a.new", "0"), committed(102, "p", "c.new", "0")])).await;
    let (page, _) = reader.journal(Seq(100), Seq(102), &interest(&["a.*"], &[]), 10).await.expect("a page");
    assert_eq!(page.iter().map(|event| event.seq).collect::<Vec<_>>(), [Seq(101)]);
    commit(&mut store, &of_events(vec![committed(103, "newer", "a.x", "0")])).await;
    let (page, _) = reader.journal(Seq(102), Seq(103), &interest(&[">"], &["newer"]), 10).await.expect("a page");
    assert!(page.is_empty(), "an excepted source that is new");
}

async fn the_tail_is_the_last_of_what_is_wanted(place: &mut dyn Place) {
    let (mut store, reader) = opened(place).await;
    assert!(reader.journal_tail(&all(), 5).await.expect("a tail").is_empty());
    let events = (1..=9).map(|n| committed(n, "p", if n % 3 == 0 { "c" } else { "a.x" }, "0")).collect();
    commit(&mut store, &of_events(events)).await;
    let tail = |found: Vec<Committed>| found.iter().map(|event| event.seq.get()).collect::<Vec<_>>();
    assert_eq!(tail(reader.journal_tail(&all(), 4).await.expect("a tail")), [6, 7, 8, 9]);
    assert_eq!(tail(reader.journal_tail(&interest(&["c"], &[]), 2).await.expect("a tail")), [6, 9]);
    assert_eq!(tail(reader.journal_tail(&interest(&["c"], &[]), 20).await.expect("a tail")), [3, 6, 9]);
    // Many of a topic that is new do not hide what is wanted.
    commit(&mut store, &of_events((10..=20).map(|n| committed(n, "new", "d", "0")).collect())).await;
    assert_eq!(tail(reader.journal_tail(&interest(&["c"], &[]), 2).await.expect("a tail")), [6, 9]);
}

async fn an_event_comes_back_as_it_was_written(place: &mut dyn Place) {
    let (mut store, reader) = opened(place).await;
    let text = r#"{"price":0.1,"text":"ü \u0000 '"}"#;
    let root = committed(1, "a", "x.y", text);
    let full = Event {
        version: 7,
        time: Timestamp(-5),
        cause: Some(root.event.id),
        root: root.event.id,
        hops: 65_535,
        ..Event::clone(&event("b-2", "to.someone", "null", 2))
    };
    let full = Committed { seq: Seq(2), event: Arc::new(full), cause_seq: Some(Seq(1)), seen: Some(Seq(0)) };
    let mut written = vec![root, full];
    // The ends of time, and the first day that has a year of five digits.
    for time in [Timestamp::MIN, Timestamp(0), Timestamp(253_402_300_800_000), Timestamp::MAX] {
        let seq = Seq(written.len() as u64 + 1);
        let event = Event { time, ..Event::clone(&event("a", "x.y", "1", seq.get())) };
        written.push(Committed { seq, event: Arc::new(event), cause_seq: None, seen: None });
    }
    commit(&mut store, &of_events(written.clone())).await;
    let after = written.last().expect("an event").seq.next();
    for written in written {
        let found = reader.event(written.seq).await.expect("a read").expect("the event");
        assert_eq!(found.event.payload.json().expect("JSON"), written.event.payload.json().expect("JSON"));
        assert_eq!(format!("{found:?}"), format!("{written:?}"));
    }
    assert!(reader.event(after).await.expect("a read").is_none());
    assert!(reader.event(Seq(0)).await.expect("a read").is_none());
}

async fn effects_are_found_by_their_cause(place: &mut dyn Place) {
    let (mut store, reader) = opened(place).await;
    let caused = |seq: u64, cause: u64| Committed { cause_seq: Some(Seq(cause)), ..committed(seq, "a", "x", "0") };
    let events = vec![committed(1, "a", "x", "0"), caused(2, 1), caused(3, 2), caused(4, 1), caused(5, 1)];
    commit(&mut store, &of_events(events)).await;
    let found = reader.effects_of(Seq(1), 2).await.expect("effects");
    assert_eq!(found.iter().map(|event| event.seq.get()).collect::<Vec<_>>(), [2, 4]);
    assert_eq!(reader.effects_of(Seq(1), 9).await.expect("effects").len(), 3);
    assert!(reader.effects_of(Seq(5), 9).await.expect("effects").is_empty());
}

async fn memory_is_read_as_of_a_seq(place: &mut dyn Place) {
    let (mut store, reader) = opened(place).await;
    let events = vec![
        committed(1, "a", "memory.k", "1"),
        committed(2, "a", "memory.other", "2"),
        committed(3, "a", "memory.k", "3"),
        committed(4, "a", "memory.k", "null"),
    ];
    commit(&mut store, &of_events(events)).await;
    for (at, expected) in [(0, None), (1, Some(1)), (2, Some(1)), (3, Some(3)), (4, Some(4)), (99, Some(4))] {
        let found = reader.memory_as_of("k", Seq(at)).await.expect("a read").map(|event| event.seq.get());
        assert_eq!(found, expected, "as of {at}");
    }
    assert!(reader.memory_as_of("never", Seq(9)).await.expect("a read").is_none());
    assert!(reader.memory_as_of("not a key", Seq(9)).await.expect("a read").is_none());
    for (prefix, expected) in [("", vec!["k", "other"]), ("k", vec!["k"]), ("o", vec!["other"]), ("z", vec![])] {
        assert_eq!(reader.memory_keys(prefix).await.expect("keys"), expected, "removed keys too, by prefix {prefix:?}");
    }
}

async fn topics_are_counted(place: &mut dyn Place) {
    let (mut store, reader) = opened(place).await;
    let topics = ["b", "a.x", "b", "memory.k", "memory.l"];
    let events = topics.iter().zip(1..).map(|(topic, n)| committed(n, "a", topic, "0"));
    commit(&mut store, &of_events(events.collect())).await;
    let expected = |b: u64, memory: u64| {
        let topics = vec![("a.x".into(), 1), ("b".into(), b), ("memory.>".into(), memory)];
        crate::TopicCounts { topics, after: Seq::ZERO }
    };
    assert_eq!(reader.topic_counts().await.expect("counts"), expected(2, 2));
    commit(&mut store, &of_events(vec![committed(6, "a", "b", "0")])).await;
    store.prune(Seq(4), 100).await.expect("pruned");
    store.load().await.expect("loaded");
    commit(&mut store, &of_events(vec![committed(7, "a", "memory.k", "0")])).await;
    assert_eq!(reader.topic_counts().await.expect("counts"), expected(3, 3), "pruned ones count");
}

async fn a_block_is_written_over_the_one_before(place: &mut dyn Place) {
    let (mut store, reader) = opened(place).await;
    let block = |series: &str, start: i64, rows: u32, data: &[u8]| Block {
        series: name(series),
        start,
        rows,
        data: data.into(),
    };
    let of_blocks = |blocks: Vec<Block>| WriteBatch { blocks, ..WriteBatch::default() };
    let blocks =
        vec![block("s", 10, 1, b"old"), block("s", -5, 2, b""), block("r", 0, 3, b"r"), block("s", 20, 4, b"z")];
    commit(&mut store, &of_blocks(blocks)).await;
    commit(&mut store, &of_blocks(vec![block("s", 10, 9, b"new")])).await;
    let found = reader.blocks(&name("s"), -5, 10, 9).await.expect("blocks");
    assert_eq!(found, [block("s", -5, 2, b""), block("s", 10, 9, b"new")], "sorted, both ends included");
    assert_eq!(reader.blocks(&name("s"), i64::MIN, i64::MAX, 2).await.expect("blocks").len(), 2);
    assert!(reader.blocks(&name("s"), 5, -5, 2).await.expect("blocks").is_empty());
    assert!(reader.blocks(&name("never"), 0, 9, 9).await.expect("blocks").is_empty());
    let series = reader.series().await.expect("series");
    let series: Vec<_> =
        series.iter().map(|row| (row.series.as_str(), row.rows, row.first_start, row.last_start)).collect();
    assert_eq!(series, [("r", 3, 0, 0), ("s", 15, -5, 20)]);
}

async fn reopening_keeps_everything(place: &mut dyn Place) {
    let (mut store, _) = opened(place).await;
    let batch = WriteBatch {
        events: vec![committed(1, "a", "x", "1"), committed(2, "b", "memory.k", "2")],
        facts: vec![fact(FactKind::Memory, "b", "k", Some("2"), 2), fact(FactKind::Key, "c", "q", Some("{}"), 2)],
        teams: vec![TeamMove { from: None, to: row("t", 3, 4, 1) }],
        blocks: vec![Block { series: name("s"), start: 0, rows: 1, data: vec![7].into() }],
        level: Level::Power,
        committed_at: None,
    };
    commit(&mut store, &batch).await;
    // Once without closing, as after a crash, and once after closing.
    for n in 1..=2 {
        if n == 2 {
            store.checkpoint().await.expect("a checkpoint");
            store.close().await.expect("closed");
            assert!(store.commit(&of_events(vec![committed(9, "a", "x", "1")])).await.is_err(), "closed for good");
        }
        drop(store);
        store = place.open().await;
        let loaded = store.load().await.expect("loaded");
        let reader = store.reader();
        assert_eq!(loaded.last_seq, Seq(n + 1));
        assert_eq!(loaded.teams, [row("t", 3, 4, 1)]);
        assert_eq!(seqs(&reader, &all()).await, (1..=n + 1).collect::<Vec<_>>());
        assert_eq!(reader.facts(FactKind::Memory, None).await.expect("facts").len(), 1);
        assert_eq!(reader.facts(FactKind::Key, None).await.expect("facts").len(), 1);
        assert_eq!(reader.series().await.expect("series").len(), 1);
        // And goes on where it was, with old and new names.
        commit(&mut store, &of_events(vec![committed(n + 2, "a", &format!("new.t{n}"), "0")])).await;
    }
    store.close().await.expect("closed");
}

async fn a_reader_sees_whole_batches_only(place: &mut dyn Place) {
    let (mut store, reader) = opened(place).await;
    const BATCHES: u64 = 40;
    let writing = async {
        for n in 0..BATCHES {
            let seqs = n * 10 + 1..=n * 10 + 10;
            let batch = WriteBatch {
                events: seqs.map(|seq| committed(seq, "a", "x", "0")).collect(),
                facts: vec![fact(FactKind::State, "a", "n", Some(&n.to_string()), n * 10 + 10)],
                ..WriteBatch::default()
            };
            commit(&mut store, &batch).await;
            // Lets the reader in between.
            tokio::task::yield_now().await;
        }
    };
    let reading = async {
        let mut before = 0;
        while before < BATCHES * 10 {
            let last = reader.last_seq().await.expect("a seq").get();
            assert!(last >= before && last.is_multiple_of(10), "part of a batch is seen: {last}");
            let found = reader.fact(FactKind::State, &name("a"), "n").await.expect("a read");
            assert!(found.map_or(0, |fact| fact.version.get()) >= last, "the journal is ahead of the facts");
            before = last;
            tokio::task::yield_now().await;
        }
    };
    futures::join!(writing, reading);
}

async fn large_batches_of_every_size_are_stored(place: &mut dyn Place) {
    let (mut store, reader) = opened(place).await;
    let mut last = 0;
    for n in [1_u64, 2, 3, 5, 17, 63, 64, 65, 85, 255, 256, 257, 700] {
        let batch = WriteBatch {
            events: (last + 1..=last + n).map(|seq| committed(seq, "a", &format!("t.n{}", seq % 90), "0")).collect(),
            facts: (0..n).map(|k| fact(FactKind::State, "a", &format!("k{k:04}"), Some("1"), last + n)).collect(),
            teams: (0..n % 50).map(|k| TeamMove { from: None, to: row(&format!("t{n}-{k}"), 1, 0, 0) }).collect(),
            ..WriteBatch::default()
        };
        commit(&mut store, &batch).await;
        last += n;
        assert_eq!(reader.last_seq().await.expect("a seq"), Seq(last));
    }
    assert_eq!(seqs(&reader, &all()).await, (1..=last).collect::<Vec<_>>());
    assert_eq!(reader.facts(FactKind::State, None).await.expect("facts").len(), 700);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryDisk, MemoryStore, SqliteOptions, SqliteStore};

    struct OnDisk(MemoryDisk);

    #[async_trait]
    impl Place for OnDisk {
        async fn open(&mut self) -> Box<dyn Store> {
            Box::new(MemoryStore::on(&self.0))
        }
    }

    struct InFolder(tempfile::TempDir);

    #[async_trait]
    impl Place for InFolder {
        async fn open(&mut self) -> Box<dyn Store> {
            let options = SqliteOptions::new(self.0.path().join("test.db"));
            Box::new(SqliteStore::open(options).await.expect("a fresh file can be opened"))
        }
    }

    #[tokio::test]
    async fn the_model_store_keeps_the_rules() {
        run(|| OnDisk(MemoryDisk::new())).await;
    }

    #[tokio::test]
    async fn sqlite_keeps_the_rules() {
        run(|| InFolder(tempfile::tempdir().expect("a temporary folder"))).await;
    }
}
