//! SIGKILL at random moments under full load.

use std::time::Duration;

use atra_rigs::work::Work;

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
    let (mut n_killed, mut n_progress) = (0, 0);
    for life in 1..=rounds(ROUNDS) {
        let db = folder.path().join(format!("kill-{}.db", (life - 1) / LIVES));
        if (life - 1).is_multiple_of(LIVES) {
            (judge, last) = (Judge::default(), Verdict::default());
        }
        // One producer or many, no team or many, with an import or without, and checkpoints all the time.
        let work = Work {
            life,
            producers: [1, 8, 64][seed.below(3) as usize],
            teams: [0, 1, 8][seed.below(3) as usize],
            imports: seed.below(2) * 1_000,
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
        n_progress += u64::from(verdict.acknowledged > last.acknowledged);
        last = verdict;
    }
    eprintln!("kill: {n_killed} killed, {n_progress} had acknowledged something new; {last:?}");
    assert!(n_killed >= rounds(ROUNDS) / 2 && n_progress >= rounds(ROUNDS) / 4, "the moments did not hit");
}
