//! The real binary on candles: files of every kind in, indicators, back-tests, checks, searches, tables out, the kill
//! switch. Real data lie beside the repository; without them the tests that need them say so.

use std::{
    io::Read as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    /// With a file of the shared data imported into `a.db`; `None` if there are no data.
    #[track_caller]
    fn with(file: &str, ticker: &str) -> Option<Self> {
        let path = shared(file)?;
        let folder = Self::new();
        folder.ok(&["import", "candles", &path, "--ticker", ticker, "--db", "a.db"]);
        Some(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn atra(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atra"));
        command.args(args).current_dir(self.0.path());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ATRA_")) {
            command.env_remove(name);
        }
        let done = command.output().expect("the binary runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (done.status.code().unwrap_or(-1), text(done.stdout), text(done.stderr))
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let (code, out, err) = self.atra(args);
        assert_eq!(code, 0, "{args:?}\n{out}\n{err}");
        out
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let out = self.ok(&[args, &["--json"]].concat());
        serde_json::from_str(out.trim()).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    #[track_caller]
    fn fails(&self, code: i32, args: &[&str], said: &str) {
        let (found, out, err) = self.atra(args);
        assert!(found == code && err.contains(said), "{args:?} ended with {found}\n{out}\n{err}");
    }
}

#[track_caller]
fn shared(file: &str) -> Option<String> {
    Some(atra_test_support::shared(file)?.to_str().expect("a path that is text").to_owned())
}

// === in and out ===

#[cfg(feature = "columnar")]
#[test]
fn every_real_file_is_imported_by_what_it_is_and_named_by_its_name() {
    let Some(formats) = shared("data/formats") else { return };
    let folder = Folder::new();
    let mut files: Vec<String> = std::fs::read_dir(&formats)
        .expect("a folder")
        .map(|entry| entry.expect("a file").path().to_str().expect("text").to_owned())
        .collect();
    files.sort();
    assert_eq!(files.len(), 8);
    for file in &files {
        let found = folder.json(&["import", "candles", file, "--ticker", "X", "--db", "x.db", "--dry-run"]);
        assert!(found["added"].as_u64() > Some(1_000) && found["refused"] == 0, "{file}: {found}");
    }
    assert!(!folder.path("x.db").exists());
    let named: Vec<&String> = files.iter().filter(|file| file.contains("USDT-15m")).collect();
    let out = folder.ok(&["import", "candles", named[0], named[1], "--db", "x.db"]);
    assert!(out.contains("ADAUSDT.15m") && out.contains("BTCUSDT.15m"), "{out}");
    let lower = files.iter().find(|file| file.contains("bitfinex")).expect("a file");
    folder.fails(2, &["import", "candles", lower, "--db", "x.db"], "does not tell whose candles");
    // Of many, it is one bad file.
    let (code, out, err) = folder.atra(&["import", "candles", lower, named[0], "--db", "x.db"]);
    assert!(code == 1 && out.contains("ADAUSDT.15m") && err.contains("1 of 2 files were not imported"), "{out}{err}");
    // A column says whose they are; a name says how long they are, and may lie.
    let newest_first = files.iter().find(|file| file.contains("newest-first")).expect("a file");
    let out = folder.ok(&["import", "candles", newest_first, "--db", "x.db"]);
    assert!(out.contains("BTCUSD.1h") && !out.contains("its name says"), "{out}");
    let lies = folder.path("ADAUSDT-1h.parquet");
    std::fs::copy(named[0], &lies).expect("copied");
    let out = folder.ok(&["import", "candles", "ADAUSDT-1h.parquet", "--db", "x.db"]);
    assert!(out.contains("its name says 1h, its rows are 15m apart"), "{out}");
    let scaled = files.iter().find(|file| file.contains("scaled")).expect("a file");
    folder.ok(&["import", "candles", scaled, "--ticker", "EURUSD", "--scale", "1e-5", "--db", "x.db"]);
    let first = folder.ok(&["export", "candles", "--ticker", "EURUSD", "--db", "x.db"]);
    assert_eq!(first.lines().nth(1), Some("1354579200000,1.30584,1.31073,1.30453,1.30935,55870"));
}

#[test]
fn of_many_files_the_bad_ones_are_told_and_the_others_imported() {
    let folder = Folder::new();
    let csv = |n: i64| {
        let row = |i: i64| format!("{},1,2,0.5,1.5,7\n", 1_650_000_000_000 + i * 60_000);
        (0..n).map(row).collect::<String>()
    };
    for (name, text) in
        [("AAA.csv", csv(5)), ("BBB.csv", "no candles".into()), ("CCC.csv", csv(3)), ("DDD.csv", csv(9))]
    {
        std::fs::write(folder.path(name), text).expect("written");
    }
    let all =
        ["import", "candles", "AAA.csv", "BBB.csv", "CCC.csv", "none.csv", "DDD.csv", "--ticker", "X", "--db", "a.db"];
    let named: Vec<&str> = all.iter().copied().filter(|word| !["--ticker", "X", "none.csv"].contains(word)).collect();
    let (code, out, err) = folder.atra(&named);
    assert_eq!(code, 1, "{out}\n{err}");
    assert!(out.contains("AAA.1m") && out.contains("CCC.1m") && out.contains("DDD.1m"), "{out}");
    assert!(err.contains("BBB.csv") && err.contains("1 of 4 files were not imported"), "{err}");
    let again = folder.json(&["import", "candles", "DDD.csv", "--db", "a.db"]);
    assert_eq!((again["added"].as_u64(), again["equal"].as_u64()), (Some(0), Some(9)));
    folder.fails(1, &all, "2 of 5 files were not imported");
}

#[test]
fn candles_leave_as_they_came_in_every_format() {
    let Some(folder) = Folder::with("data/reference/GOOG-1d.csv", "GOOG") else { return };
    let series = ["--ticker", "GOOG", "--db", "a.db"];
    let formats = if cfg!(feature = "columnar") { 3 } else { 2 };
    for name in ["g.csv", "g.json", "g.parquet"].into_iter().take(formats) {
        folder.ok(&[&["export", "candles", "--out", name][..], &series].concat());
        let again = folder.json(&["import", "candles", name, "--ticker", "GOOG", "--db", "a.db"]);
        assert_eq!(
            (again["added"].as_u64(), again["equal"].as_u64(), again["conflicting"].as_u64()),
            (Some(0), Some(2148), Some(0)),
            "{name}"
        );
    }
    let made =
        folder.json(&["import", "resample", "--ticker", "GOOG", "--interval", "1d", "--to", "7d", "--db", "a.db"]);
    assert!(made["added"].as_u64() > Some(440) && made["series"] == "GOOG.1w", "{made}");
    folder.fails(
        2,
        &["import", "resample", "--ticker", "GOOG", "--interval", "1d", "--to", "1h", "--db", "a.db"],
        "no multiple",
    );
    folder.fails(2, &["export", "candles", "--ticker", "GOOG", "--db", "a.db"], "matches 2 series");
    let one = ["--ticker", "GOOG", "--interval", "1d", "--db", "a.db"];
    folder.fails(2, &[&["export", "candles", "--out", "g.xlsx"][..], &one].concat(), ".csv, .json, .jsonl, .parquet");
    folder.fails(2, &[&["backtest", "--trades", "t.xls"][..], &one].concat(), ".csv, .json, .jsonl, .parquet");
    assert!(!folder.path("g.xlsx").exists() && !folder.path("t.xls").exists());
    folder.fails(2, &[&["backtest", "--fee", "-0.1"][..], &one].concat(), "a share is a number from 0");
    folder.fails(2, &[&["backtest", "--cash", "-5"][..], &one].concat(), "not above 0");
    let info = folder.json(&["db", "info", "--db", "a.db"]);
    let spans = info["series"].as_array().expect("a list").iter();
    let spans: Vec<_> = spans.map(|row| (row["series"].as_str(), row["from"].as_i64(), row["to"].as_i64())).collect();
    assert!(spans.contains(&(Some("GOOG.1d"), Some(1_092_873_600_000), Some(1_362_096_000_000))), "{spans:?}");
}

#[cfg(feature = "columnar")]
#[test]
fn several_tickers_trade_on_one_account_as_the_seven_do() {
    let Some(files) = shared("data/breadth64-15m") else { return };
    let folder = Folder::new();
    let mut files: Vec<String> = std::fs::read_dir(&files)
        .expect("a folder")
        .map(|entry| entry.expect("a file").path().to_str().expect("text").to_owned())
        .filter(|path| path.ends_with(".feather"))
        .collect();
    files.sort();
    let some: Vec<&str> = files.iter().take(5).map(String::as_str).collect();
    folder.ok(&[&["import", "candles", "--db", "a.db"], &some[..]].concat());
    let run = ["backtest", "--db", "a.db", "--set", "fast=4", "--set", "slow=12", "--fee", "0.0004", "--verify"];
    folder.fails(2, &run, "matches 5 series");
    let found = folder.json(&[&run[..], &["--all", "--short", "--trades", "t.csv", "--report", "r.html"]].concat());
    assert_eq!(
        (found["verified"].as_bool(), found["series"].as_array().map(Vec::len)),
        (Some(true), Some(5)),
        "{found}"
    );
    assert!(found["trades"].as_u64() > Some(50), "{found}");
    let rows = std::fs::read_to_string(folder.path("t.csv")).expect("a table");
    assert_eq!(rows.lines().count() as u64, found["trades"].as_u64().unwrap_or(0) + 1);
    // Dated by opens, as the span is.
    folder.ok(&[&run[..], &["--all", "--equity", "e.csv"]].concat());
    let equity = std::fs::read_to_string(folder.path("e.csv")).expect("a table");
    let dates: Vec<&str> = equity.lines().skip(1).filter_map(|line| line.split(',').next()).collect();
    assert_eq!((dates[0], dates[dates.len() - 1]), (&*found["from"].to_string(), &*found["to"].to_string()));
    assert!(found["months"][0]["months"].as_array().is_some_and(|months| months.len() == 12), "{found}");
    assert!(found["series"][0]["walk_forward"].is_null(), "499 candles are too few");
    let page = std::fs::read_to_string(folder.path("r.html")).expect("a page");
    assert!(page.contains("on 5 series") && page.contains("Months") && page.matches("<svg").count() == 7);
    let two: Vec<String> = found["series"]
        .as_array()
        .into_iter()
        .flatten()
        .take(2)
        .map(|row| row["series"].as_str().expect("a name").split('.').next().expect("a ticker").to_owned())
        .collect();
    let told = folder.ok(&[&run[..], &["--ticker", &two.join(",")]].concat());
    assert!(told.contains("on 2 series, one account") && told.contains("to the last digit"), "{told}");
    // What the page draws is told as text too.
    assert!(told.contains("equity over time") && told.contains("The newest 5 of") && told.contains('█'), "{told}");
}

#[test]
fn indicators_print_as_a_table_that_equals_the_reference() {
    let (Some(folder), Some(oracle)) =
        (Folder::with("data/reference/GOOG-1d.csv", "GOOG"), shared("oracle/ind_GOOG_1d.csv"))
    else {
        return;
    };
    let args = [
        "indicators",
        "--ticker",
        "GOOG",
        "--interval",
        "1d",
        "--indicator",
        "sma:20",
        "--indicator",
        "macd:12,26,9",
        "--db",
        "a.db",
    ];
    let out = folder.ok(&args);
    assert!(out.starts_with("time,close,sma_20,macd_12_26_9,macd_signal_12_26_9,macd_hist_12_26_9\n"), "{out:.200}");
    let oracle = std::fs::read_to_string(oracle).expect("a table");
    let place = oracle
        .lines()
        .next()
        .and_then(|head| head.split(',').position(|name| name == "macd_signal"))
        .expect("a column");
    let number =
        |line: &str, place: usize| line.split(',').nth(place).expect("a column").parse::<f64>().expect("a number");
    let (ours, theirs) = (out.lines().last().expect("a row"), oracle.lines().last().expect("a row"));
    assert!((number(ours, 4) / number(theirs, place) - 1.0).abs() < 1e-9);
    let json = folder.ok(&[&args[..], &["--format", "json"]].concat());
    let first: Value = serde_json::from_str(json.lines().next().expect("a row")).expect("JSON");
    assert!(first["sma_20"].is_null() && first["close"] == 100.34, "{first}");
    folder.fails(2, &["indicators", "--indicator", "smaa:3", "--db", "a.db"], "there is no indicator");
    // Where the table begins changes no value.
    let late = folder.ok(&[&args[..], &["--from", "2013-01-02"]].concat());
    let rows: Vec<&str> = late.lines().skip(1).collect();
    assert!(rows.len() > 30 && out.ends_with(&format!("\n{}\n", rows.join("\n"))), "{late:.300}");
}

#[cfg(feature = "columnar")]
#[test]
fn sixty_four_tickers_trade_on_one_account_in_one_run() {
    let Some(breadth) = shared("data/breadth64-15m") else { return };
    let folder = Folder::new();
    let files = std::fs::read_dir(breadth).expect("a folder").map(|entry| entry.expect("a file").path());
    let files: Vec<String> = files.map(|path| path.to_str().expect("text").to_owned()).collect();
    let mut args = vec!["import", "candles", "--db", "a.db", "--json"];
    args.extend(files.iter().map(String::as_str));
    assert_eq!(folder.ok(&args).lines().count(), 64);
    let config = "[desk]\nstrategy = { name = \"donchian\", entry = 20, exit = 10 }\n";
    std::fs::write(folder.path("desk.toml"), config).expect("written");
    let run = ["run", "--config", "desk.toml", "--until-idle", "--db", "a.db"];
    let done = folder.json(&run);
    assert_eq!(done["candles"].as_u64(), Some(64 * 499));
    assert!(done["fills"].as_u64() > Some(500), "{done}");
    let digest = done["digest"].clone();
    let apart = folder.json(&[&run[..], &["--fresh", "--placement", "apart"]].concat());
    assert_eq!(apart["digest"], digest);
    let trades = folder.ok(&["export", "trades", "--db", "a.db"]);
    let traded: std::collections::BTreeSet<&str> =
        trades.lines().skip(1).filter_map(|line| line.split('.').next()).collect();
    assert!(traded.len() > 50, "{} tickers traded", traded.len());
}

// === back-tests ===

#[test]
fn a_back_test_equals_the_reference_and_the_seven_agents() {
    let (Some(folder), Some(metrics)) =
        (Folder::with("data/reference/GOOG-1d.csv", "GOOG"), shared("oracle/bt_GOOG_1d.metrics.json"))
    else {
        return;
    };
    let metrics: Value = serde_json::from_str(&std::fs::read_to_string(metrics).expect("a file")).expect("JSON");
    let usual = [
        "backtest",
        "--ticker",
        "GOOG",
        "--interval",
        "1d",
        "--strategy",
        "sma-cross",
        "--set",
        "fast=10",
        "--set",
        "slow=20",
        "--fee",
        "0.001",
        "--cash",
        "10000",
        "--unit",
        "1",
        "--verify",
        "--db",
        "a.db",
    ];
    // The second run replaces the files of the first.
    let files = ["--trades", "t.csv", "--equity", "e.csv", "--report", "r.html", "--force"];
    for (name, more) in [("GOOG_1d.longonly", &[][..]), ("GOOG_1d.longshort", &["--short"])] {
        let found = folder.json(&[&usual[..], more, &files].concat());
        let expected = &metrics[name]["definition"];
        let close =
            |a: &Value, b: &Value| (a.as_f64().expect("a number") / b.as_f64().expect("a number") - 1.0).abs() < 1e-9;
        assert!(close(&found["metrics"]["final_equity"], &expected["final_equity"]), "{found}");
        assert!(close(&found["metrics"]["sharpe"], &expected["sharpe_daily"]), "{found}");
        assert_eq!(found["trades"], expected["trades"]);
        assert_eq!(found["verified"], true);
        let text = |name: &str| std::fs::read_to_string(folder.path(name)).expect("a file");
        assert_eq!(text("t.csv").lines().count() as u64 - 1, found["trades"].as_u64().expect("a count"));
        assert_eq!(text("e.csv").lines().count(), 2149);
        assert!(text("r.html").contains("sma-cross on GOOG.1d"));
    }
    let out = folder.ok(&usual);
    assert!(out.contains("buy and hold") && out.contains("same trades and the same equity"), "{out}");
    folder.fails(2, &["backtest", "--strategy", "sma", "--db", "a.db"], "there is no strategy \"sma\"");
    folder.fails(2, &["backtest", "--set", "fast=30", "--db", "a.db"], "fast is 30, not below slow");
    folder.fails(2, &["backtest", "--set", "quick=3", "--db", "a.db"], "no parameter \"quick\"");
    folder.fails(2, &["backtest", "--fee", "1", "--db", "a.db"], "a share is a number");
}

#[test]
fn every_strategy_trades_alike_through_the_seven_with_stops_and_slippage() {
    let Some(folder) = Folder::with("data/DOTUSDT-15m-usdm-2022-01_2026-02.csv.gz", "DOT") else { return };
    for strategy in ["sma-cross", "ema-cross", "rsi-reversion", "bollinger", "donchian", "macd-adx", "buy-and-hold"] {
        let args = [
            "backtest",
            "--strategy",
            strategy,
            "--to",
            "2022-03-01",
            "--slippage-bps",
            "2",
            "--stop-loss",
            "0.02",
            "--take-profit",
            "0.05",
            "--short",
            "--verify",
            "--db",
            "a.db",
        ];
        assert_eq!(folder.json(&args)["verified"], true, "{strategy}");
    }
}

#[test]
fn checks_and_searches_say_what_they_found() {
    let Some(folder) = Folder::with("data/reference/GOOG-1d.csv", "GOOG") else { return };
    let found = folder.json(&["check", "lookahead", "--cuts", "all", "--strategy", "macd-adx", "--db", "a.db"]);
    assert_eq!((found["cuts"].as_u64(), found["differing"].as_u64()), (Some(2148), Some(0)));
    let found = folder.json(&["check", "warm-up", "--strategy", "ema-cross", "--db", "a.db"]);
    assert!(found["enough"].as_u64() > Some(26), "{found}");
    let grid = ["optimize", "--grid", "fast=5..25:5", "--grid", "slow=20..100:20", "--unit", "1", "--db", "a.db"];
    let found = folder.json(&grid);
    assert_eq!((found["candidates"].as_u64(), found["left_out"].as_u64()), (Some(23), Some(2)));
    assert_eq!(folder.json(&grid), found, "on all cores, the same twice");
    let out = folder.ok(&grid);
    for part in ["the choice", "buy and hold", "median candidate", "best in hindsight"] {
        assert!(out.contains(part), "{out}");
    }
    let drawn = folder.json(&[&grid[..], &["--random", "8"]].concat())["candidates"].as_u64().expect("a count");
    assert!((3..=8).contains(&drawn), "{drawn}");
    folder.fails(2, &["optimize", "--db", "a.db"], "nothing to search");
    folder.fails(1, &["optimize", "--walk-forward", "--db", "a.db"], "too few for a walk-forward");
}

#[test]
fn a_walk_forward_of_four_years_equals_the_reference() {
    let (Some(folder), Some(oracle)) = (
        Folder::with("data/DOTUSDT-15m-usdm-2022-01_2026-02.csv.gz", "DOT"),
        shared("oracle/walkforward_DOTUSDT_15m.json"),
    ) else {
        return;
    };
    let oracle: Value = serde_json::from_str(&std::fs::read_to_string(oracle).expect("a file")).expect("JSON");
    let expected = &oracle["DOTUSDT_15m_4y.fee0.001"];
    let found = folder.json(&["optimize", "--walk-forward", "--to", "2026-01-01", "--db", "a.db"]);
    let found = &found["walk_forward"];
    for (ours, theirs) in [
        ("return_pct", "oos_return_pct"),
        ("buy_and_hold_pct", "buy_hold_oos_pct"),
        ("median_fixed_pct", "median_fixed_oos_pct"),
        ("trades", "oos_trades"),
        ("refits", "refits"),
        ("sharpe", "oos_sharpe"),
        ("max_drawdown_pct", "oos_max_dd_pct"),
        ("flat_refits", "flat_refits"),
        ("switches", "switches"),
        ("selection_hash", "selection_hash"),
        ("candidates", "candidates"),
        ("train", "train"),
        ("step", "step"),
    ] {
        let (a, b) = (found[ours].as_f64().expect("a number"), expected[theirs].as_f64().expect("a number"));
        assert!((a / b - 1.0).abs() < 1e-9, "{ours}: {a} {b}");
    }
    for (pair, total) in expected["per_candidate_total"].as_object().expect("pairs") {
        let (a, b) = (found["totals"][pair].as_f64().expect("a number"), total.as_f64().expect("a number"));
        assert!((a / b - 1.0).abs() < 1e-9, "{pair}: {a} {b}");
    }
    let first = &found["selections"].as_array().expect("a list")[..10];
    assert_eq!(first, &expected["selection_first10"].as_array().expect("a list")[..]);
}

// === the kill switch ===

#[test]
fn a_kill_from_the_command_line_stops_the_next_run_until_a_resume() {
    let Some(folder) = Folder::with("data/reference/GOOG-1d.csv", "GOOG") else { return };
    let config = "[desk]\nstrategy = { name = \"sma-cross\", fast = 10, slow = 20 }\n";
    std::fs::write(folder.path("desk.toml"), config).expect("written");
    let run = ["run", "--config", "desk.toml", "--until-idle", "--db", "a.db"];
    folder.fails(1, &["risk", "kill", "--db", "none.db"], "there is no database");
    // Before any run it has the time of the first candle: younger than all of them, it would stop a pruning at event 1.
    folder.ok(&["risk", "kill", "--db", "a.db"]);
    let word = folder.json(&["journal", "tail", "-n", "1", "--topic", "risk.kill", "--db", "a.db"]);
    assert_eq!(word["time"], 1_092_873_600_000_i64);
    let free = folder.json(&[&run[..], &["--fresh"]].concat());
    assert!(free["fills"].as_u64() > Some(50), "{free}");

    let first = folder.json(&[&run[..], &["--fresh", "--to", "2008-01-01"]].concat());
    let said = folder.json(&["risk", "kill", "--reason", "test", "--db", "a.db"]);
    assert_eq!(said["topic"], "risk.kill");
    // At the time of the newest candle: by the wall's time a pruning by age would keep nothing else.
    let word = folder.json(&["journal", "tail", "-n", "1", "--topic", "risk.kill", "--db", "a.db"]);
    let candle = folder.json(&["journal", "tail", "-n", "1", "--topic", "market.>", "--db", "a.db"]);
    assert_eq!(word["time"], candle["time"]);
    let killed = folder.json(&run);
    assert_eq!(killed["fills"], first["fills"], "nothing is traded after the kill");
    let state = folder.json(&["memory", "get", "risk.state", "--db", "a.db"]);
    assert!(state.to_string().contains("halted"), "{state}");
    folder.ok(&["risk", "resume", "--db", "a.db"]);
    folder.ok(&run);
    let state = folder.json(&["memory", "get", "risk.state", "--db", "a.db"]);
    assert!(state.to_string().contains("active"), "{state}");
    let signals = folder.ok(&["export", "signals", "--db", "a.db"]);
    assert!(
        signals.lines().count() > 80 && signals.contains("sma-cross fast=10 side=long-only slow=20"),
        "{signals:.300}"
    );
    let trades = folder.ok(&["export", "trades", "--format", "json", "--db", "a.db"]);
    assert!(trades.lines().count() > 10, "{trades:.300}");
    assert!(folder.ok(&["export", "equity", "--db", "a.db"]).lines().count() > 1_000);
}

/// A desk that runs until it is told to end, or its test fails.
struct Desk(std::process::Child);

impl Drop for Desk {
    fn drop(&mut self) {
        // It has ended already, if all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A runtime that somebody else's program began, or that has died, would leave the file lying; a running desk takes it.
#[test]
fn a_running_desk_hears_a_kill_a_resume_and_a_freeze_at_once() {
    let folder = Folder::new();
    let mut desk = Command::new(env!("CARGO_BIN_EXE_atra"));
    desk.args(["run", "--demo", "--db", "a.db", "--json", "--speed", "50"]).current_dir(folder.0.path());
    let mut desk = Desk(desk.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the binary starts"));
    // Each try is a process, so a thousand take many seconds.
    let asked = |key: &str, wanted: &str| {
        let is_so = |_: &u32| folder.atra(&["memory", "get", key, "--db", "a.db"]).1.contains(wanted);
        assert!((0..1_000).find(is_so).is_some(), "{key} is never {wanted}");
    };
    asked("feed.series.SIM.15m", "feed");

    let killed = folder.json(&["risk", "kill", "--reason", "too hot", "--db", "a.db"]);
    assert_eq!((&killed["topic"], &killed["running"]), (&"risk.kill".into(), &true.into()));
    let word = folder.json(&["journal", "tail", "-n", "1", "--topic", "risk.kill", "--db", "a.db"]);
    assert_eq!((&word["seq"], &word["payload"]["reason"]), (&killed["seq"], &"too hot".into()));
    asked("risk.state", "halted");
    folder.json(&["risk", "resume", "--db", "a.db"]);
    asked("risk.state", "active");
    folder.json(&["risk", "freeze", "--db", "a.db"]);
    folder.ok(&["risk", "kill", "--db", "a.db"]);
    asked("risk.state", "halted");

    let signal = Command::new("kill").args(["-INT", &desk.0.id().to_string()]).status().expect("a signal is sent");
    assert!(signal.success());
    let mut told = String::new();
    desk.0.stdout.take().expect("a pipe").read_to_string(&mut told).expect("text");
    assert!(desk.0.wait().expect("it ends").success());
    let told: Value = serde_json::from_str(&told).expect("one line of JSON");
    assert!(told["report"]["risk"].as_str().is_some_and(|risk| risk.starts_with("halted by a caller")), "{told}");
    let frozen = folder.json(&["journal", "tail", "-n", "1", "--topic", "optimizer.freeze", "--db", "a.db"]);
    assert_eq!(frozen["payload"]["frozen"], true);
    // Nothing is left beside the database; one whose runtime died before it was heard is journalled by the next run, once.
    let beside = |name: &str| folder.path(name).exists();
    assert!(!beside("a.db.word") && !beside("a.db.word.heard"));
    let word = r#"{"say":"thaw","reason":"","key":"word 1 2"}"#;
    for _ in 0..2 {
        std::fs::write(folder.path("a.db.word.heard"), word).expect("written");
        folder.ok(&["run", "--db", "a.db", "--until-idle", "--speed", "max"]);
        assert!(!beside("a.db.word.heard"));
    }
    let words = folder.ok(&["journal", "tail", "--topic", "optimizer.freeze", "--db", "a.db"]);
    assert_eq!(words.lines().count(), 2, "{words}");
}
