//! No space for a while, and a disk that is slow.

use std::time::Duration;

use atra_rigs::{ledger::Line, work::Work};

use crate::{
    judge::{Judge, Promise},
    support::{child, end, folder, lines, pause, until},
};

fn n_acknowledged(lines: &[Line]) -> usize {
    lines.iter().filter(|line| matches!(line, Line::Acknowledged(..))).count()
}

fn has(lines: &[Line], state: &str) -> bool {
    lines.contains(&Line::State(state.into()))
}

/// No space, a file as large as it may be, a quota that is used up.
const NO_ROOM: [u32; 3] = [28, 27, 122];

#[test]
fn a_full_disk_degrades_reads_go_on_and_so_does_the_work_when_there_is_space() {
    NO_ROOM.into_iter().for_each(without_room);
}

fn without_room(errno: u32) {
    let folder = folder();
    let (full, over) = (folder.path().join("full"), folder.path().join("over"));
    let work = Work {
        producers: 16,
        each: 100_000,
        until: Some(over.clone()),
        power_every: 7,
        ..Work::on(folder.path().join("full.db"))
    };
    let told = [("FULL", full.display().to_string()), ("FULL_ERRNO", errno.to_string())];
    let mut started = child(&work, &told).spawn().unwrap();
    let mut before = 0;
    for _ in 0..3 {
        until(&mut started, &work, "progress", |lines| n_acknowledged(lines) > before + 50);
        let n_told = |state: &str| lines(&work).iter().filter(|line| **line == Line::State(state.into())).count();
        let (n_degraded, n_running) = (n_told("degraded"), n_told("running"));
        std::fs::write(&full, "").unwrap();
        until(&mut started, &work, "a degraded store", |_| n_told("degraded") > n_degraded);
        let while_full = n_acknowledged(&lines(&work));
        pause(Duration::from_millis(200));
        let now = lines(&work);
        assert_eq!(n_acknowledged(&now), while_full, "acknowledged on a full disk");
        assert!(matches!(now.last(), Some(Line::Read(_))), "reads go on: {:?}", now.last());
        std::fs::remove_file(&full).unwrap();
        until(&mut started, &work, "a running store", |_| n_told("running") > n_running);
        before = n_acknowledged(&lines(&work));
    }
    std::fs::write(&over, "").unwrap();
    assert!(end(started, "full"), "stopped cleanly: {:?}", lines(&work).last());
    let verdict = Judge::default().judge(&work.db, &lines(&work), Promise::Process).unwrap();
    eprintln!("full, errno {errno}: {verdict:?}");
    assert_eq!((verdict.refused, verdict.unknown_gone), (0, 0), "nothing is given up on a full disk");
    assert!(has(&lines(&work), "degraded"));
}

#[test]
fn a_slow_disk_slows_the_work_and_loses_nothing() {
    let folder = folder();
    let over = folder.path().join("over");
    let slow = |name: &str, micros: u64| {
        let work = Work {
            producers: 64,
            each: 100_000,
            power_every: 1,
            teams: 0,
            imports: 0,
            until: Some(over.clone()),
            ..Work::on(folder.path().join(name))
        };
        let mut started = child(&work, &[("DELAY", micros.to_string())]).spawn().unwrap();
        until(&mut started, &work, "the first acknowledgement", |lines| n_acknowledged(lines) > 0);
        pause(Duration::from_millis(1_000));
        std::fs::write(&over, "").unwrap();
        assert!(end(started, name), "stopped cleanly");
        std::fs::remove_file(&over).unwrap();
        let verdict = Judge::default().judge(&work.db, &lines(&work), Promise::Process).unwrap();
        assert_eq!(verdict.refused + verdict.unknown_gone + verdict.unknown_there, 0);
        verdict.acknowledged
    };
    let (quick, slower) = (slow("quick.db", 0), slow("slow.db", 2_000));
    eprintln!("slow: {quick} acknowledged in a second, {slower} with 2 ms more for each write and sync");
    assert!(slower > 0 && slower < quick);
}
