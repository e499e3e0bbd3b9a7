//! Pages are bounded by bytes as well as by count, and give everything once.

use atra_bus::Seq;

use super::{Place, all, commit, committed, fact, name, of_events, of_facts, opened};
use crate::{FactKind, PAGE_BYTES};

/// Three of them and a bit fit a page.
const LARGE: usize = PAGE_BYTES / 4 + 1;

pub(super) async fn run<P: Place>(fresh: &mut impl FnMut() -> P) {
    a_page_of_the_journal_is_bounded_by_bytes(&mut fresh()).await;
    a_page_of_facts_is_bounded_by_bytes(&mut fresh()).await;
    owners_are_listed_and_facts_counted(&mut fresh()).await;
}

fn large() -> String {
    format!("\"{}\"", "x".repeat(LARGE))
}

async fn a_page_of_the_journal_is_bounded_by_bytes(place: &mut dyn Place) {
    let (mut store, reader) = opened(place).await;
    let large = large();
    let events = (1..=10).map(|n| committed(n, "p", "a.b", if n == 6 { "1" } else { &large }));
    commit(&mut store, &of_events(events.collect())).await;
    let (mut at, mut pages) = (Seq::ZERO, Vec::new());
    while at < Seq(10) {
        let (page, upto) = reader.journal(at, Seq(10), &all(), 100).await.expect("a page");
        assert_eq!(page.last().map(|event| event.seq), Some(upto), "a page ends with its last event");
        at = upto;
        pages.push(page.len());
    }
    assert_eq!(pages, [4, 5, 1]);
    let (mut before, mut seqs) = (Seq(u64::MAX), Vec::new());
    while before > Seq(1) {
        let (page, after) = reader.journal_before(before, &all(), 100).await.expect("a page");
        assert!(page.len() <= 5, "{} in a page", page.len());
        before = after.next();
        seqs.extend(page.iter().rev().map(|event| event.seq.get()));
    }
    assert_eq!(seqs, (1..=10).rev().collect::<Vec<_>>());
    assert_eq!(reader.journal_tail(&all(), 9).await.expect("a tail").len(), 9, "a tail is whole");
}

async fn a_page_of_facts_is_bounded_by_bytes(place: &mut dyn Place) {
    let (mut store, reader) = opened(place).await;
    let large = large();
    for kind in [FactKind::State, FactKind::Memory] {
        let facts = (0..10).map(|n| fact(kind, "a", &format!("k{n}"), Some(&large), n + 1));
        commit(&mut store, &of_facts(facts.collect())).await;
        let (mut from, mut pages, mut keys) = (Some(String::new()), Vec::new(), Vec::new());
        while let Some(key) = from {
            let page = match kind {
                FactKind::Memory => reader.memory_page(&key, 100).await.expect("a page"),
                _ => reader.facts_page(kind, &name("a"), &key, 100).await.expect("a page"),
            };
            pages.push(page.facts.len());
            keys.extend(page.facts.into_iter().map(|fact| fact.key));
            from = page.next;
        }
        assert_eq!((pages, keys.len()), (vec![4, 4, 2], 10), "{kind:?}");
        keys.dedup();
        assert!(keys.is_sorted() && keys.len() == 10, "{kind:?}: {keys:?}");
        assert_eq!(reader.facts(kind, None).await.expect("facts").len(), 10, "all at once is all");
    }
}

async fn owners_are_listed_and_facts_counted(place: &mut dyn Place) {
    let (mut store, reader) = opened(place).await;
    let facts = [("b", "k1"), ("a", "k1"), ("b", "k2"), ("c", "k1")];
    let rows = facts.map(|(owner, key)| fact(FactKind::Timer, owner, key, Some("1"), 1));
    let others = [
        fact(FactKind::State, "d", "k", Some("1"), 1),
        fact(FactKind::Memory, "e", "m1", Some("1"), 1),
        fact(FactKind::Memory, "f", "m2", Some("1"), 2),
    ];
    commit(&mut store, &of_facts(rows.into_iter().chain(others).collect())).await;
    commit(&mut store, &of_facts(vec![fact(FactKind::Timer, "c", "k1", None, 2)])).await;
    let owners = reader.fact_owners(FactKind::Timer).await.expect("owners");
    assert_eq!(owners, [name("a"), name("b")], "who has none any more is not listed");
    assert!(reader.fact_owners(FactKind::Offset).await.expect("owners").is_empty());
    let b = name("b");
    for (kind, owner, expected) in [
        (FactKind::Timer, None, 3),
        (FactKind::Timer, Some(&b), 2),
        (FactKind::Memory, None, 2),
        (FactKind::Key, None, 0),
    ] {
        assert_eq!(reader.count_facts(kind, owner).await.expect("a number"), expected, "{kind:?} {owner:?}");
    }
    assert!(reader.facts_page(FactKind::Timer, &name("never"), "", 9).await.expect("a page").facts.is_empty());
}
