//! The real binary, as a person and as a script use it: what it prints, what it ends with, what it leaves behind.
//!
//! Index: imports · runs and resumes · reads · signals and two runtimes · years of candles; `cli/db.rs`: the file as a whole;
//! `cli/errors.rs`: invalid input and missing files; `cli/config.rs`: the configuration; `cli/signals.rs`: signals and closed
//! streams; `cli/status.rs`: health; `cli/follow.rs`: `journal tail --follow`; `cli/json.rs`: JSON and hostile text;
//! `cli/outputs.rs`: files for a user, and who owns those of a database.

use std::{
    io::{BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    time::Duration,
};

use serde_json::Value;

#[path = "cli/config.rs"]
mod config;
#[path = "cli/db.rs"]
mod db;
#[path = "cli/desk.rs"]
mod desk;
#[path = "cli/errors.rs"]
mod errors;
#[path = "cli/follow.rs"]
mod follow;
#[path = "cli/json.rs"]
mod json;
#[cfg(unix)]
#[path = "cli/outputs.rs"]
mod outputs;
#[path = "cli/signals.rs"]
mod signals;
#[path = "cli/status.rs"]
mod status;

/// How long a command may stay silent. Far above what any needs on a busy machine, so only a hang gets there.
const PATIENCE: Duration = Duration::from_secs(600);
const CANDLES: usize = 3_000;
/// A strategy that trades on the fixture, where the optimizer would still be learning.
const CONFIG: &str = "[desk]\nstrategy = { name = \"sma-cross\", fast = 5, slow = 20 }\n";

// === fixtures ===

struct Folder(tempfile::TempDir);

struct Done {
    code: i32,
    out: String,
    err: String,
}

impl Done {
    fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    /// Every line of the output as JSON.
    fn json(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
    }

    fn one(&self) -> Value {
        let mut values = self.json();
        assert_eq!(values.len(), 1, "{}", self.out);
        values.remove(0)
    }

    /// Fails with `code`, and standard error says all of `parts` and nothing is on standard output.
    fn fails(self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        let said = self.said();
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
        assert_eq!(self.out, "");
    }

    /// Standard error as a person reads it: of JSON the texts.
    fn said(&self) -> String {
        let text = |line: &str| match serde_json::from_str::<Value>(line) {
            Ok(value) if value["error"].is_object() => {
                let text = |key: &str| value["error"][key].as_str().unwrap_or_default().to_owned();
                format!("error: {}\n next: {}\n", text("message"), text("hint"))
            }
            Ok(value) if value["notice"].is_object() => {
                format!("{}\n", value["notice"]["message"].as_str().unwrap_or_default())
            }
            _ => format!("{line}\n"),
        };
        self.err.lines().map(text).collect()
    }
}

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().expect("a temporary folder"));
        std::fs::write(folder.path("desk.toml"), CONFIG).expect("written");
        folder
    }

    /// With the fixture imported into `a.db`.
    fn with_candles() -> Self {
        let folder = Self::new();
        std::fs::write(folder.path("a.csv"), csv(CANDLES)).expect("written");
        folder.atra(&["import", "candles", "a.csv", "--ticker", "DOT", "--interval", "15m", "--db", "a.db"]).ok();
        folder
    }

    /// With the fixture run to its end in `a.db`.
    fn finished() -> Self {
        let folder = Self::with_candles();
        folder.run(&[]).ok();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atra"));
        command.args(args).current_dir(self.0.path()).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ATRA_") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command
    }

    fn atra(&self, args: &[&str]) -> Done {
        Running::spawn(&mut self.command(args)).end()
    }

    fn run(&self, more: &[&str]) -> Done {
        let args = ["run", "--config", "desk.toml", "--db", "a.db", "--until-idle", "--json"];
        self.atra(&[args.as_slice(), more].concat())
    }

    fn digest(&self, db: &str) -> String {
        self.atra(&["db", "digest", "--json", "--db", db]).ok().one()["digest"].as_str().expect("a digest").to_owned()
    }
}

/// A process whose output is read line by line, each with patience.
struct Running {
    child: Child,
    out: Receiver<String>,
    err: Receiver<String>,
}

