//! Power loss: a model of the disk is fed with everything that the child wrote and synced, in its order, and asked what
//! it could hold at any moment. What was synced is there; of each write since, any sector may be there, or garbage where
//! the file has grown. Names of files are taken as durable. A sync that failed forgets what it should have written,
//! as Linux does: a later one that succeeds says nothing of it.

use std::{collections::BTreeMap, path::Path};

use atra_rigs::{
    ledger::{Line, parse},
    work::Work,
};

use crate::{
    judge::{Judge, Promise, Verdict},
    support::{Seed, child, end, folder, rounds},
};

const MOMENTS: u64 = 60;
const SECTOR: usize = 512;

/// What `faults.c` logs.
#[derive(Debug)]
enum Record<'a> {
    Write(u8, usize, &'a [u8]),
    Sync(u8),
    Truncate(u8, usize),
    FailedSync(u8),
    Gone(u8),
}

const LEDGER: u8 = 5;
const FILES: [(u8, &str); 3] = [(1, ""), (2, "-wal"), (3, "-journal")];

fn records(mut log: &[u8]) -> Vec<Record<'_>> {
    let mut records = Vec::new();
    while let Some((head, rest)) = log.split_at_checked(16) {
        let length = u32::from_le_bytes(head[4..8].try_into().unwrap()) as usize;
        let offset = u64::from_le_bytes(head[8..16].try_into().unwrap()) as usize;
        let (bytes, rest) = rest.split_at(if head[0] == 1 { length } else { 0 });
        records.push(match head[0] {
            1 => Record::Write(head[1], offset, bytes),
            2 => Record::Sync(head[1]),
            3 => Record::Truncate(head[1], offset),
            4 => Record::FailedSync(head[1]),
            5 => Record::Gone(head[1]),
            other => panic!("no record: {other}"),
        });
        log = rest;
    }
    records
}

/// One file: what is safe, and what may be there or not.
#[derive(Debug, Clone, Default)]
struct File<'a> {
    safe: Vec<u8>,
    pending: Vec<Change<'a>>,
}

#[derive(Debug, Clone, Copy)]
enum Change<'a> {
    Write(usize, &'a [u8]),
    Truncate(usize),
}

fn put(image: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if image.len() < at + bytes.len() {
        image.resize(at + bytes.len(), 0);
    }
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

impl File<'_> {
    /// Everything pending takes effect with this chance in percent, sector by sector.
    fn settle(&mut self, seed: &mut Seed, chance: u64) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Truncate(length) if seed.below(100) < chance => self.safe.resize(length, 0),
                Change::Truncate(_) => {}
                Change::Write(mut at, mut bytes) => {
                    while !bytes.is_empty() {
                        let (sector, rest) = bytes.split_at((SECTOR - at % SECTOR).min(bytes.len()));
                        if seed.below(100) < chance {
                            put(&mut self.safe, at, sector);
                        } else if at >= self.safe.len() && seed.below(100) < chance {
                            let garbage = vec![seed.next() as u8; sector.len()];
                            put(&mut self.safe, at, &garbage);
                        }
                        (at, bytes) = (at + sector.len(), rest);
                    }
                }
            }
        }
    }
}

/// The disk at a place in the log, and the ledger as far as it was written then.
#[derive(Default)]
struct Disk<'a> {
    files: BTreeMap<u8, File<'a>>,
    ledger: Vec<u8>,
}

impl<'a> Disk<'a> {
    fn apply(&mut self, record: &Record<'a>, seed: &mut Seed) {
        match record {
            Record::Write(LEDGER, _, bytes) => self.ledger.extend_from_slice(bytes),
            Record::Write(file, at, bytes) => {
                self.files.entry(*file).or_default().pending.push(Change::Write(*at, bytes));
            }
            Record::Truncate(file, length) => {
                self.files.entry(*file).or_default().pending.push(Change::Truncate(*length));
            }
            Record::Sync(file) => self.files.entry(*file).or_default().settle(seed, 100),
            Record::FailedSync(file) => self.files.entry(*file).or_default().settle(seed, 50),
            Record::Gone(file) => drop(self.files.remove(file)),
        }
    }

