//! The rules of deleting: what goes, what stays, and what readers are told.

use std::time::Duration;

use atra_bus::{Committed, EventId, Seq, Timestamp};

use super::{Place, all, commit, committed, event, fact, name, of_events, opened, row};
use crate::{CommitTime, Expiry, FactKind, FactRow, Keep, OPEN_EFFECT, StoreError, TeamMove, WriteBatch, plan_prune};

pub(super) async fn run<P: Place>(fresh: &mut impl FnMut() -> P) {
    what_is_pruned_is_gone_and_what_is_needed_stays(&mut fresh()).await;
    a_read_below_the_floor_is_told_so(&mut fresh()).await;
    pruning_goes_in_pieces_and_keeps_the_last_batch(&mut fresh()).await;
    a_journal_goes_on_after_pruning_and_reopening(&mut fresh()).await;
    the_team_that_is_farthest_behind_pins_the_journal(&mut fresh()).await;
    age_goes_by_the_time_of_commit_whatever_the_events_claim(&mut fresh()).await;
    what_has_no_commit_time_counts_as_committed_with_the_next_that_has(&mut fresh()).await;
    memory_is_listed_in_pages(&mut fresh()).await;
    what_has_expired_goes_and_what_may_be_repeated_stays(&mut fresh()).await;
    facts_without_a_time_count_from_the_first_look_on(&mut fresh()).await;
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
    Keep { events: Some(n), ..Keep::default() }
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
        let batch = WriteBatch { committed_at: at(seq as i64), ..of_events(vec![committed(seq, "a", topic, json)]) };
        commit(&mut store, &batch).await;
    }
    let facts = vec![
        memory("k", 3, Some("3")),
        memory("l", 10, Some("10")),
        fact(FactKind::DeadLetter, "a", &id(7).to_string(), Some("{}"), 9),
        fact(FactKind::Result, "a", &format!("{}.call", id(8)), Some(OPEN_EFFECT), 9),
        fact(FactKind::Result, "a", &format!("{}.call", id(9)), Some("{\"result\":1}"), 9),
    ];
    let events = vec![committed(11, "a", "memory.k", "11"), committed(12, "a", "x", "12")];
    commit(&mut store, &WriteBatch { events, facts, committed_at: at(12), ..WriteBatch::default() }).await;
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

    let plan = plan_prune(&*reader, newest(2), Timestamp(i64::MAX)).await.expect("a plan");
    assert_eq!((plan.floor, plan.upto, plan.wanted, plan.last), (Seq::ZERO, Seq(4), Seq(10), Seq(12)));
    assert_eq!(plan.pinned_by.map(|team| team.team), Some(name("slow")));

    let plan = plan_prune(&*reader, newest(9), Timestamp(i64::MAX)).await.expect("a plan");
    assert_eq!((plan.upto, plan.pinned_by), (Seq(3), None));
    let both = Keep { events: Some(2), span: Some(Duration::from_secs(5)), ..Keep::default() };
    assert_eq!(plan_prune(&*reader, both, Timestamp(12_000)).await.expect("a plan").wanted, Seq(6), "what both let go");
    assert!(
        plan_prune(&*reader, Keep::default(), Timestamp(i64::MAX)).await.expect("a plan").is_empty(),
        "nobody asked for less"
    );
    assert!(plan_prune(&*reader, newest(50), Timestamp(i64::MAX)).await.expect("a plan").is_empty());
}

/// A commit time, in seconds of the commit clock. The wall clock is wherever it likes to be.
fn at(seconds: i64) -> Option<CommitTime> {
    Some(CommitTime { wall: Timestamp(-seconds), clock: Timestamp(seconds * 1_000) })
}