fn lines(stream: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = sync_channel(100_000);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

impl Running {
    fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the binary starts");
        let out = lines(child.stdout.take().expect("a pipe"));
        let err = lines(child.stderr.take().expect("a pipe"));
        Self { child, out, err }
    }

    fn rest(child: &mut Child, lines: &Receiver<String>) -> String {
        let mut text = String::new();
        loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) => text += &format!("{line}\n"),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return text,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    let _ = child.kill();
                    panic!("no end after {PATIENCE:?}; so far: {text}");
                }
            }
        }
    }

    /// Waits for its end.
    fn end(mut self) -> Done {
        let out = Self::rest(&mut self.child, &self.out);
        let err = Self::rest(&mut self.child, &self.err);
        let code = self.child.wait().expect("ended").code().unwrap_or(-1);
        Done { code, out, err }
    }

    /// Waits for a line on standard error.
    fn until(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        loop {
            match self.err.recv_timeout(PATIENCE) {
                Ok(line) if wanted(&line) => return line,
                Ok(_) => {}
                Err(error) => {
                    let _ = self.child.kill();
                    panic!("the line did not come: {error}");
                }
            }
        }
    }

    #[cfg(unix)]
    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().expect("kill runs").success());
    }
}

/// Candles of a slow wave with a faster one on it: crosses of averages come by themselves.
fn csv(n: usize) -> String {
    let mut text = String::from("time,open,high,low,close,volume\n");
    let price = |i: usize| 1_000 + 100 * wave(i, 200) / 100 + 20 * wave(i, 37) / 100;
    for i in 0..n {
        let (open, close) = (price(i), price(i + 1));
        let (high, low) = (open.max(close) + 3, open.min(close) - 3);
        let time = 1_640_995_200_000 + i as i64 * 900_000;
        text += &format!("{time},{open},{high},{low},{close},{}\n", 100 + i % 7);
    }
    text
}

/// A triangle between −100 and 100.
fn wave(i: usize, period: usize) -> i64 {
    let place = (i % period) as i64 * 400 / period as i64;
    if place < 200 { place - 100 } else { 300 - place }
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("a file")
}

// === imports ===

#[test]
fn importing_twice_changes_nothing() {
    let folder = Folder::with_candles();
    let before = bytes(&folder.path("a.db"));
    let again = folder.atra(&["import", "candles", "a.csv", "--ticker", "DOT", "--db", "a.db", "--json"]).ok().one();
    assert_eq!((again["added"].as_u64(), again["equal"].as_u64()), (Some(0), Some(CANDLES as u64)));
    assert_eq!(bytes(&folder.path("a.db")), before);
}

#[test]
fn a_packed_file_is_the_same_file() {
    let folder = Folder::with_candles();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(csv(CANDLES).as_bytes()).expect("packed");
    std::fs::write(folder.path("a.csv.gz"), packed.finish().expect("packed")).expect("written");
    let again = folder.atra(&["import", "candles", "a.csv.gz", "--ticker", "DOT", "--db", "a.db", "--json"]).ok();
    assert_eq!(again.one()["equal"].as_u64(), Some(CANDLES as u64));
}

#[test]
fn rows_that_are_refused_are_named_with_their_line() {
    let folder = Folder::new();
    let text = csv(10).replacen("1003", "nan", 1) + "1650000000000,1,1\n";
    std::fs::write(folder.path("bad.csv"), text).expect("written");
    let done =
        folder.atra(&["import", "candles", "bad.csv", "--ticker", "X", "--interval", "15m", "--db", "x.db"]).ok();
    assert!(done.out.contains("bad.csv, line 12: 3 columns, 6 needed"), "{}", done.out);
}

#[test]
fn a_file_without_a_good_row_is_no_matter_of_bounds() {
    let folder = Folder::new();
    for n in [5, 3_000] {
        let text = String::from("time,open,high,low,close,volume\n") + &"1650000000000,1,1,nan,1,1\n".repeat(n);
        std::fs::write(folder.path("bad.csv"), text).expect("written");
        let done = folder.atra(&["import", "candles", "bad.csv", "--ticker", "X", "--interval", "15m", "--db", "x.db"]);
        assert!(!done.err.contains("--refused-max"), "{}", done.err);
        done.fails(1, &["no row could be read", "line 2", "next:"]);
    }
}

