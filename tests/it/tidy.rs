//! The repository checks itself: what `docs/architecture.md` says is *absent* is looked for here.
//!
//! Each check reads the source tree and names file, line and rule. Code means: no comments, no text between
//! quotes and no unit tests, unless a check says otherwise. Each check has been seen to fail.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Crates from left to right: each may use those before it only.
const CRATES: [(&str, &str); 6] = [
    ("test-support", "atra-test-support"),
    ("bus", "atra-bus"),
    ("storage", "atra-storage"),
    ("runtime", "atra-runtime"),
    ("agents", "atra-agents"),
    (".", "atra"),
];
const KERNEL: [&str; 3] = ["bus", "storage", "runtime"];
/// Words of the market that the kernel has no business to know. Not here: words that are also everyday
/// ones in a kernel (order, price, volume, position, signal, series).
const MARKET_WORDS: [&str; 18] = [
    "market",
    "candle",
    "candles",
    "candlestick",
    "ticker",
    "tickers",
    "ohlc",
    "ohlcv",
    "orderbook",
    "order_book",
    "broker",
    "portfolio",
    "backtest",
    "drawdown",
    "sharpe",
    "btc",
    "usdt",
    "trading",
];
/// Lines of a file with its tests: beyond that it has more than one subject.
const LINES_MAX: usize = 800;

/// A source file: its path from the root, and its text.
struct Source {
    path: String,
    text: String,
    /// The same with comments, quoted texts and unit tests blanked.
    code: String,
    /// The same with comments and unit tests blanked.
    said: String,
}

impl Source {
    fn is_in(&self, folder: &str) -> bool {
        self.path.starts_with(&format!("{folder}/"))
    }

    /// `path:line` of each line of code in which `found` is true, as text for the report.
    fn lines(&self, found: impl Fn(&str) -> bool) -> Vec<String> {
        self.lines_of(&self.code, found)
    }

    fn lines_of(&self, blanked: &str, found: impl Fn(&str) -> bool) -> Vec<String> {
        let lines = blanked.lines().zip(self.text.lines()).enumerate();
        let hits = lines.filter(|(_, (code, _))| found(code));
        hits.map(|(n, (_, text))| format!("{}:{}: {}", self.path, n + 1, text.trim())).collect()
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// Every Rust file of the workspace.
fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    for folder in ["bus", "storage", "runtime", "agents", "bench", "src", "tests", "examples"] {
        collect(&root().join(folder), &mut files);
    }
    files.sort();
    assert!(files.len() > 80, "only {} source files found: the walk is broken", files.len());
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
        let (code, said) = (code_of(&text, false), code_of(&text, true));
        assert_eq!(code.lines().count(), text.lines().count(), "{path}: blanking must keep lines");
        Source { path, text, code, said }
    };
    files.into_iter().map(read).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The text with comments, quoted texts (unless they are kept) and unit-test modules blanked.
fn code_of(text: &str, keeps_texts: bool) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let (bytes, is_text) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), false)
        } else if let Some(raw) = rest.strip_prefix("r#\"") {
            (3 + raw.find("\"#").map_or(raw.len(), |end| end + 2), true)
        } else if let Some(quoted) = rest.strip_prefix('"') {
            (1 + end_of_quoted(quoted), true)
        } else if rest.starts_with("'\"'") {
            (3, true)
        } else {
            (0, false)
        };
        let taken = if bytes > 0 { bytes } else { next.len_utf8() };
        if bytes == 0 || (is_text && keeps_texts) {
            code.push_str(&rest[..taken]);
        } else {
            code.push_str(&blank(&rest[..taken]));
        }
        rest = &rest[taken..];
    }
    // rustfmt closes a module at the line's beginning.
    while let Some(begin) = code.find("#[cfg(test)]\nmod tests {") {
        let end = code[begin..].find("\n}").map_or(code.len(), |end| begin + end + 2);
        code.replace_range(begin..end, &blank(&code[begin..end]));
    }
    code
}

/// As many characters, lines kept.
fn blank(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect()
}