async fn age_goes_by_the_time_of_commit_whatever_the_events_claim(place: &mut dyn Place) {
    let (mut store, reader) = opened(place).await;
    let keep = Keep { span: Some(Duration::from_secs(1)), ..Keep::default() };
    let none = plan_prune(&*reader, keep, Timestamp(i64::MAX)).await.expect("a plan");
    assert!(none.is_empty(), "an empty journal has nothing to delete");
    // Two events each second: a fresh one, and one whose publisher claims a time in microseconds, of 1970, or of never.
    for second in 1..=10_u64 {
        let claims = [second as i64 * 1_000_000, 0, i64::MAX, i64::MIN];
        let of = |seq: u64, time: i64| {
            let mut event = atra_bus::Event::clone(&event("a", "x", "1", seq));
            event.time = Timestamp(time);
            Committed { seq: Seq(seq), event: event.into(), cause_seq: None, seen: None }
        };
        let last = second * 2;
        let events = vec![of(last - 1, second as i64 * 1_000), of(last, claims[(second % 4) as usize])];
        let batch = WriteBatch { events, committed_at: at(second as i64), ..WriteBatch::default() };
        commit(&mut store, &batch).await;
    }
    for (second, expected) in [(0, 0), (1, 0), (2, 2), (6, 10), (10, 18), (11, 20)] {
        let found = reader.last_committed_before(Timestamp(second * 1_000)).await.expect("a seq");
        assert_eq!(found, Seq(expected), "before second {second}");
    }
    for (seq, second) in [(1, 1), (2, 1), (3, 2), (20, 10)] {
        assert_eq!(reader.commit_time(Seq(seq)).await.expect("a read"), at(second), "of seq {seq}");
    }
    assert_eq!(reader.commit_time(Seq(21)).await.expect("a read"), None);
    assert_eq!(reader.commit_time(Seq::ZERO).await.expect("a read"), None);
    let keep = Keep { span: Some(Duration::from_secs(4)), ..Keep::default() };
    assert_eq!(plan_prune(&*reader, keep, Timestamp(10_000)).await.expect("a plan").upto, Seq(10));
    store.prune(Seq(10), 100).await.expect("pruned");
    let found = reader.last_committed_before(Timestamp(0)).await.expect("a seq");
    assert_eq!(found, Seq(10), "the floor, not 0");
    assert_eq!(reader.commit_time(Seq(3)).await.expect("a read"), None, "it is gone");
    assert_eq!(reader.commit_time(Seq(11)).await.expect("a read"), at(6));
    store.close().await.expect("closed");
    let loaded = place.open().await.load().await.expect("loaded");
    assert_eq!(loaded.committed_at, at(10), "the clock of the next process goes on from here");
}

/// What has no commit time is as old as the next batch that has one at most, and is never deleted before it.
async fn what_has_no_commit_time_counts_as_committed_with_the_next_that_has(place: &mut dyn Place) {
    let (mut store, reader) = opened(place).await;
    for (seq, committed_at) in [(1, None), (2, None), (3, at(3)), (4, None), (5, at(5)), (6, None)] {
        let batch = WriteBatch { committed_at, ..of_events(vec![committed(seq, "a", "x", "1")]) };
        commit(&mut store, &batch).await;
    }
    for (second, expected) in [(3, 0), (4, 3), (5, 3), (6, 5), (1_000, 5)] {
        let found = reader.last_committed_before(Timestamp(second * 1_000)).await.expect("a seq");
        assert_eq!(found, Seq(expected), "before second {second}");
    }
    for (seq, expected) in [(1, None), (3, at(3)), (4, None), (5, at(5)), (6, None)] {
        assert_eq!(reader.commit_time(Seq(seq)).await.expect("a read"), expected, "of seq {seq}");
    }
}

fn expiry(kind: FactKind, before: i64, settled: u64) -> Expiry {
    let (before, now) = (Timestamp(before * 1_000), Timestamp(1_000_000));
    Expiry { kind, before, now, settled: Seq(settled), from: None, facts_max: 2 }
}