#[test]
fn a_file_of_garbage_changes_nothing() {
    let folder = Folder::new();
    std::fs::write(folder.path("bad.csv"), "hello\nworld\n").expect("written");
    let import = ["import", "candles", "bad.csv", "--ticker", "X", "--interval", "15m", "--db", "x.db"];
    folder.atra(&import).fails(1, &["bad.csv", "no header", "next:"]);
    assert!(!folder.path("x.db").exists());
    folder.atra(&["import", "candles", "none.csv", "--ticker", "X", "--db", "x.db"]).fails(1, &["none.csv", "next:"]);
    folder.atra(&["import", "candles", "bad.csv", "--ticker", "A/B", "--db", "x.db"]).fails(2, &["A/B"]);
    folder.atra(&["import", "candles", "bad.csv", "--ticker", "X", "--interval", "soon"]).fails(2, &["soon"]);
}

// === runs and resumes ===

#[test]
fn a_run_ends_with_one_line_and_the_next_finds_nothing_new() {
    let folder = Folder::with_candles();
    let first = folder.run(&[]).ok().one();
    assert_eq!((first["candles"].as_u64(), first["agents"].as_u64()), (Some(CANDLES as u64), Some(7)));
    assert!(first["fills"].as_u64() > Some(10) && first["turns"].as_u64() > Some(0), "{first}");
    assert!(first["equity"].as_f64().is_some() && first["wall_ms"].is_u64());
    assert_eq!(first["digest"], Value::String(folder.digest("a.db")));

    let second = folder.run(&[]).ok().one();
    assert_eq!([&second["digest"], &second["fills"]], [&first["digest"], &first["fills"]]);
    let third = folder.atra(&["run", "--config", "desk.toml", "--db", "a.db", "--until-idle"]).ok();
    assert!(
        third.out.contains("nothing new") && third.out.contains("(0 new)") && third.out.contains("buy and hold"),
        "{}",
        third.out
    );
}

#[test]
fn fresh_begins_anew_keeps_the_candles_and_decides_the_same() {
    let folder = Folder::finished();
    let before = folder.digest("a.db");
    let other = folder.run(&["--fresh", "--placement", "apart"]).ok().one();
    assert_eq!(other["digest"], Value::String(before));
}

#[test]
fn other_settings_than_a_journal_was_begun_with_are_refused() {
    let folder = Folder::finished();
    let before = folder.digest("a.db");
    let other = CONFIG.replace("fast = 5", "fast = 6") + "cash = \"500\"\nfee_ppm = 7\n";
    std::fs::write(folder.path("desk.toml"), &other).expect("written");
    let parts =
        ["begun with", "desk.cash was 10000, now 500", "desk.fee_ppm was 1000, now 7", "desk.strategy", "--fresh"];
    folder.run(&[]).fails(2, &parts);
    assert_eq!(folder.digest("a.db"), before);
    folder.run(&["--fresh"]).ok();
    let freely = other + "speed = 100000\n[desk.risk]\ndrawdown_max_ppm = 500000\n[limits]\ninputs_max = 100\n";
    std::fs::write(folder.path("desk.toml"), freely).expect("written");
    folder.run(&["--placement", "apart"]).ok();
}

#[test]
fn a_narrower_run_on_a_journal_says_what_else_it_holds() {
    let folder = Folder::finished();
    let done = folder.run(&["--from", "2022-01-02"]).ok();
    let said = done.said();
    assert!(said.contains("also holds candles before 2022-01-02") && said.contains("--fresh"), "{said}");
    let done = folder.run(&["--fresh", "--from", "2022-01-02"]).ok();
    assert!(!done.err.contains("also holds"), "{}", done.err);
}

