//! The rules of deleting: what goes, what stays, and what readers are told.

use std::time::Duration;

use atra_bus::{Committed, EventId, Seq};

use super::{Place, all, commit, committed, event, fact, name, of_events, opened, row};
use crate::{FactKind, FactRow, Keep, Level, OPEN_EFFECT, StoreError, TeamMove, WriteBatch, plan_prune};

pub(super) async fn run<P: Place>(fresh: &mut impl FnMut() -> P) {
    what_is_pruned_is_gone_and_what_is_needed_stays(&mut fresh()).await;
    a_read_below_the_floor_is_told_so(&mut fresh()).await;
    pruning_goes_in_pieces_and_keeps_the_last_batch(&mut fresh()).await;
    a_journal_goes_on_after_pruning_and_reopening(&mut fresh()).await;
    the_team_that_is_farthest_behind_pins_the_journal(&mut fresh()).await;
    age_is_measured_in_the_journals_own_time(&mut fresh()).await;
    memory_is_listed_in_pages(&mut fresh()).await;
}

async fn memory_is_listed_in_pages(place: &mut dyn Place) {
    let (mut store, reader) = opened(place).await;
    let facts = (0..25).map(|n| memory(&format!("k{n:02}"), n + 1, Some("1")));
    let other = fact(FactKind::State, "a", "k05", Some("1"), 1);
    commit(&mut store, &WriteBatch { facts: facts.chain([other]).collect(), ..WriteBatch::default() }).await;
    let (mut from, mut keys) = (Some(String::from("k03")), Vec::new());
    while let Some(key) = from {
        let page = reader.memory_page(&key, 10).await.expect("a page");
        assert!(page.facts.len() <= 10);
        keys.extend(page.facts.into_iter().map(|fact| fact.key));
        from = page.next;
    }
    assert_eq!(keys, (3..25).map(|n| format!("k{n:02}")).collect::<Vec<_>>());
}

fn newest(n: u64) -> Keep {
    Keep { events: Some(n), span: None }
}

fn memory(key: &str, seq: u64, value: Option<&str>) -> FactRow {
    fact(FactKind::Memory, "a", key, value, seq)
}

/// Seqs 1 to 12: writes of two memory keys and one that is removed, a start of a team, events that facts name.
async fn written(place: &mut dyn Place) -> (Box<dyn crate::Store>, std::sync::Arc<dyn crate::Read>) {
    let (mut store, reader) = opened(place).await;
    let id = |seq: u64| EventId::of(&name("a"), &seq.to_string());
    let topics = [
        (1, "memory.k", "1"),
        (2, "x", "2"),
        (3, "memory.k", "3"),
        (4, "memory.gone", "4"),
        (5, "sys.team.started", "5"),
        (6, "memory.gone", "null"),
        (7, "dead", "7"),
        (8, "called", "8"),
        (9, "answered", "9"),
        (10, "memory.l", "10"),
    ];
    for (seq, topic, json) in topics {
        commit(&mut store, &of_events(vec![committed(seq, "a", topic, json)])).await;
    }
    let facts = vec![
        memory("k", 3, Some("3")),
        memory("l", 10, Some("10")),
        fact(FactKind::DeadLetter, "a", &id(7).to_string(), Some("{}"), 9),
        fact(FactKind::Result, "a", &format!("{}.call", id(8)), Some(OPEN_EFFECT), 9),
        fact(FactKind::Result, "a", &format!("{}.call", id(9)), Some("{\"result\":1}"), 9),
    ];
    let events = vec![committed(11, "a", "memory.k", "11"), committed(12, "a", "x", "12")];
    commit(&mut store, &WriteBatch { events, facts, ..WriteBatch::default() }).await;
    (store, reader)
}

/// Every seq that is still there.
async fn left(reader: &dyn crate::Read, last: u64) -> Vec<u64> {
    let mut left = Vec::new();
    for seq in 1..=last {
        if reader.event(Seq(seq)).await.expect("a read").is_some() {
            left.push(seq);
        }
    }
    left
}

async fn what_is_pruned_is_gone_and_what_is_needed_stays(place: &mut dyn Place) {
    let (mut store, reader) = written(place).await;
    assert_eq!(reader.floor().await.expect("a floor"), Seq::ZERO);

    let floor = store.prune(Seq(10), 1_000).await.expect("pruned");

    assert_eq!((floor, reader.floor().await.expect("a floor")), (Seq(10), Seq(10)));
    // The newest write of each key that exists, the start, the dead letter, the open effect.
    assert_eq!(left(&*reader, 12).await, [3, 5, 7, 8, 10, 11, 12]);
    assert_eq!(reader.last_seq().await.expect("a seq"), Seq(12));
    let newest = reader.memory_as_of("k", Seq(10)).await.expect("a read").expect("the write");
    assert_eq!(newest.seq, Seq(3));
    assert!(reader.memory_as_of("gone", Seq(10)).await.expect("a read").is_none());
    // A later write takes the place of the one that was kept below the floor.
    commit(&mut store, &of_events(vec![committed(13, "a", "x", "13")])).await;
    store.prune(Seq(12), 1_000).await.expect("pruned");
    assert_eq!(left(&*reader, 13).await, [5, 7, 8, 10, 11, 13]);
}

