//! SIGKILL at random moments under full load, and in a migration.

use std::{
    path::{Path, PathBuf},
    process::Child,
    time::Duration,
};

use atra_rigs::{
    job::{Command, Job},
    work::Work,
};
use atra_storage::check;

use crate::{
    commands::to_the_first_version,
    judge::{Judge, Promise, Verdict},
    support::{Seed, child, child_for, folder, lines, pause, rounds},
};

const ROUNDS: u64 = 30;
/// After so many the next ones begin with an empty database: judging takes as long as the journal is.
const LIVES: u64 = 10;
/// One life in so many only brings an old file up to date.
const MIGRATIONS: u64 = 6;

/// What was done, in how many lives.
#[derive(Debug, Default)]
struct Count {
    killed: u64,
    /// Killed in a migration, which is short: others came to its end.
    killed_migrating: u64,
    one_team: u64,
    many_teams: u64,
    imports: u64,
    backups: u64,
    /// Lives that acknowledged something new, and copies that were cut.
    progress: u64,
    cut_backups: u64,
    /// Of all databases, as they were in the end.
    acknowledged: u64,
    unknown: u64,
}

#[test]
fn killed_at_random_moments_it_keeps_what_it_acknowledged() {
    let mut seed = Seed::begin("kill");
    let (folder, mut judge, mut last) = (folder(), Judge::default(), Verdict::default());
    let mut count = Count::default();
    for life in 1..=rounds(ROUNDS) {
        let db = folder.path().join(format!("kill-{}.db", (life - 1) / LIVES));
        let is_first = (life - 1).is_multiple_of(LIVES);
        if is_first {
            count.add(std::mem::take(&mut last));
            (judge, last) = (Judge::default(), Verdict::default());
        }
        let work = Work { life, ..Work::on(db) };
        let work = if !is_first && seed.below(MIGRATIONS) == 0 {
            to_the_first_version(&work.db);
            let open = Job::Command { db: work.db.clone(), ledger: folder.path().join("open"), command: Command::Open };
            let started = child_for(&open, &work.db, &work.ledger, &[]).spawn().unwrap();
            count.killed_migrating += kill(started, Duration::from_micros(seed.below(25_000)));
            work
        } else {
            let work = draw(&mut seed, work);
            let started = child(&work, &[]).spawn().unwrap();
            count.killed += kill(started, Duration::from_millis(5 + seed.below(250)));
            count.see(&work);
            work
        };
        let verdict = judge.judge(&work.db, &lines(&work), Promise::Process);
        let verdict = verdict.unwrap_or_else(|wrong| panic!("life {life}, {work:?}: {wrong}"));
        count.cut_backups += check_copies(folder.path());
        count.progress += u64::from(verdict.acknowledged > last.acknowledged);
        last = verdict;
        if life.is_multiple_of(LIVES) {
            remove(&work);
        }
        if life.is_multiple_of(500) {
            eprintln!("kill: life {life}, {count:?}");
        }
    }
    count.add(last);
    eprintln!("kill: {count:?}, lost 0");
    let rounds = rounds(ROUNDS);
    assert!(count.cut_backups > 0 && count.killed_migrating > 0, "no moment hit a backup or a migration");
    assert!(count.killed >= rounds / 2 && count.progress >= rounds / 4, "the moments did not hit");
}

/// One producer or many, no team, one or many, with imports, with backups or without, and checkpoints all the time.
fn draw(seed: &mut Seed, work: Work) -> Work {
    Work {
        producers: [1, 8, 64][seed.below(3) as usize],
        teams: [0, 1, 8][seed.below(3) as usize],
        imports: seed.below(2) * 1_000,
        backups: (seed.below(3) / 2) * 1_000,
        each: 100_000,
        power_every: [0, 2, 50][seed.below(3) as usize],
        bytes_max: [100, 4_000, 40_000][seed.below(3) as usize],
        checkpoint_ms: seed.below(5),
        ..work
    }
}

/// Kills a child at a moment; 0 when it had ended before.
fn kill(mut started: Child, moment: Duration) -> u64 {
    pause(moment);
    let was_there = started.try_wait().unwrap().is_none();
    started.kill().unwrap();
    started.wait().unwrap();
    u64::from(was_there)
}

impl Count {
    fn see(&mut self, work: &Work) {
        self.one_team += u64::from(work.teams == 1);
        self.many_teams += u64::from(work.teams > 1);
        self.imports += u64::from(work.imports > 0);
        self.backups += u64::from(work.backups > 0);
    }

    fn add(&mut self, verdict: Verdict) {
        self.acknowledged += verdict.acknowledged;
        self.unknown += verdict.unknown_there + verdict.unknown_gone;
    }
}

/// A database that was judged for the last time: thousands would fill the disk.
fn remove(work: &Work) {
    for suffix in ["", "-wal", "-shm", ".lock"] {
        // Not all of them need be there.
        let _ = std::fs::remove_file(PathBuf::from(format!("{}{suffix}", work.db.display())));
    }
    let _ = std::fs::remove_file(&work.ledger);
}

/// A copy that has its name is whole; tells how many have not, and removes all.
fn check_copies(folder: &Path) -> u64 {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut n_cut = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let Some((_, copy)) = name.split_once(".copy-") else { continue };
        if copy.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
            let report = tokio.block_on(check(&path)).unwrap();
            assert!(report.problems.is_empty(), "{name}: {:?}", report.problems);
        }
        n_cut += u64::from(copy.ends_with(".partial"));
        // Reading a copy may have removed what lay beside it.
        let _ = std::fs::remove_file(path);
    }
    n_cut
}