#[test]
fn settings_that_cannot_be_meant_are_refused_before_there_is_a_file() {
    let folder = Folder::new();
    for (config, part) in [
        ("cash = \"-5\"", "cash is -5"),
        ("fee_ppm = 2000000", "fee"),
        ("strategy = { name = \"sma-cross\", fast = 20, slow = 5 }", "20"),
    ] {
        std::fs::write(folder.path("bad.toml"), format!("[desk]\n{config}\n")).expect("written");
        folder.atra(&["run", "--config", "bad.toml", "--db", "x.db"]).fails(2, &[part, "next:"]);
    }
    let span = ["run", "--db", "x.db", "--from", "2023-01-01", "--to", "2022-01-01"];
    folder.atra(&span).fails(2, &["2023-01-01 00:00:00 is not before to 2022-01-01", "next:"]);
    folder.atra(&["run", "--db", "x.db", "--ticker", "X"]).fails(1, &["\"X\"", "next:"]);
    let names: Vec<_> =
        std::fs::read_dir(folder.0.path()).expect("a folder").flatten().map(|e| e.file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().starts_with("x.db")), "{names:?}");
}

#[test]
fn dates_bound_a_run() {
    let folder = Folder::with_candles();
    let done = folder.run(&["--from", "2022-01-02", "--to", "2022-01-03 00:00"]).ok().one();
    assert_eq!(done["candles"].as_u64(), Some(96));
    folder.run(&["--from", "soon"]).fails(2, &["2022-01-01"]);
    folder.run(&["--speed", "-3"]).fails(2, &["a speed is 'max' or candles a second"]);
}

#[test]
fn without_candles_there_is_a_simulated_market() {
    let folder = Folder::new();
    let mut command = folder.command(&["run", "--until-idle", "--json"]);
    let done = Running::spawn(command.env("ATRA_RUN_SIMULATED_CANDLES", "2000")).end().ok().one();
    assert_eq!(done["candles"].as_u64(), Some(2_000));
    assert_eq!((&done["market"], &done["ended"]), (&"simulated".into(), &"idle".into()));
    assert!(folder.path("atra-data/atra.db").exists());
    let status = folder.atra(&["status", "--json"]).ok().one();
    assert_eq!(status["topics"]["market.candle"].as_u64(), Some(2_000));
}

#[test]
fn a_simulated_market_is_called_one_and_a_missing_database_is_none() {
    let folder = Folder::new();
    let run = |args: &[&str]| {
        let mut command = folder.command(&[&["run", "--until-idle"], args].concat());
        Running::spawn(command.env("ATRA_RUN_SIMULATED_CANDLES", "100")).end()
    };
    // A name that was mistyped makes no database, with or without an end.
    run(&["--db", "none.db", "--json"]).fails(1, &["there is no database none.db", "next:", "--demo", "simulated"]);
    folder.atra(&["run", "--db", "none.db"]).fails(1, &["there is no database none.db", "--demo"]);
    assert!(!folder.path("none.db").exists());
    let mut elsewhere = folder.command(&["run", "--until-idle"]);
    let elsewhere = elsewhere.env("ATRA_DB", "none.db").env("ATRA_RUN_SIMULATED_CANDLES", "100");
    Running::spawn(elsewhere).end().fails(1, &["there is no database none.db"]);
    // With the flag it does, and what was begun so goes on without it.
    assert_eq!(run(&["--db", "demo.db", "--demo", "--json"]).ok().one()["market"], "simulated");
    assert_eq!(run(&["--db", "demo.db", "--json"]).ok().one()["market"], "simulated");
    run(&["--db", "demo.db", "--ticker", "SIMPLE", "--json"]).fails(1, &["\"SIMPLE\""]);
    let done = run(&[]).ok();
    assert!(done.out.contains("market                 simulated, seed 5"), "{}", done.out);
    assert!(done.out.contains("The market was simulated"), "{}", done.out);
    let done = run(&["--json"]).ok();
    assert!(done.err.contains("simulated market, seed 5"), "{}", done.err);

    // Real candles do not go on with its account.
    std::fs::write(folder.path("a.csv"), csv(200)).expect("written");
    folder.atra(&["import", "candles", "a.csv", "--ticker", "DOT", "--interval", "15m"]).ok();
    run(&["--json"]).fails(2, &["the market was simulated, now of candles", "--fresh"]);
    assert_eq!(run(&["--json", "--fresh"]).ok().one()["market"], "DOT.15m");

    let other = Folder::finished();
    other.run(&["--demo"]).fails(2, &["has candles", "--demo"]);
    let done = other.run(&[]).ok();
    assert_eq!(done.one()["market"], "DOT.15m");
    assert!(!done.err.contains("simulated"), "{}", done.err);
}

