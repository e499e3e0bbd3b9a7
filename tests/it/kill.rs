//! The real binary: killed, stopped, placed apart, and always the same digest. It runs on real candles, or on generated
//! ones where the real ones are absent.
//!
//! The seed of the random moments is printed; `ATRA_KILL_SEED` repeats them and `ATRA_KILL_ROUNDS` sets how many.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use atra_test_support::candles_file;
use serde_json::Value;

/// SIGKILLs in one run; fifty is what the guarantee is stated with.
const KILLS: u64 = 50;

fn atra() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atra"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn done(output: Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {error}", output.status);
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(text.lines().last().expect("a line")).unwrap()
}

fn import(data: &Path, db: &Path) {
    let imported = atra()
        .args(["import", "candles", "--ticker", "DOTUSDT", "--interval", "15m", "--json", "--db"])
        .arg(db)
        .arg(data)
        .output()
        .unwrap();
    done(imported);
}

fn run(db: &Path) -> Command {
    let mut command = atra();
    command.args(["run", "--until-idle", "--json", "--db"]).arg(db);
    command
}

fn digest(db: &Path) -> Value {
    done(atra().args(["db", "digest", "--json", "--db"]).arg(db).output().unwrap())["digest"].clone()
}

/// The last seq of the journal.
fn seq(db: &Path) -> u64 {
    let info = done(atra().args(["db", "info", "--json", "--db"]).arg(db).output().unwrap());
    info["last_seq"].as_u64().unwrap()
}

/// SplitMix64: the moments need to be repeatable, nothing more.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[expect(clippy::disallowed_methods, reason = "a random moment of real time is the stimulus of this test")]
fn after(moment: Duration) {
    std::thread::sleep(moment);
}

/// Sends a signal. A child that has ended already, and was not waited for, takes it too.
fn end(child: &Child, signal: &str) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn a_run_that_is_killed_at_random_moments_has_the_digest_of_one_that_is_not() {
    let seed = std::env::var("ATRA_KILL_SEED").ok().and_then(|text| text.parse().ok());
    let mut state: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()));
    let kills: u64 = std::env::var("ATRA_KILL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    eprintln!("ATRA_KILL_SEED={state} ATRA_KILL_ROUNDS={kills}");
    let folder = tempfile::tempdir().unwrap();
    let (data, _) = candles_file(folder.path());
    let (fresh, whole) = (folder.path().join("fresh.db"), folder.path().join("whole.db"));
    import(&data, &fresh);
    let copy = |to: PathBuf| std::fs::copy(&fresh, &to).map(|_bytes| to).unwrap();
    let mut killed = copy(folder.path().join("killed.db"));
    copy(whole.clone());
    let expected = done(run(&whole).output().unwrap());
    let same = |found: &Value| {
        for key in ["digest", "candles", "fills", "equity"] {
            assert_eq!(found[key], expected[key], "{key}");
        }
    };
    let (mut n_killed, mut n_progress, mut n_done, mut last) = (0, 0, 0, 0);
    let mut longest = 250;
    while n_killed < kills {
        assert!(n_done < kills, "{n_done} runs ended before their moment came, {n_killed} were killed");
        let mut child = run(&killed).spawn().unwrap();
        after(Duration::from_millis(10 + next(&mut state) % longest));
        if child.try_wait().unwrap().is_some() {
            // Quicker than its moment: what it left is compared, and the kills go on with a fresh file, sooner.
            same(&done(child.wait_with_output().unwrap()));
            killed = copy(folder.path().join(format!("killed-{n_done}.db")));
            (n_done, last, longest) = (n_done + 1, 0, (longest * 3 / 4).max(20));
            continue;
        }
        end(&child, "-KILL");
        n_killed += 1;
        child.wait().unwrap();
        let seq = seq(&killed);
        assert!(seq >= last, "the journal shrank from {last} to {seq}");
        if seq > last {
            n_progress += 1;
        } else {
            longest = (longest * 5 / 4).min(5_000); // a slow machine has not even opened the file
        }
        last = seq;
    }
    let found = done(run(&killed).output().unwrap());
    eprintln!("{n_killed} runs were killed, {n_progress} of them had committed something new, {n_done} were too quick");
    assert!(n_progress >= 3, "the moments did not hit: {n_progress} of {n_killed} had committed something new");
    same(&found);
    assert_eq!(digest(&killed), expected["digest"]);
}

#[test]
fn two_runs_a_stopped_and_resumed_one_and_one_placed_apart_have_one_digest() {
    let folder = tempfile::tempdir().unwrap();
    let (data, n_candles) = candles_file(folder.path());
    let n_candles = n_candles as u64;
    let file = |name: &str| folder.path().join(name);
    import(&data, &file("1.db"));
    for name in ["2.db", "stopped.db", "apart.db"] {
        std::fs::copy(file("1.db"), file(name)).unwrap();
    }
    let expected = done(run(&file("1.db")).output().unwrap());
    assert_eq!(expected["candles"], n_candles);
    assert_eq!(expected["agents"], 7);
    assert!(expected["fills"].as_u64().unwrap() > 0, "a desk that never trades proves little");
    assert!(expected["events"].as_u64().unwrap() <= n_candles * 3 / 2, "at most 1.5 rows a candle: {expected}");
    assert_eq!(done(run(&file("2.db")).output().unwrap())["digest"], expected["digest"]);
    let apart = done(run(&file("apart.db")).args(["--placement", "apart"]).output().unwrap());
    assert_eq!(apart["digest"], expected["digest"]);

    let mut child = run(&file("stopped.db")).spawn().unwrap();
    // It has committed something, so it listens to signals.
    while seq(&file("stopped.db")) == 0 && child.try_wait().unwrap().is_none() {
        after(Duration::from_millis(20));
    }
    if child.try_wait().unwrap().is_none() {
        end(&child, "-TERM");
    }
    let stopped = done(child.wait_with_output().unwrap());
    assert!(stopped["candles"].as_u64().unwrap() <= n_candles);
    assert_eq!(done(run(&file("stopped.db")).output().unwrap())["digest"], expected["digest"]);
    // Nothing new: said, and nothing is changed.
    assert_eq!(done(run(&file("stopped.db")).output().unwrap())["digest"], expected["digest"]);
}
