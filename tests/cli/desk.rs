//! What outlives the journal, what is halted, and the units of people.

use std::path::Path;

use super::{Folder, Running};

fn simulated(folder: &Folder, candles: &str, args: &[&str]) -> super::Done {
    let mut command = folder.command(&[&["run", "--until-idle"], args].concat());
    command.env("ATRA_RUN_SIMULATED_CANDLES", candles).env("ATRA_DESK_OPTIMIZER_TRAIN", "960");
    Running::spawn(&mut command).end()
}

/// `status` did not say that trading was halted.
#[test]
fn status_says_what_is_halted_since_when_by_whom_and_why() {
    let folder = Folder::finished();
    let status = |args: &[&str]| folder.atra(&[&["status", "--db", "a.db"], args].concat()).ok();
    assert!(!status(&[]).out.contains("halted"));
    folder.atra(&["risk", "kill", "--reason", "flood", "--db", "a.db"]).ok();
    // Nothing has run since: it waits.
    let waiting = status(&[]).out;
    assert!(waiting.contains("risk.kill by cli is event") && waiting.contains(": flood"), "{waiting}");
    folder.run(&[]).ok();
    let halted = status(&[]).out;
    let line = halted.lines().find(|line| line.contains("halted")).expect("a line");
    assert!(line.contains("desk halted since 2022-02-01") && line.contains("UTC by caller cli: flood"), "{line}");
    let json = status(&["--json"]).one();
    assert_eq!((&json["risk"]["state"], &json["risk"]["halts"][0]["reason"]), (&"halted".into(), &"flood".into()));
    assert_eq!(json["risk"]["halts"][0]["by"]["caller"], "cli");
    folder.atra(&["risk", "resume", "--db", "a.db"]).ok();
    folder.run(&[]).ok();
    assert!(!status(&[]).out.contains("halted"));
}

/// Candles, fills and decisions were counted in what was left of the journal, and exports were refused for ever.
#[test]
fn totals_and_exports_survive_pruning() {
    let folder = Folder::new();
    let first = simulated(&folder, "6000", &[]).ok().out;
    let trades = folder.atra(&["export", "trades"]).ok();
    assert_eq!(trades.err, "");
    folder.atra(&["db", "prune", "--keep-events", "500"]).ok();
    let second = simulated(&folder, "6000", &[]).ok().out;
    let figures = |out: &str| {
        let begin = out.find("  market ").expect("a report");
        out[begin..].split("digest").next().expect("a report").to_owned()
    };
    assert_eq!(figures(&second), figures(&first));
    assert!(first.contains("promoted") && !first.contains("0 promoted"), "{first}");
    let counts = |out: &str| {
        let line = out.lines().find(|line| line.contains(" fills, ")).expect("a line").to_owned();
        (
            line.contains("6,000 candles"),
            line.split(" fills").next().and_then(|l| l.rsplit(' ').next().map(str::to_owned)),
        )
    };
    assert_eq!(counts(&second), counts(&first));
    assert_eq!(simulated(&folder, "6000", &["--json"]).ok().one()["candles"], 6_000);

    let left = folder.atra(&["export", "trades"]).ok();
    assert!(left.err.contains("were pruned; exported what is after them, from "), "{}", left.err);
    assert!(trades.out.ends_with(left.out.split_once('\n').expect("a heading").1), "{}", left.out);
    for what in ["trades", "equity", "signals"] {
        let told = folder.atra(&["export", what, "--out", "x.csv", "--force", "--json"]).ok().one();
        assert_eq!(told["after"], told["pruned_upto"], "{told}");
        let all = folder.atra(&["export", what]).ok().out.lines().count();
        assert_eq!(told["rows"].as_u64(), Some(all as u64 - 1));
        let last = folder.atra(&["export", what, "--after", "999999999"]).ok();
        assert_eq!((last.out.lines().count(), last.err.as_str()), (1, ""), "{what}");
    }
    assert!(Path::new(&folder.path("x.csv")).exists());
}

