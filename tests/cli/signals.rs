//! Signals at every phase, and streams that are closed.

use std::process::{Command, Stdio};

use super::{Folder, Running, config::COMMANDS};

impl Running {
    /// Waits until the process has a listener for SIGTERM, the 15th signal of its mask.
    fn until_listening(&mut self) {
        let status = format!("/proc/{}/status", self.child.id());
        let is_listening = || {
            let text = std::fs::read_to_string(&status).expect("a process");
            let mask = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a mask").trim().to_owned();
            (u64::from_str_radix(&mask, 16).expect("a mask") >> 14) & 1 == 1
        };
        while !is_listening() {
            assert!(self.child.try_wait().expect("a child").is_none(), "it ended before it listened");
        }
    }

    /// Sends a signal again and again until the process has ended: two within 50 ms are one.
    fn signal_until_ended(mut self, signal: &str) -> super::Done {
        while self.child.try_wait().expect("a child").is_none() {
            let _ = Command::new("kill").args([signal, &self.child.id().to_string()]).stderr(Stdio::null()).status();
        }
        self.end()
    }
}

/// A configuration that is never read to its end holds a command at the very start, where signals were not listened to.
#[test]
fn every_command_answers_a_signal_from_its_start_and_a_second_one_ends_it() {
    let folder = Folder::with_candles();
    let made = Command::new("mkfifo").arg(folder.path("held.toml")).status().expect("mkfifo runs");
    assert!(made.success());
    for (n, command) in COMMANDS.iter().enumerate() {
        let signal = ["-TERM", "-INT", "-HUP"][n % 3];
        let args = [command, ["--db", "a.db", "--config", "held.toml"].as_slice()].concat();
        let mut child = Running::spawn(&mut folder.command(&args));
        // Opened for writing once the command reads it, and held open.
        let held = std::fs::OpenOptions::new().write(true).open(folder.path("held.toml")).expect("opened");
        child.signal(signal);
        child.until(|line| line.contains("shutting down"));
        let done = child.signal_until_ended("-TERM");
        assert!(done.code == 1 && done.err.contains("ended at once"), "{command:?}: {} {}", done.code, done.err);
        drop(held);
    }
}

#[test]
fn hang_up_stops_a_run_cleanly() {
    let folder = Folder::with_candles();
    let mut running = folder.running();
    running.signal("-HUP");
    running.until(|line| line.contains("shutting down") && line.contains("SIGHUP"));
    let done = running.end().ok();
    assert!(done.out.contains("stopped cleanly"), "{}", done.out);
    assert_eq!(folder.atra(&["status", "--db", "a.db", "--json"]).ok().one()["clean"], true);
}

/// A process that `nohup` starts outlives its terminal.
#[test]
fn hang_up_that_is_ignored_from_outside_stays_ignored() {
    let folder = Folder::with_candles();
    let run =
        format!("trap '' HUP; exec {:?} run --config desk.toml --db a.db --speed 400", env!("CARGO_BIN_EXE_atra"));
    let mut command = Command::new("sh");
    command.args(["-c", &run]).current_dir(folder.0.path()).stdin(Stdio::null());
    let mut running = Running::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    running.until(|line| line.contains("candles (") && !line.starts_with("0 candles"));
    running.signal("-HUP");
    running.signal("-TERM");
    let line = running.until(|line| line.contains("shutting down"));
    assert!(line.contains("SIGTERM"), "{line}");
    running.end().ok();
}

/// A first signal while a run ended by itself was taken for a second one. The process is suspended in its stop, so that
/// the signal comes late in it.
#[test]
fn a_first_signal_at_the_end_of_a_run_is_a_clean_stop() {
    for _ in 0..5 {
        let folder = Folder::with_candles();
        let run = ["run", "--config", "desk.toml", "--db", "a.db", "--until-idle"];
        let mut running = Running::spawn(&mut folder.command(&run));
        running.until(|line| line.contains("the candles have ended"));
        running.signal("-STOP");
        // Takes longer than two signals may be apart that are one.
        folder.atra(&["db", "check", "--db", "a.db"]);
        folder.atra(&["db", "digest", "--db", "a.db"]);
        running.signal("-TERM");
        running.signal("-CONT");
        let done = running.end().ok();
        assert!(!done.err.contains("ended at once"), "{}", done.err);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_simulation_without_end_prints_its_results_when_it_is_stopped() {
    let folder = Folder::new();
    let sim = ["sim", "--minutes", "60", "--agents", "3", "--no-desk", "--hours", "0.01", "--jobs", "1", "--json"];
    let mut running = Running::spawn(&mut folder.command(&sim));
    running.until_listening();
    running.signal("-INT");
    running.until(|line| line.contains("shutting down"));
    let done = running.end().ok();
    let sum = done.json().pop().expect("a sum");
    assert!(sum["seeds"].is_u64() && sum["failures"].is_array(), "{sum}");
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupted_command_has_its_own_exit_code_and_leaves_the_database_as_it_was() {
    let folder = Folder::with_candles();
    let before = super::bytes(&folder.path("a.db"));
    // More seeds than can be simulated while a signal comes.
    let mut sim =
        Running::spawn(&mut folder.command(&["sim", "--seeds", "0..100000000", "--agents", "2", "--no-desk"]));
    sim.until_listening();
    sim.signal("-TERM");
    sim.until(|line| line.contains("shutting down"));
    let done = sim.end();
    assert!(done.code == 130 && done.err.contains("interrupted by a signal"), "{} {}", done.code, done.err);
    assert!(before == super::bytes(&folder.path("a.db")));
}

/// A monitor that reads one line took a crashed runtime for a healthy one.
#[test]
fn an_exit_code_that_is_an_answer_does_not_depend_on_a_reader() {
    let folder = Folder::finished();
    let mut child = folder.command(&["status", "--check", "--db", "a.db"]).spawn().expect("started");
    drop(child.stdout.take());
    let done = child.wait_with_output().expect("ended");
    assert_eq!(done.status.code(), Some(3), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn closed_or_full_streams_end_nothing() {
    let folder = Folder::with_candles();
    let atra = env!("CARGO_BIN_EXE_atra");
    let run = "run --config desk.toml --db a.db --until-idle --speed 3000";
    for (redirect, code) in [("2>&-", 0), ("2>/dev/full", 0), (">&-", 0), ("2>&1 | head -n 1", 0), (">/dev/full", 1)] {
        let script = format!("set -o pipefail; {atra:?} {run} --fresh {redirect}");
        let done = Command::new("bash").args(["-c", &script]).current_dir(folder.0.path()).output().expect("bash runs");
        let err = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.code() == Some(code) && !err.contains("panicked"), "{redirect}: {:?} {err}", done.status);
        assert_eq!(folder.atra(&["status", "--db", "a.db", "--json"]).ok().one()["clean"], true, "{redirect}");
    }
}