/// Bytes up to and with the closing quote.
fn end_of_quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// Words of a line, split at everything that is no part of a name and at capitals: `CandleRow` is
/// `candle row`.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for c in line.chars() {
        if !c.is_ascii_alphanumeric() || (c.is_ascii_uppercase() && was_lower) {
            words.push(String::new());
        }
        was_lower = c.is_ascii_lowercase();
        if c.is_ascii_alphanumeric() {
            words.last_mut().unwrap().push(c.to_ascii_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[track_caller]
fn none(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

fn search(is_asked: impl Fn(&Source) -> bool, found: impl Fn(&str) -> bool) -> Vec<String> {
    sources().iter().filter(|source| is_asked(source)).flat_map(|source| source.lines(&found)).collect()
}

#[test]
fn the_kernel_never_names_a_market_type() {
    // Texts count: a topic is one. What tests and examples in comments use does not.
    let in_kernel = |source: &Source| {
        KERNEL.iter().any(|folder| source.is_in(&format!("{folder}/src"))) && !source.path.contains("/tests")
    };
    let is_market = |line: &str| {
        let words = words(line);
        let pairs = words.windows(2).map(|pair| pair.join("_"));
        words.iter().cloned().chain(pairs).any(|word| MARKET_WORDS.contains(&word.as_str()))
    };
    let named = sources().into_iter().filter(in_kernel).flat_map(|source| source.lines_of(&source.said, is_market));
    none("the kernel names something of the market", &named.collect::<Vec<_>>());
}

#[test]
fn the_market_is_pure() {
    const IMPURE: [&str; 8] =
        ["async", "await", "tokio::", "std::fs", "std::net", "std::env", "Instant::now", "std::thread"];
    let found =
        search(|source| source.is_in("agents/src/market"), |line| IMPURE.iter().any(|word| line.contains(word)));
    none("agents/src/market has something asynchronous, a clock or I/O", &found);
}

#[test]
fn only_storage_knows_sql() {
    const SQL: [&str; 5] = ["SELECT ", "INSERT INTO", "DELETE FROM", "PRAGMA ", "CREATE TABLE"];
    // Here text between quotes counts, since that is where SQL is. bench may drive what it compares with.
    let mut found = Vec::new();
    for source in sources() {
        if source.is_in("storage") || source.is_in("bench") || source.path == "tests/it/tidy.rs" {
            continue;
        }
        found.extend(source.lines(|line| line.contains("sqlx") || line.contains("rusqlite")));
        for (n, line) in source.text.lines().enumerate() {
            if !line.trim_start().starts_with("//") && SQL.iter().any(|sql| line.contains(sql)) {
                found.push(format!("{}:{}: {}", source.path, n + 1, line.trim()));
            }
        }
    }
    for (folder, _) in CRATES.iter().filter(|(folder, _)| *folder != "storage") {
        let uses = dependencies(folder).into_iter().filter(|name| name.contains("sql"));
        found.extend(uses.map(|name| format!("{folder}/Cargo.toml: {name}")));
    }
    none("SQL outside storage/", &found);
}

/// A file for a user is written whole or not at all, and never over a database; one beside a database is never a
/// link's target. Both have one place that knows how.
#[test]
fn only_two_files_create_files() {
    const CREATES: [&str; 6] =
        ["File::create", "fs::write", "fs::copy", "create(true)", "create_new(", "truncate(true)"];
    const PLACES: [&str; 2] = ["storage/src/output.rs", "storage/src/sqlite/paths.rs"];
    let is_product = |source: &Source| {
        let folders = ["src", "bus/src", "storage/src", "runtime/src", "agents/src"];
        folders.iter().any(|folder| source.is_in(folder)) && !source.path.contains("/tests")
    };
    let found = search(
        |source| is_product(source) && !PLACES.contains(&source.path.as_str()),
        |line| {
            let is_whole = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric());
            CREATES.iter().any(|create| line.match_indices(create).any(|(at, _)| is_whole(at)))
        },
    );
    none("files are created outside storage/src/output.rs and storage/src/sqlite/paths.rs", &found);
}

#[test]
fn only_one_file_reads_the_wall_clock() {
    let found = search(
        |source| source.path != "bus/src/env.rs" && !source.is_in("bench"),
        |line| line.contains("SystemTime") || line.contains("std::time::Instant"),
    );
    none("the clock is read outside bus/src/env.rs", &found);
    let env = sources().into_iter().find(|source| source.path == "bus/src/env.rs").unwrap();
    assert_eq!(env.lines(|line| line.contains("SystemTime::now")).len(), 1);
}

/// Times are added to by the methods of `Timestamp`, and waits to instants by `later`: neither can overflow.
#[test]
fn the_kernel_never_calculates_with_the_number_in_a_time() {
    const TIMES: [&str; 10] = ["now", "time", "due", "wall", "until", "planned", "expected", "read", "start", "since"];
    let calculates = |line: &str| {
        line.match_indices(".0 ").any(|(at, found)| {
            let name = line[..at].rsplit(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default();
            TIMES.contains(&name) && line[at + found.len()..].starts_with(['+', '-', '*'])
        }) || line.contains("Instant::now() + self")
    };
    let is_kernel = |source: &Source| KERNEL.iter().any(|folder| source.is_in(&format!("{folder}/src")));
    none("arithmetic on a time that can overflow", &search(is_kernel, calculates));
}

#[test]
fn only_the_step_sender_commits_turns() {
    // Whoever holds a `Storage` could submit; others have a `submit` and a `Step` of their own (the desk's broker).
    // Storage itself offers it and makes steps in its tests.
    let is_asked = |source: &Source| {
        let holds = source.code.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == "Storage");
        let elsewhere = !source.is_in("storage") && source.path != "runtime/src/team/step.rs";
        elsewhere && (holds || source.is_in("runtime"))
    };
    let found = search(is_asked, |line| {
        line.contains(".submit(") || line.contains("::submit") || line.contains(" Step {") || line.contains("(Step {")
    });
    none("steps are made or submitted outside runtime/src/team/step.rs", &found);
    let step = sources().into_iter().find(|source| source.path == "runtime/src/team/step.rs").unwrap();
    assert_eq!(step.lines(|line| line.contains(".submit(")).len(), 1);
}

#[test]
fn only_one_file_spawns_the_runtimes_tasks() {
    let is_asked = |source: &Source| {
        source.is_in("runtime/src") && !source.is_in("runtime/src/sim") && source.path != "runtime/src/tasks.rs"
    };
    let found = search(is_asked, |line| {
        line.contains("env.spawn(") || line.contains("thread::Builder") || line.contains("thread::spawn")
    });
    none("tasks are spawned outside runtime/src/tasks.rs, where their panics would be nobody's business", &found);
}

#[test]
fn nothing_iterates_a_dash_map() {
    // bench drives a bare one as what it compares with.
    let uses = |source: &Source| source.code.contains("DashMap") && !source.is_in("bench");
    let users: Vec<_> = sources().into_iter().filter(uses).collect();
    let paths: Vec<_> = users.iter().map(|source| source.path.as_str()).collect();
    assert_eq!(paths, ["runtime/src/memory.rs"], "a new user of DashMap: hold its rules here too");
    // Its one map is the field `keys`.
    const WALKS: [&str; 8] =
        ["iter()", "iter_mut()", "into_iter()", "retain(", "shards()", "len()", "clear()", "entry("];
    let walks = |line: &str| {
        line.contains("in &self.0.keys")
            || line.contains("in self.0.keys")
            || line.split(".keys.").skip(1).any(|rest| WALKS.iter().any(|walk| rest.starts_with(walk)))
    };
    let found: Vec<_> = users.iter().flat_map(|source| source.lines(walks)).collect();
    none("a DashMap is walked or an entry of it held", &found);
}

#[test]
fn every_file_says_what_it_is() {
    let has_head = |text: &str| text.starts_with("//!") || text.starts_with("#![doc");
    let found: Vec<_> =
        sources().into_iter().filter(|source| !has_head(&source.text)).map(|source| source.path).collect();
    none("files without a `//!` head", &found);
}

#[test]
fn no_file_is_too_long() {
    let lines = |source: &Source| source.text.lines().count();
    let long = sources().into_iter().filter(|source| lines(source) > LINES_MAX);
    let found: Vec<_> = long.map(|source| format!("{}: {} lines", source.path, lines(&source))).collect();
    none("files above the limit of 800 lines", &found);
}

#[test]
fn nothing_is_left_to_be_done() {
    // In pieces, or this file would be found; in comments and texts too, since that is where they are left.
    let marks =
        [concat!("to", "do!("), concat!("d", "bg!("), concat!("FIX", "ME"), concat!("TO", "DO"), concat!("XX", "X")];
    let mut found = Vec::new();
    for source in sources() {
        for (n, line) in source.text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                found.push(format!("{}:{}: {}", source.path, n + 1, line.trim()));
            }
        }
    }
    none("left-overs", &found);
}

