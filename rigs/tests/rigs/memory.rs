//! A million publishes offered while the disk takes nothing, and payloads at the limit and one above: how much memory
//! the process had at most.

use atra_rigs::{flood::Flood, job::Job};

use crate::{
    judge::{Judge, Promise},
    support::{child_for, end, figure, folder, lines_of},
};

/// Small publishes that are offered. Their content is four times what the process may have.
const OFFERS: u64 = 1_000_000;
const BYTES: usize = 1_000;
/// What the process may have at most, in KiB: the queue's 64 MiB as texts, the batch at work once more on its way into
/// SQLite, its cache of 64 MB, and a base of some 30.
const PEAK_KIB: u64 = 256 << 10;
/// What it may have while only small publishes are queued: 4,096 of a kilobyte.
const SMALL_PEAK_KIB: u64 = 64 << 10;

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