    /// Leaves files at `db` as they could be found after power came back.
    fn lose_power(&self, seed: &mut Seed, db: &Path) -> Vec<Line> {
        let chance = [0, 10, 50, 90, 100][seed.below(5) as usize];
        for (file, suffix) in FILES {
            let path = format!("{}{suffix}", db.display());
            let mut file = self.files.get(&file).cloned().unwrap_or_default();
            file.settle(seed, chance);
            if file.safe.is_empty() && !suffix.is_empty() {
                let _ = std::fs::remove_file(path);
            } else {
                std::fs::write(path, file.safe).unwrap();
            }
        }
        let _ = std::fs::remove_file(format!("{}-shm", db.display()));
        parse(std::str::from_utf8(&self.ledger).unwrap()).unwrap()
    }
}

/// Lets the power go at random moments of the child's life, and judges what is left.
fn lose_power_often(mut seed: Seed, what: &str, work: &Work, told: &[(&str, String)], moments: u64) -> Verdict {
    let log = work.db.with_extension("log");
    let told = [told, &[("LOG", log.display().to_string())]].concat();
    end(child(work, &told).spawn().unwrap(), what);
    let log = std::fs::read(log).unwrap();
    let records = records(&log);
    // The first life makes the tables; a database that never was has nothing to lose.
    let is_sent = |record: &Record<'_>| matches!(record, Record::Write(LEDGER, _, b) if b.starts_with(b"S"));
    // A disk that failed while the database was opened: nothing was promised.
    let Some(first) = records.iter().position(is_sent) else { return Verdict::default() };
    let mut at: Vec<usize> =
        (0..moments).map(|_| first + seed.below((records.len() - first) as u64) as usize).collect();
    at.sort_unstable();
    let (mut disk, mut done, mut sum) = (Disk::default(), 0, Verdict::default());
    for moment in at {
        for record in &records[done..moment] {
            disk.apply(record, &mut seed);
        }
        done = done.max(moment);
        let found = work.db.with_extension("found");
        let lines = disk.lose_power(&mut seed, &found);
        let verdict = Judge::default().judge(&found, &lines, Promise::Power);
        sum += verdict.unwrap_or_else(|wrong| panic!("{what}: power lost at record {moment}: {wrong}"));
    }
    sum
}

#[test]
fn what_level_power_acknowledged_survives_power_loss_and_level_process_does_not_claim_to() {
    let seed = Seed::begin("power");
    let folder = folder();
    let work = |name: &str, power_every| Work {
        producers: 4,
        teams: 2,
        each: 60,
        power_every,
        bytes_max: 6_000,
        ..Work::on(folder.path().join(name))
    };
    let all = lose_power_often(seed, "power", &work("power.db", 1), &[], rounds(MOMENTS));
    let mixed = lose_power_often(seed, "mixed", &work("mixed.db", 4), &[], rounds(MOMENTS));
    let process = lose_power_often(seed, "process", &work("process.db", 0), &[], rounds(MOMENTS));
    eprintln!("power: {all:?}\nmixed: {mixed:?}\nprocess: {process:?}");
    assert!(all.acknowledged > 0 && mixed.acknowledged > 0);
    assert!(process.lost > 0, "a rig that loses nothing at level process loses nothing at all");
}

#[test]
fn after_a_failed_sync_level_power_is_claimed_only_for_what_survives() {
    let mut seed = Seed::begin("failed sync");
    let folder = folder();
    let (mut sum, n_syncs) = (Verdict::default(), rounds(12));
    for round in 0..n_syncs {
        let work = Work {
            producers: 4,
            each: 60,
            power_every: 3,
            bytes_max: 6_000,
            ..Work::on(folder.path().join(format!("{round}.db")))
        };
        let at = 4 + seed.below(60);
        let told = [("CLASS", "sync".to_owned()), ("AT", at.to_string())];
        sum += lose_power_often(seed, &format!("sync {at} fails"), &work, &told, 20);
        seed.next();
    }
    eprintln!("failed sync: {sum:?}");
    assert!(sum.acknowledged > 0);
}