async fn a_read_below_the_floor_is_told_so(place: &mut dyn Place) {
    let (mut store, reader) = written(place).await;
    store.prune(Seq(10), 1_000).await.expect("pruned");
    for after in [0, 9] {
        let read = reader.journal(Seq(after), Seq(12), &all(), 100).await;
        let expected = matches!(read, Err(StoreError::Pruned { floor: Seq(10), .. }));
        assert!(expected, "read from {after}: found {read:?}");
        let read = reader.memory_as_of("k", Seq(after)).await;
        assert!(matches!(read, Err(StoreError::Pruned { .. })), "as of {after}: found {read:?}");
    }
    let (events, upto) = reader.journal(Seq(10), Seq(12), &all(), 100).await.expect("a page");
    assert_eq!((events.len(), upto), (2, Seq(12)));
    let tail = reader.journal_tail(&super::interest(&["sys.>"], &[]), 5).await.expect("a tail");
    assert_eq!(tail.len(), 1, "starts are found however far back");
}

async fn pruning_goes_in_pieces_and_keeps_the_last_batch(place: &mut dyn Place) {
    let (mut store, reader) = opened(place).await;
    for seq in 1..=9 {
        commit(&mut store, &of_events(vec![committed(seq, "a", "x", "1")])).await;
    }
    commit(&mut store, &of_events(vec![committed(10, "a", "x", "1"), committed(11, "a", "x", "1")])).await;
    assert_eq!(store.prune(Seq(8), 3).await.expect("pruned"), Seq(3));
    assert_eq!(store.prune(Seq(8), 3).await.expect("pruned"), Seq(6));
    assert_eq!(store.prune(Seq(8), 3).await.expect("pruned"), Seq(8));
    assert_eq!(store.prune(Seq(2), 3).await.expect("nothing to do"), Seq(8));
    let floor = store.prune(Seq(u64::MAX >> 1), u64::MAX).await.expect("pruned");
    assert!(floor < Seq(11), "the last event stays, found floor {floor}");
    assert!(reader.event(Seq(11)).await.expect("a read").is_some());
}

async fn a_journal_goes_on_after_pruning_and_reopening(place: &mut dyn Place) {
    let (mut store, reader) = written(place).await;
    store.prune(Seq(10), 1_000).await.expect("pruned");
    drop(reader);
    store.close().await.expect("closed");
    drop(store);

    let mut store = place.open().await;
    let loaded = store.load().await.expect("loaded");

    assert_eq!((loaded.last_seq, loaded.floor), (Seq(12), Seq(10)));
    commit(&mut store, &of_events(vec![committed(13, "a", "x", "13")])).await;
    let reader = store.reader();
    let (events, _) = reader.journal(Seq(10), Seq(99), &all(), 100).await.expect("a page");
    assert_eq!(events.iter().map(|event| event.seq.get()).collect::<Vec<_>>(), [11, 12, 13]);
}

async fn the_team_that_is_farthest_behind_pins_the_journal(place: &mut dyn Place) {
    let (mut store, reader) = written(place).await;
    let moved = |team: &str, cursor| TeamMove { from: None, to: row(team, 1, 0, cursor) };
    commit(&mut store, &WriteBatch { teams: vec![moved("slow", 4), moved("quick", 12)], ..WriteBatch::default() })
        .await;

    let plan = plan_prune(&*reader, newest(2)).await.expect("a plan");
    assert_eq!((plan.floor, plan.upto, plan.wanted, plan.last), (Seq::ZERO, Seq(4), Seq(10), Seq(12)));
    assert_eq!(plan.pinned_by.map(|team| team.team), Some(name("slow")));

    let plan = plan_prune(&*reader, newest(9)).await.expect("a plan");
    assert_eq!((plan.upto, plan.pinned_by), (Seq(3), None));
    let both = Keep { events: Some(2), span: Some(Duration::from_millis(5)) };
    assert_eq!(plan_prune(&*reader, both).await.expect("a plan").wanted, Seq(6), "what both let go");
    assert!(plan_prune(&*reader, Keep::default()).await.expect("a plan").is_empty(), "nobody asked for less");
    assert!(plan_prune(&*reader, newest(50)).await.expect("a plan").is_empty());
}

async fn age_is_measured_in_the_journals_own_time(place: &mut dyn Place) {
    let (mut store, reader) = opened(place).await;
    let none = plan_prune(&*reader, Keep { span: Some(Duration::from_secs(1)), events: None }).await.expect("a plan");
    assert!(none.is_empty(), "an empty journal has nothing to delete");
    // An event each second; the runtime's own has the wall's time, which is far ahead.
    for seq in 1..=10_u64 {
        let topic = if matches!(seq, 4 | 10) { "sys.team.started" } else { "x" };
        let mut event = atra_bus::Event::clone(&event("a", topic, "1", seq));
        event.time = atra_bus::Timestamp(if topic == "x" { seq as i64 * 1_000 } else { i64::MAX });
        let event = Committed { seq: Seq(seq), event: event.into(), cause_seq: None, seen: None };
        commit(&mut store, &WriteBatch { events: vec![event], level: Level::Process, ..WriteBatch::default() }).await;
    }
    for (seconds, expected) in [(0, 8), (3, 5), (5, 4), (6, 2), (100, 0)] {
        let found = reader.last_older_than(Duration::from_secs(seconds)).await.expect("a seq");
        assert_eq!(found, Seq(expected), "{seconds} s");
    }
    store.prune(Seq(5), 100).await.expect("pruned");
    assert_eq!(reader.last_older_than(Duration::from_secs(100)).await.expect("a seq"), Seq(5), "the floor, not 0");
}
