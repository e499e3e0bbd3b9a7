//! The configuration: one validation for every command, and variables of other programs.

use super::{Folder, Running};

/// Every command that reads a configuration, without one.
pub(super) const COMMANDS: &[&[&str]] = &[
    &["run", "--until-idle"],
    &["status"],
    &["journal", "tail"],
    &["journal", "show", "1"],
    &["why", "1"],
    &["replay"],
    &["memory", "ls"],
    &["memory", "get", "key"],
    &["dead-letters", "ls"],
    &["dead-letters", "show", "1"],
    &["import", "candles", "a.csv", "--ticker", "DOT"],
    &["export", "candles"],
    &["export", "trades"],
    &["export", "equity"],
    &["export", "signals"],
    &["indicators", "--indicator", "sma:20"],
    &["backtest"],
    &["check", "lookahead"],
    &["check", "warm-up"],
    &["optimize", "--grid", "fast=5,10"],
    &["risk", "kill"],
    &["risk", "resume"],
    &["risk", "freeze"],
    &["risk", "thaw"],
    &["db", "digest"],
    &["db", "check"],
    &["db", "info"],
    &["db", "backup", "b.db"],
    &["db", "restore", "b.db"],
    &["db", "prune", "--keep-events", "100"],
    &["db", "forget-team", "old"],
    &["db", "vacuum"],
    // Behind all that want one series.
    &["import", "resample", "--ticker", "DOT", "--interval", "15m", "--to", "1h"],
    &["config", "show"],
    &["config", "check"],
];

#[test]
fn one_invalid_value_is_refused_by_every_command_with_key_value_and_range() {
    let folder = Folder::with_candles();
    std::fs::write(folder.path("bad.toml"), "[limits]\ninputs_max = 0\n").expect("written");
    for command in COMMANDS {
        let args = [command, ["--db", "a.db", "--config", "bad.toml"].as_slice()].concat();
        folder.atra(&args).fails(2, &["limits.inputs_max = 0 is not allowed: from 1 to 1000000", "next:"]);
    }
}

#[test]
fn values_that_make_no_sense_are_refused_and_sensible_ones_are_not() {
    let folder = Folder::new();
    for (section, line, part) in [
        ("desk", "cash = \"-3\"", "cash is -3"),
        ("desk", "fee_ppm = 2000000", "desk.fee_ppm = 2000000 is not allowed: from 0 to 999999"),
        ("storage", "readers = 0", "storage.readers = 0 is not allowed: from 1 to 256"),
        ("runtime", "threads = 3000", "runtime.threads = 3000 is not allowed: from 0 to 1024"),
        ("runtime", "threads = 9223372036854775807", "runtime.threads = 9223372036854775807"),
        ("runtime", "stop_deadline_ms = 0", "runtime.stop_deadline_ms = 0"),
        ("run", "simulated_speed = 0", "run.simulated_speed = 0"),
        ("desk.optimizer.gates", "margin = nan", "desk.optimizer.gates.margin"),
        ("desk", "speed = 0", "desk.speed = 0"),
        ("storage", "keep = \"-1d\"", "bad.toml, line 2"),
    ] {
        std::fs::write(folder.path("bad.toml"), format!("[{section}]\n{line}\n")).expect("written");
        for command in ["show", "check"] {
            folder.atra(&["config", command, "--config", "bad.toml"]).fails(2, &[part]);
        }
    }
    // The environment and flags go the same way.
    let mut command = folder.command(&["config", "check"]);
    Running::spawn(command.env("ATRA_RUNTIME_THREADS", "1025")).end().fails(2, &["runtime.threads = 1025"]);
    std::fs::write(folder.path("good.toml"), "[runtime]\nthreads = 2\n").expect("written");
    let done = folder.atra(&["config", "check", "--config", "good.toml"]).ok();
    assert_eq!(done.out, "the configuration is valid\n");
    assert_eq!(folder.atra(&["config", "check", "--json"]).ok().one()["valid"], true);
}

/// Kubernetes sets such variables where a service is called atra; every command failed.
#[test]
fn variables_of_other_programs_are_a_warning_and_a_typo_is_pointed_out_in_it() {
    let folder = Folder::finished();
    let mut command = folder.command(&["status", "--db", "a.db"]);
    command.env("ATRA_PORT", "tcp://10.0.0.1:80").env("ATRA_SERVICE_HOST", "10.0.0.1");
    let done = Running::spawn(command.env("ATRA_STORAGE_LEVL", "power")).end().ok();
    assert!(done.err.contains("ATRA_PORT, ATRA_SERVICE_HOST"), "{}", done.err);
    assert!(done.err.contains("ATRA_STORAGE_LEVL is no key"), "{}", done.err);
    assert!(done.err.contains("did you mean ATRA_STORAGE_LEVEL?"), "{}", done.err);
    assert!(!done.err.contains("mean ATRA_DB"), "a port is like no key: {}", done.err);
}

#[test]
fn flags_that_contradict_or_have_no_effect_are_refused() {
    let folder = Folder::finished();
    for args in [
        &["backtest", "--all", "--ticker", "DOT"][..],
        &["optimize", "--grid", "fast=5,10", "--seed", "3"],
        &["optimize", "--walk-forward", "--short"],
        &["optimize", "--walk-forward", "--train", "0.5"],
        &["optimize", "--walk-forward", "--slippage-bps", "50"],
        &["optimize", "--walk-forward", "--stop-loss", "0.02"],
        &["export", "candles", "--json", "--format", "csv"],
        &["export", "candles", "--format", "csv", "--out", "a.json"],
        &["indicators", "--indicator", "sma:5", "--json", "--format", "csv"],
        &["journal", "tail", "--follow", "--after", "1", "-n", "5"],
        &["risk", "freeze", "--reason", "x"],
        &["replay", "--from", "9", "--to", "5"],
    ] {
        let done = folder.atra(&[args, ["--db", "a.db"].as_slice()].concat());
        assert!(done.code == 2 && done.out.is_empty(), "{args:?} ended with {}: {}{}", done.code, done.out, done.err);
    }
    for args in [
        &["sim", "--jobs", "0"][..],
        &["sim", "--minutes", "18446744073709551615"],
        &["sim", "--hours", "1e300"],
        &["sim", "--every", "nan"],
        &["sim", "--shrink-within", "18446744073709551615"],
    ] {
        let done = folder.atra(args);
        assert_eq!(done.code, 2, "{args:?}: {}", done.err);
    }
}