#[test]
fn the_live_view_speaks_of_units_and_dates() {
    let folder = Folder::with_candles();
    let done = folder.atra(&["run", "--config", "desk.toml", "--db", "a.db", "--until-idle", "--speed", "1500"]).ok();
    let fill =
        done.err.lines().find(|line| line.contains("  order.fill ") && line.contains("bought ")).expect("a fill");
    assert!(fill.contains(" DOT.15m at ") && fill.contains(", fee ") && !fill.contains("ticks"), "{fill}");
    assert!(done.err.contains("the candles have ended, the last one at 2022-02-01"), "{}", done.err);
    // All in with 10,000 at about 1,000: some ten units, not ten thousand lots.
    let units: f64 = fill.split("bought ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).expect("units");
    assert!((1.0..100.0).contains(&units), "{fill}");
}

// === reads ===

#[test]
fn every_read_of_a_finished_file_answers_in_json() {
    let folder = Folder::finished();
    let db = ["--db", "a.db", "--json"];
    let ask = |args: &[&str]| folder.atra(&[args, db.as_slice()].concat()).ok();

    let status = ask(&["status"]).one();
    assert_eq!((&status["running"], &status["clean"]), (&Value::Bool(false), &Value::Bool(true)));
    assert_eq!((&status["teams"][0]["team"], &status["dead_letters"]), (&"desk".into(), &0.into()));

    let fills = ask(&["journal", "tail", "-n", "3", "--topic", "order.fill"]).json();
    assert_eq!(fills.len(), 3);
    let first = ask(&["journal", "tail", "-n", "2", "--after", "0", "--topic", "order.fill"]).json();
    assert!(first.len() == 2 && first[0]["seq"].as_u64() < fills[0]["seq"].as_u64(), "{first:?}");
    let seq = fills[2]["seq"].to_string();
    let mut shown = ask(&["journal", "show", &seq]).one();
    // A single event has the time of its commit too.
    let committed = shown.as_object_mut().expect("an object").remove("committed");
    assert!(committed.is_some_and(|at| at.is_u64()) && shown == fills[2], "{shown}");

    let why = ask(&["why", &seq]).one();
    assert_eq!(why["event"], fills[2]);
    assert_eq!(why["causes"][0]["topic"], "market.candle");
    // A fill is of the next candle: the order, and the signal that it follows, are those of the one before.
    let decided = &why["ordered"]["event"];
    assert_eq!(decided["topic"], "market.candle");
    assert!(decided["seq"].as_u64() < why["causes"][0]["seq"].as_u64(), "{why}");
    let effects: Vec<&Value> = why["ordered"]["effects"].as_array().expect("a list").iter().collect();
    let topics: Vec<&Value> = effects.iter().map(|effect| &effect["event"]["topic"]).collect();
    assert!(topics.contains(&&"signal.target".into()) && topics.contains(&&"risk.approved".into()), "{topics:?}");
    let order = effects.iter().find(|effect| effect["event"]["topic"] == "risk.approved").expect("an approval");
    let id = order["effects"][0]["event"]["payload"]["id"].as_str().expect("an order's id");
    assert!(fills[2]["payload"]["id"].as_str().is_some_and(|fill| fill.starts_with(id)), "{why}");
    assert_eq!(ask(&["why", &decided["seq"].to_string()]).one()["ordered"], Value::Null);
    // And downwards: below the order stands what it became.
    let below = ask(&["why", &order["effects"][0]["event"]["seq"].to_string()]).one();
    let filled = below["fills"].as_array().expect("a list");
    assert!(filled.iter().any(|fill| fill["event"] == fills[2]), "{below}");
    let led_to = filled[0]["effects"].as_array().expect("a list");
    assert!(led_to.iter().any(|effect| effect["event"]["topic"] == "portfolio.position"), "{below}");

    let keys = ask(&["memory", "ls"]).json();
    assert!(!keys.is_empty());
    let key = keys[0]["key"].as_str().expect("a key");
    assert_eq!(ask(&["memory", "get", key]).one()["value"], keys[0]["value"]);
    let seq = keys[0]["seq"].to_string();
    assert_eq!(ask(&["memory", "get", key, "--at", &seq]).one()["value"], keys[0]["value"]);

    assert!(ask(&["dead-letters", "ls"]).json().is_empty());
    assert_eq!(ask(&["db", "check"]).one()["sound"], true);
    let info = ask(&["db", "info"]).one();
    assert_eq!(info["series"][0]["candles"].as_u64(), Some(CANDLES as u64));
    assert_eq!(ask(&["db", "digest", "--publisher", "feed"]).one()["digest"].as_str().map(str::len), Some(64));
    assert_eq!(ask(&["config", "show"]).one()["limits"]["inputs_max"], 256);
}

#[test]
fn every_read_of_a_finished_file_answers_a_person() {
    let folder = Folder::finished();
    for args in [
        &["status"][..],
        &["journal", "tail"],
        &["journal", "show", "1"],
        &["why", "#2"],
        &["memory", "ls"],
        &["dead-letters", "ls"],
        &["db", "digest"],
        &["db", "check"],
        &["db", "info"],
        &["config", "show"],
    ] {
        let done = folder.atra(&[args, ["--db", "a.db"].as_slice()].concat()).ok();
        assert!(!done.out.is_empty() && !done.out.contains('\x1b'), "{args:?}: {}", done.out);
    }
}

#[test]
fn a_reader_that_goes_away_is_a_quiet_end() {
    let folder = Folder::finished();
    let mut child = folder.command(&["journal", "tail", "-n", "5000", "--db", "a.db"]).spawn().expect("started");
    drop(child.stdout.take());
    let done = child.wait_with_output().expect("ended");
    assert_eq!((done.status.code(), String::from_utf8_lossy(&done.stderr).as_ref()), (Some(0), ""));
}

// === signals and two runtimes ===

#[cfg(unix)]
#[test]
fn a_second_runtime_is_refused_reads_work_and_a_signal_drains() {
    let folder = Folder::with_candles();
    let whole = {
        let other = Folder::finished();
        other.digest("a.db")
    };
    let slow = ["run", "--config", "desk.toml", "--db", "a.db", "--speed", "400"];
    let mut first = Running::spawn(&mut folder.command(&slow));
    // A line of figures: candles have been committed.
    first.until(|line| line.contains("candles (") && !line.starts_with("0 candles"));

    folder.run(&[]).fails(1, &["in use by another atra runtime", "process"]);
    let import = ["import", "candles", "a.csv", "--ticker", "DOT", "--db", "a.db"];
    folder.atra(&import).fails(1, &["in use by another atra runtime"]);
    let status = folder.atra(&["status", "--db", "a.db", "--json"]).ok().one();
    assert_eq!((&status["running"], status["process"].as_u64()), (&true.into(), Some(u64::from(first.child.id()))));
    assert!(folder.atra(&["journal", "tail", "-n", "1", "--db", "a.db", "--json"]).ok().one()["seq"].is_u64());

    first.signal("-TERM");
    let done = first.end().ok();
    assert!(done.out.contains("stopped cleanly") && done.out.contains("digest "), "{}", done.out);
    // The report and the totals above it are of one moment.
    let total = done.out.split_once(" candles, ").and_then(|(before, _)| before.rsplit(' ').next()).expect("a total");
    let row = done.out.lines().find(|line| line.starts_with("  candles ")).expect("a row of the report");
    assert_eq!(row.split_whitespace().nth(1), Some(total.replace(',', "").as_str()), "{}", done.out);
    let status = folder.atra(&["status", "--db", "a.db", "--json"]).ok().one();
    assert_eq!((&status["running"], &status["clean"]), (&false.into(), &true.into()));
    assert_eq!(folder.run(&[]).ok().one()["digest"], Value::String(whole));
}

#[cfg(unix)]
#[test]
fn a_killed_run_is_told_and_goes_on_to_the_same_end() {
    let folder = Folder::with_candles();
    let whole = {
        let other = Folder::finished();
        other.digest("a.db")
    };
    let slow = ["run", "--config", "desk.toml", "--db", "a.db", "--speed", "400"];
    let mut first = Running::spawn(&mut folder.command(&slow));
    first.until(|line| line.contains("candles (") && !line.starts_with("0 candles"));
    first.signal("-KILL");
    assert_eq!(first.end().code, -1);
    let status = folder.atra(&["status", "--db", "a.db", "--json"]).ok().one();
    assert_eq!((&status["running"], &status["clean"]), (&false.into(), &false.into()));
    assert_eq!(status["teams"][0]["state"]["state"], "killed", "a team whose process is gone did not stop: {status}");
    let second = folder.run(&[]).ok();
    assert!(second.err.contains("did not stop cleanly"), "{}", second.err);
    assert_eq!(second.one()["digest"], Value::String(whole));
}

/// The report is asked for first, and waited for a commit that could not come: neither this signal nor the next was heard.
#[cfg(unix)]
#[test]
fn a_run_without_space_hears_a_stop() {
    let folder = Folder::new();
    std::fs::write(folder.path("soon.toml"), "[runtime]\nstop_deadline_ms = 1000\n").expect("written");
    let atra = env!("CARGO_BIN_EXE_atra");
    let run = format!("ulimit -f 2000; exec {atra:?} run --demo --db full.db --config soon.toml --speed 2000");
    let mut command = Command::new("bash");
    command.args(["-c", &run]).current_dir(folder.0.path()).stdin(Stdio::null());
    let mut full = Running::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    full.until(|line| line.contains("no space"));
    // The database cannot say it, and 'status' does.
    loop {
        let status = folder.atra(&["status", "--check", "--db", "full.db", "--json"]);
        let said = status.one();
        if said["degraded"][0]["kind"] == "disk_full" {
            assert!((status.code, &said["running"]) == (4, &true.into()), "{said}");
            assert!(said["degraded"][0]["since"].is_i64(), "{said}");
            break;
        }
    }
    let status = folder.atra(&["status", "--db", "full.db"]).ok().out;
    assert!(status.contains("degraded      no space on the disk"), "{status}");
    full.signal("-INT");
    let done = full.end();
    // Whether the marks of a clean end find room depends on what the log's beginning holds by then.
    match done.code {
        0 => assert!(done.out.contains("stopped cleanly"), "{}", done.out),
        _ => {
            assert!(done.code == 1 && done.err.contains("no space left"), "{} {}", done.code, done.err);
            assert!(done.err.contains("shutting down"), "{}", done.err);
        }
    }
    folder.atra(&["db", "check", "--db", "full.db"]).ok();
}

#[cfg(unix)]
#[test]
fn a_drained_run_ends_with_json_too() {
    let folder = Folder::with_candles();
    let slow = ["run", "--config", "desk.toml", "--db", "a.db", "--speed", "400", "--json"];
    let first = Running::spawn(&mut folder.command(&slow));
    // No live view for a program: wait until readers see that it runs.
    while folder.atra(&["status", "--db", "a.db", "--json"]).ok().one()["running"] != true {}
    first.signal("-INT");
    let done = first.end().ok().one();
    assert!(done["digest"].is_string() && done["ended"] == "signal", "{done}");
}

// === replay ===

/// A run that was stopped and gone on with, and one that was killed, decide again what they decided.
#[test]
fn a_replay_of_what_is_unchanged_is_equal_and_changes_nothing() {
    let folder = Folder::with_candles();
    let slow = ["run", "--config", "desk.toml", "--db", "a.db", "--speed", "2000", "--json"];
    for signal in ["-INT", "-KILL"] {
        let mut child = Running::spawn(&mut folder.command(&slow));
        let last = || folder.atra(&["db", "info", "--db", "a.db", "--json"]).ok().one()["last_seq"].as_u64();
        let before = last().expect("a seq");
        while last().expect("a seq") <= before + 100 {}
        child.signal(signal);
        child.child.wait().expect("an end");
    }
    folder.run(&[]).ok();
    let was = bytes(&folder.path("a.db"));
    let replayed = folder.atra(&["replay", "--db", "a.db", "--json"]).ok().one();
    assert_eq!(replayed["equal"], true, "{replayed}");
    assert!(
        replayed["inputs"].as_u64() > Some(CANDLES as u64) && replayed["events"].as_u64() > Some(100),
        "{replayed}"
    );
    assert!(folder.atra(&["replay", "--db", "a.db", "--agent", "risk"]).ok().out.starts_with("equal: "));
    assert!(was == bytes(&folder.path("a.db")), "a replay wrote to the file");

    // From a backup on, and beside pruning: what is before is not there any more.
    folder.atra(&["db", "backup", "--db", "a.db", "b.db"]).ok();
    folder.atra(&["db", "prune", "--db", "a.db", "--keep-events", "100"]).ok();
    folder.atra(&["replay", "--db", "a.db"]).fails(1, &["pruned", "--state"]);
    folder.atra(&["replay", "--db", "a.db", "--state", "b.db"]).ok();
}

#[test]
fn a_replay_shows_the_first_decision_that_changed_and_what_led_to_it() {
    let folder = Folder::finished();
    std::fs::write(folder.path("other.toml"), format!("{CONFIG}fee_ppm = 1001\n")).expect("written");
    let args = ["replay", "--db", "a.db", "--config", "other.toml"];
    let json = folder.atra(&[args.as_slice(), &["--json"]].concat());
    assert_eq!(json.code, 3, "{}", json.err);
    let difference = &json.one()["difference"];
    let (recorded, present) = (&difference["recorded"], &difference["present"]);
    assert_eq!((&recorded["topic"], &present["topic"]), (&"order.fill".into(), &"order.fill".into()), "{difference}");
    assert_ne!(recorded["payload"]["execution"]["fee"], present["payload"]["execution"]["fee"]);
    let chain: Vec<_> = difference["causes"].as_array().expect("a chain").iter().map(|event| &event["topic"]).collect();
    assert_eq!(chain, ["market.candle"]);
    let text = folder.atra(&args);
    assert_eq!(text.code, 3);
    for part in ["different: agent execution decides otherwise: content", "recorded", "present", "market.candle"] {
        assert!(text.out.contains(part), "{part:?} is not in: {}", text.out);
    }
    // What comes before it is as recorded.
    let before = (recorded["seq"].as_u64().expect("a seq") - 1).to_string();
    folder.atra(&[args.as_slice(), &["--to", &before]].concat()).ok();
    folder.atra(&["replay", "--db", "a.db", "--team", "nobody"]).fails(1, &["nobody", "desk"]);
    folder.atra(&["replay", "--db", "a.db", "--agent", "nobody"]).fails(1, &["nobody", "execution"]);
}

// === years of candles ===

#[test]
fn four_years_of_quarter_hours_import_and_run() {
    let folder = Folder::new();
    let (file, n_candles) = atra_test_support::candles_file(folder.0.path());
    let n_candles = n_candles as u64;
    let text = file.display().to_string();
    let import = ["import", "candles", &text, "--ticker", "DOTUSDT", "--interval", "15m", "--db", "a.db", "--json"];
    assert_eq!(folder.atra(&import).ok().one()["added"].as_u64(), Some(n_candles));
    let done = folder.atra(&["run", "--db", "a.db", "--until-idle", "--json"]).ok().one();
    assert_eq!(done["candles"].as_u64(), Some(n_candles));
    assert!(done["fills"].as_u64() > Some(0), "{done}");
    let replayed = folder.atra(&["replay", "--db", "a.db", "--json"]).ok().one();
    assert_eq!((&replayed["equal"], replayed["difference"].is_null()), (&Value::Bool(true), true), "{replayed}");
    assert!(
        replayed["inputs"].as_u64() > Some(n_candles),
        "every candle, the end and the optimizer's times: {replayed}"
    );
}
