//! How much memory a process had at most: a million publishes offered while the disk takes nothing, payloads at the
//! limit and one above; and whatever is in a file read whole.

use std::{path::Path, time::Duration};

use atra_bus::{Committed, Seq};
use atra_rigs::{
    flood::Flood,
    job::{Command, Job},
};
use atra_storage::{
    FactKind, FactRow, SqliteOptions, SqliteStore, Store as _, WriteBatch,
    conformance::{event, name},
};

use crate::{
    judge::{Judge, Promise},
    support::{child_for, end, figure, folder, lines_of, pause},
};

/// Small publishes that are offered. Their content is four times what the process may have.
const OFFERS: u64 = 1_000_000;
const BYTES: usize = 1_000;
/// What the process may have at most, in KiB: the queue's 64 MiB as texts, the batch at work once more on its way into
/// SQLite, its cache of 64 MB, and a base of some 30.
const PEAK_KIB: u64 = 256 << 10;
/// What it may have while only small publishes are queued: 4,096 of a kilobyte.
const SMALL_PEAK_KIB: u64 = 64 << 10;

/// Facts of nearly a kilobyte, a third each of shared memory, of one agent's state, and of dead letters of many agents.
const FACTS: u64 = 200_000;
/// Events of four kilobytes.
const EVENTS: u64 = 25_000;
/// What reading it all may take, in KiB: a page of 4 MiB as rows and once more on its way into the hash, SQLite's cache
/// of 8 MB, and a base of some 10. What of the file is mapped is the system's cache and does not count.
const READ_PEAK_KIB: u64 = 30 << 10;

#[test]
fn a_million_offers_and_payloads_at_the_limit_take_bounded_memory() {
    let folder = folder();
    let (db, ledger) = (folder.path().join("flood.db"), folder.path().join("flood.ledger"));
    let full = folder.path().join("full");
    let offers = OFFERS;
    let flood = Flood { db: db.clone(), ledger: ledger.clone(), full: full.clone(), offers, bytes: BYTES };
    let told = [("FULL", full.display().to_string())];
    let started = child_for(&Job::Flood(flood), &db, &ledger, &told).spawn().unwrap();
    assert!(end(started, "flood"), "stopped cleanly: {:?}", lines_of(&ledger).last());

    let lines = lines_of(&ledger);
    let verdict = Judge::default().judge(&db, &lines, Promise::Process).unwrap();
    let of = |name: &str| figure(&lines, name);
    eprintln!(
        "memory: {offers} of {BYTES} bytes offered, {} taken, peak {} KiB; 32 of 16 MiB offered, {} taken, 32 of one byte \
         more refused, peak {} KiB; {verdict:?}",
        of("small_taken"),
        of("small_peak_kib"),
        of("large_taken"),
        of("peak_kib"),
    );
    assert_eq!((of("degraded"), of("too_large")), (1, 32));
    let taken = of("small_taken") + of("large_taken");
    assert_eq!((verdict.acknowledged, verdict.refused, taken + of("refused")), (taken, 0, offers + 32));
    assert!(of("large_taken") >= 4, "four of the largest fit the queue");
    assert!(of("small_peak_kib") < SMALL_PEAK_KIB && of("peak_kib") < PEAK_KIB);
}

/// A file with so many facts and events.
async fn fill(db: &Path) {
    let mut store = SqliteStore::open(SqliteOptions::new(db)).await.unwrap();
    store.load().await.unwrap();
    let value: std::sync::Arc<str> = format!("\"{}\"", "x".repeat(950)).into();
    let fact = |n: u64| {
        let (kind, owner) = match n % 3 {
            0 => (FactKind::Memory, "writer".to_owned()),
            1 => (FactKind::State, "agent".to_owned()),
            _ => (FactKind::DeadLetter, format!("agent{}", n % 1_000)),
        };
        let (owner, key, value) = (name(&owner), format!("k{n}"), Some(value.clone()));
        FactRow { kind, owner, key, value, version: Seq::ZERO, event: None }
    };
    for first in (0..FACTS).step_by(4_000) {
        let facts = (first..first + 4_000).map(fact).collect();
        store.commit(&WriteBatch { facts, ..WriteBatch::default() }).await.unwrap();
    }
    let json = format!("\"{}\"", "x".repeat(4_000));
    for first in (1..=EVENTS).step_by(1_000) {
        let seqs = first..first + 1_000;
        let of = |n| Committed { seq: Seq(n), event: event("rig", "a.b", &json, n), cause_seq: None, seen: None };
        let batch = WriteBatch { events: seqs.map(of).collect(), ..WriteBatch::default() };
        store.commit(&batch).await.unwrap();
    }
    store.close().await.unwrap();
}

#[test]
fn reading_a_whole_file_takes_the_memory_of_a_page() {
    let folder = folder();
    let (db, ledger) = (folder.path().join("large.db"), folder.path().join("read.ledger"));
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(fill(&db));
    let job = Job::Command { db: db.clone(), ledger: ledger.clone(), command: Command::ReadAll };
    let mut reading = child_for(&job, &db, &ledger, &[]).spawn().unwrap();
    let (status, mut peak) = (format!("/proc/{}/status", reading.id()), 0);
    while reading.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let anonymous = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = anonymous.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0);
        peak = peak.max(kib);
        pause(Duration::from_millis(2));
    }
    assert!(end(reading, "reading"), "{:?}", lines_of(&ledger));
    let bytes = std::fs::metadata(&db).unwrap().len();
    eprintln!("memory: a file of {} KiB was read with a peak of {peak} KiB", bytes >> 10);
    assert!(peak > 0, "nothing was measured");
    assert!(bytes >> 10 > 8 * READ_PEAK_KIB && peak < READ_PEAK_KIB, "{peak} KiB");
}
