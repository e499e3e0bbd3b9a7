//! The n-th read, write, sync or truncate fails, once or from then on.

use std::{collections::BTreeMap, path::Path};

use atra_rigs::work::Work;

use crate::{
    judge::{Judge, Promise, Verdict},
    support::{Seed, child, end, folder, lines, rounds},
};

/// Points in CI; `ATRA_RIG_ROUNDS` asks for more, and a great number for all.
const POINTS: u64 = 160;
const EIO: u64 = 5;

/// Calls of each class in a clean pass.
fn clean_pass(work: &Work, folder: &Path) -> BTreeMap<String, u64> {
    let counts = folder.join("counts");
    let started = child(work, &[("COUNTS", counts.display().to_string())]).spawn().unwrap();
    assert!(end(started, "clean pass"), "the ledger ends with {:?}", lines(work).last());
    let text = std::fs::read_to_string(counts).unwrap();
    text.lines().filter_map(|line| line.split_once(' ')).map(|(class, n)| (class.into(), n.parse().unwrap())).collect()
}

#[test]
fn whatever_call_to_the_disk_fails_the_ledger_is_kept() {
    let mut seed = Seed::begin("errors");
    let folder = folder();
    let work = |name: &str| Work { power_every: 5, ..Work::on(folder.path().join(name)) };
    let counts = clean_pass(&work("clean.db"), folder.path());
    let mut points = Vec::new();
    for (class, n) in &counts {
        // A little beyond the clean pass: another order of the threads may need a call more.
        points.extend((1..=n + 1).flat_map(|at| [(class.clone(), at, 1), (class.clone(), at, 0)]));
    }
    let n_all = points.len();
    while points.len() as u64 > rounds(POINTS) {
        points.swap_remove(seed.below(points.len() as u64) as usize);
    }
    eprintln!("errors: {} of {n_all} points, a clean pass has {counts:?}", points.len());
    let (mut sum, mut n_stopped) = (Verdict::default(), 0);
    for (class, at, times) in &points {
        let what = format!("{class} {at} fails {}", if *times == 0 { "from then on" } else { "once" });
        let work = work(&format!("{class}-{at}-{times}.db"));
        let told =
            [("CLASS", class.clone()), ("AT", at.to_string()), ("FOR", times.to_string()), ("ERRNO", EIO.to_string())];
        let is_stopped = end(child(&work, &told).spawn().unwrap(), &what);
        n_stopped += u64::from(is_stopped);
        let verdict = Judge::default().judge(&work.db, &lines(&work), Promise::Process);
        sum += verdict.unwrap_or_else(|wrong| panic!("{what}: {wrong}; the ledger: {:?}", lines(&work)));
        std::fs::remove_file(&work.db).unwrap();
    }
    eprintln!("errors: {n_stopped} children came to a clean end; {sum:?}");
    assert!(sum.acknowledged > 0 && sum.refused > 0, "the points did not hit: {sum:?}");
}
