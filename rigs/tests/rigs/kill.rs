//! SIGKILL at random moments under full load.

use std::{path::Path, time::Duration};

use atra_rigs::work::Work;
use atra_storage::check;

use crate::{
    judge::{Judge, Promise, Verdict},
    support::{Seed, child, folder, lines, pause, rounds},
};

const ROUNDS: u64 = 30;
/// After so many the next ones begin with an empty database: judging takes as long as the journal is.
const LIVES: u64 = 30;

#[test]
fn killed_at_random_moments_it_keeps_what_it_acknowledged() {
    let mut seed = Seed::begin("kill");
    let (folder, mut judge, mut last) = (folder(), Judge::default(), Verdict::default());
    let (mut n_killed, mut n_progress, mut n_cut) = (0, 0, 0);
    for life in 1..=rounds(ROUNDS) {
        let db = folder.path().join(format!("kill-{}.db", (life - 1) / LIVES));
        if (life - 1).is_multiple_of(LIVES) {
            (judge, last) = (Judge::default(), Verdict::default());
        }
        // One producer or many, no team or many, with imports, with backups or without, and checkpoints all the time.
        let work = Work {
            life,
            producers: [1, 8, 64][seed.below(3) as usize],
            teams: [0, 1, 8][seed.below(3) as usize],
            imports: seed.below(2) * 1_000,
            backups: (seed.below(3) / 2) * 1_000,
            each: 100_000,
            power_every: [0, 2, 50][seed.below(3) as usize],
            bytes_max: [100, 4_000, 40_000][seed.below(3) as usize],
            checkpoint_ms: seed.below(5),
            ..Work::on(db)
        };
        let mut started = child(&work, &[]).spawn().unwrap();
        pause(Duration::from_millis(5 + seed.below(250)));
        n_killed += u64::from(started.try_wait().unwrap().is_none());
        started.kill().unwrap();
        started.wait().unwrap();
        let verdict = judge.judge(&work.db, &lines(&work), Promise::Process);
        let verdict = verdict.unwrap_or_else(|wrong| panic!("life {life}, {work:?}: {wrong}"));
        n_cut += check_copies(folder.path());
        n_progress += u64::from(verdict.acknowledged > last.acknowledged);
        last = verdict;
    }
    eprintln!(
        "kill: {n_killed} killed, {n_progress} had acknowledged something new, {n_cut} backups were cut; {last:?}"
    );
    assert!(n_cut > 0, "no moment hit a backup");
    assert!(n_killed >= rounds(ROUNDS) / 2 && n_progress >= rounds(ROUNDS) / 4, "the moments did not hit");
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