/// Looks through all facts of a kind, in pieces; gives how many went.
async fn expire(store: &mut Box<dyn crate::Store>, expiry: Expiry) -> u64 {
    let (mut deleted, mut next) = (0, Some(expiry));
    while let Some(expiry) = next {
        let expired = store.expire(&expiry).await.expect("looked through");
        assert!(expired.deleted + expired.kept <= expiry.facts_max, "a piece is bounded: {expired:?}");
        deleted += expired.deleted;
        next = expired.next.map(|from| Expiry { from: Some(from), ..expiry });
    }
    deleted
}

async fn keys_of(reader: &dyn crate::Read, kind: FactKind) -> Vec<String> {
    let facts = reader.facts(kind, None).await.expect("facts");
    facts.into_iter().map(|fact| format!("{}.{}", fact.owner, fact.key)).collect()
}

async fn what_has_expired_goes_and_what_may_be_repeated_stays(place: &mut dyn Place) {
    let (mut store, reader) = opened(place).await;
    let result = "{\"result\":1}";
    for seq in 1..=6_u64 {
        let key = format!("k{seq}");
        let facts = vec![
            fact(FactKind::Key, "b", &key, Some("{}"), seq),
            fact(FactKind::Key, "a", &key, Some("{}"), seq),
            fact(FactKind::Result, "a", &key, Some(if seq == 2 { OPEN_EFFECT } else { result }), seq),
            fact(FactKind::State, "a", &key, Some("1"), seq),
        ];
        let events = vec![committed(seq, "a", "x", "1")];
        let batch = WriteBatch { events, facts, committed_at: at(seq as i64), ..WriteBatch::default() };
        commit(&mut store, &batch).await;
    }
    // Whatever became of the journal.
    store.prune(Seq(5), 100).await.expect("pruned");

    assert_eq!(expire(&mut store, expiry(FactKind::Key, 4, u64::MAX >> 1)).await, 6);
    assert_eq!(keys_of(&*reader, FactKind::Key).await, ["a.k4", "a.k5", "a.k6", "b.k4", "b.k5", "b.k6"]);
    assert_eq!(keys_of(&*reader, FactKind::Result).await.len(), 6, "the other kind is as it was");
    // A team stands at 4: what was written at 4 may belong to an input that is repeated.
    assert_eq!(expire(&mut store, expiry(FactKind::Result, 1_000, 4)).await, 2);
    assert_eq!(keys_of(&*reader, FactKind::Result).await, ["a.k2", "a.k4", "a.k5", "a.k6"], "an intent never goes");
    // Written again, it is young again.
    let facts = vec![fact(FactKind::Key, "a", "k4", Some("{}"), 6)];
    commit(&mut store, &WriteBatch { facts, committed_at: at(9), ..WriteBatch::default() }).await;
    assert_eq!(expire(&mut store, expiry(FactKind::Key, 7, u64::MAX >> 1)).await, 5);
    assert_eq!(keys_of(&*reader, FactKind::Key).await, ["a.k4"]);
    assert_eq!(keys_of(&*reader, FactKind::State).await.len(), 6);
}

async fn facts_without_a_time_count_from_the_first_look_on(place: &mut dyn Place) {
    let (mut store, reader) = opened(place).await;
    commit(&mut store, &of_events(vec![committed(1, "a", "x", "1")])).await;
    let facts = vec![fact(FactKind::Key, "a", "old", Some("{}"), 1)];
    commit(&mut store, &WriteBatch { facts, ..WriteBatch::default() }).await;
    // The first look is at second 1,000.
    assert_eq!(expire(&mut store, expiry(FactKind::Key, 1_000, 9)).await, 0);
    let later = Expiry { now: Timestamp(9_000_000), ..expiry(FactKind::Key, 1_001, 9) };
    assert_eq!(expire(&mut store, later).await, 1);
    assert!(keys_of(&*reader, FactKind::Key).await.is_empty());
}