/// Prices of a simulated market were whole ticks in exports, and all were in `journal show`.
#[test]
fn prices_are_told_as_people_write_them() {
    let folder = Folder::new();
    simulated(&folder, "6000", &[]).ok();
    let trades = folder.atra(&["export", "trades"]).ok().out;
    let price: f64 = trades.lines().nth(1).and_then(|row| row.split(',').nth(4)?.parse().ok()).expect("a price");
    assert!((25.0..400.0).contains(&price), "{trades}");
    for (topic, told) in [("market.candle", "open "), ("order.fill", "price "), ("portfolio.position", "entry price ")]
    {
        let events = folder.atra(&["journal", "tail", "--topic", topic, "-n", "2", "--json"]).ok().json();
        let shown = |seq: &serde_json::Value| folder.atra(&["journal", "show", &seq.to_string()]).ok().out;
        let all: String = events.iter().map(|event| shown(&event["seq"])).collect();
        let line = all.lines().find(|line| line.starts_with("prices ")).unwrap_or_else(|| panic!("{topic}: {all}"));
        let price = line.split(told).nth(1).and_then(|rest| rest.split([',', ' ']).next()?.parse::<f64>().ok());
        assert!(price.is_some_and(|price| (25.0..400.0).contains(&price)), "{topic}: {line}");
    }
}

/// `strategy = "donchian"` said: expected internally tagged enum StrategySpec.
#[test]
fn a_strategy_is_named_alone_or_with_parameters_and_what_is_none_is_told() {
    let folder = Folder::with_candles();
    let config = |text: &str| std::fs::write(folder.path("s.toml"), format!("[desk]\n{text}\n")).expect("written");
    let run = || folder.atra(&["run", "--config", "s.toml", "--db", "a.db", "--until-idle", "--fresh"]);
    let digest = || {
        run().ok();
        folder.digest("a.db")
    };
    config("strategy = \"donchian\"");
    let named = digest();
    config("strategy = { name = \"donchian\", entry = 20, exit = 10 }");
    assert_eq!(digest(), named);
    for (bad, told) in [
        ("strategy = \"dochian\"", "there is no strategy \"dochian\"; there are sma-cross"),
        ("strategy = 5", "expected a strategy such as \"donchian\""),
        ("strategy = { entry = 5 }", "its name is missing"),
        ("strategy = { name = \"donchian\", fast = 5 }", "has no parameter \"fast\"; it has entry, exit, side"),
        ("exits = 5", "expected a section of keys"),
        ("risk = \"low\"", "expected a section of keys"),
        ("optimizer.pairs = 5", "a list"),
        ("optimizer.pairs = [5]", "a list in brackets"),
        ("optimizer.pairs = [[8, 16, 32]]", "a pair is two lengths, such as [8, 32], not 3"),
        ("cash = true", "an amount, as a text such as \"10000.25\""),
    ] {
        config(bad);
        let done = run();
        assert!(done.code == 2 && done.err.contains(told), "{bad}: {}", done.err);
        for name in ["enum", "struct", "StrategySpec", "Exits", "RiskLimits", "tuple", "sequence"] {
            assert!(!done.err.contains(name), "{bad}: {}", done.err);
        }
    }
}

#[test]
fn a_gap_of_one_candle_is_one_gap() {
    let folder = Folder::new();
    let row = |i: i64| format!("{},1,2,0.5,1.5,7\n", 1_650_000_000_000 + i * 60_000);
    let text: String = (0..10).filter(|i| *i != 5).map(row).collect();
    std::fs::write(folder.path("A.csv"), text).expect("written");
    let done = folder.atra(&["import", "candles", "A.csv", "--db", "a.db"]).ok().out;
    assert!(done.contains("  1 candle missing in 1 gap\n"), "{done}");
}

#[test]
fn a_file_above_its_limits_is_refused_with_what_to_do() {
    let folder = Folder::new();
    let row = |i: i64| format!("{},1,2,0.5,1.5,7\n", 1_650_000_000_000 + i * 60_000);
    let text: String = (0..3_000).map(row).collect();
    std::fs::write(folder.path("A.csv"), &text).expect("written");
    let import = |size: &str| folder.atra(&["import", "candles", "A.csv", "--db", "a.db", "--max-size", size]);
    import("64K").fails(1, &["more than 65536 bytes, unpacked", "--max-size"]);
    import("many").fails(2, &["write bytes as 500M, 8G"]);
    import("1MiB").ok();
    std::fs::write(folder.path("B.csv"), format!("{}{}", row(0), "x".repeat(3 << 20))).expect("written");
    folder.atra(&["import", "candles", "B.csv", "--db", "a.db"]).fails(1, &["line 2 has more than 1048576 bytes"]);
}

#[test]
fn a_simulated_run_goes_on_with_its_own_market() {
    let trades = |runs: &[&str]| {
        let folder = Folder::new();
        runs.iter().for_each(|candles| drop(simulated(&folder, candles, &["--config", "desk.toml"]).ok()));
        folder.atra(&["export", "trades"]).ok().out
    };
    let whole = trades(&["900"]);
    assert!(whole.lines().count() > 5, "{whole}");
    assert_eq!(trades(&["300", "301", "900"]), whole);
}