#[test]
fn a_crate_uses_only_crates_to_its_left() {
    let mut found = Vec::new();
    for (place, (folder, _)) in CRATES.iter().enumerate() {
        let to_the_left: Vec<&str> = CRATES[..place].iter().map(|(_, name)| *name).collect();
        let used = dependencies(folder);
        let of_ours = used.iter().filter(|name| *name == "atra" || name.starts_with("atra-"));
        let wrong = of_ours.filter(|name| !to_the_left.contains(&name.as_str()));
        found.extend(wrong.map(|name| format!("{folder}/Cargo.toml: {name}")));
    }
    none("a crate uses one to its right", &found);
    assert_eq!(dependencies("runtime").iter().filter(|name| name.starts_with("atra-")).count(), 2);
}

#[test]
fn floats_are_read_back_exactly() {
    // Without the feature a killed run reads back other numbers than it wrote. `bus` tests the effect; this
    // holds the cause, where it can be taken out by somebody who does not know.
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let serde_json = workspace.lines().find(|line| line.starts_with("serde_json = {")).unwrap_or_default();
    assert!(serde_json.contains("\"float_roundtrip\""), "serde_json needs float_roundtrip: {serde_json:?}");
    let mut found = Vec::new();
    for (folder, _) in CRATES {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let own = manifest.lines().filter(|line| line.starts_with("serde_json") && !line.contains("workspace = true"));
        // The workspace's own definition is the one that was looked at above.
        found.extend(own.filter(|line| *line != serde_json).map(|line| format!("{folder}/Cargo.toml: {line}")));
    }
    none("serde_json is to come from the workspace", &found);
}

/// Names of what a crate depends on, in any of its dependency tables.
fn dependencies(folder: &str) -> Vec<String> {
    let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
    let mut tables: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut table = "";
    for line in manifest.lines() {
        if line.starts_with('[') {
            table = line.trim_matches(['[', ']']);
        } else if let Some((name, _)) = line.split_once(['.', ' ', '='])
            && !name.is_empty()
            && !name.starts_with('#')
        {
            tables.entry(table).or_default().push(name.to_owned());
        }
    }
    let is_wanted = |table: &str| table.ends_with("dependencies") && !table.starts_with("workspace");
    tables.into_iter().filter(|(table, _)| is_wanted(table)).flat_map(|(_, names)| names).collect()
}
