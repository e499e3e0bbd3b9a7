//! JSON: every line parses and has documented names, errors too; and text from data that could steer a terminal.

use std::collections::BTreeMap;

use atra::prelude::*;
use serde_json::Value;

use super::{Done, Folder, PATIENCE, Running, config::COMMANDS};

const OPERATING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operating.md");
/// One of each kind that must never be printed as it is.
const HOSTILE: &str = "a\u{1b}[2J\u{7}\r\u{7f}\u{85}\u{9b}31m\u{202e}\u{2066}\u{200f}\u{61c}\u{2028}\u{feff}z";

fn is_hostile(c: char) -> bool {
    (c.is_control() && c != '\n') || HOSTILE.chars().any(|bad| bad == c && !bad.is_ascii_graphic() && bad != '\n')
}

/// Nothing hostile on either stream.
fn assert_clean(done: &Done, what: &str) {
    for text in [&done.out, &done.err] {
        let bad = text.chars().find(|c| is_hostile(*c));
        assert!(bad.is_none(), "{what} printed {bad:?} in {text:?}");
    }
}

/// Command → names of the fields of its values, from the table in the documentation.
fn documented() -> BTreeMap<String, Vec<String>> {
    let text = std::fs::read_to_string(OPERATING).expect("the documentation");
    let table = text.split("## JSON").nth(1).expect("a section").split("\n## ").next().expect("a table").to_owned();
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let rows = table.lines().filter(|line| line.starts_with("| `")).filter_map(|line| {
        let mut cells = line.split(" | ");
        Some((quoted(cells.next()?), quoted(cells.next()?)))
    });
    rows.flat_map(|(commands, names)| commands.into_iter().map(move |command| (command, names.clone()))).collect()
}

#[test]
fn every_line_of_every_command_is_json_with_documented_names() {
    let folder = Folder::finished();
    folder.atra(&["db", "backup", "b.db", "--db", "a.db"]).ok();
    let mut documented = documented();
    // The table that is exported has the columns of its kind.
    let is_table = |command: &str| command.starts_with("export") || command == "indicators";
    let sim = ["sim", "--agents", "2", "--no-desk", "--hours", "0.01"];
    for command in
        COMMANDS.iter().copied().chain([sim.as_slice(), &["sim", "--seeds", "5..1"], &["journal", "tail", "-n", "x"]])
    {
        let mut args = [command, ["--json"].as_slice()].concat();
        if command[0] != "sim" {
            args.extend(["--db", "a.db"]);
        }
        if command[0] == "run" {
            args.extend(["--config", "desk.toml"]);
        }
        let done = folder.atra(&args);
        let name = ["journal", "memory", "dead-letters", "import", "export", "check", "risk", "db", "config"];
        let name = command[..if name.contains(&command[0]) { 2 } else { 1 }].join(" ");
        let names = if done.code == 0 { documented.remove(&name) } else { None };
        for value in done.json() {
            let fields = value.as_object().unwrap_or_else(|| panic!("{args:?}: {value} is no object"));
            assert!(!fields.contains_key("path") && !fields.contains_key("database"), "{args:?}: {value}");
            if is_table(&name) || done.code != 0 {
                continue;
            }
            let names = names.as_ref().unwrap_or_else(|| panic!("{name} is not in the table of docs/operating.md"));
            let unknown: Vec<_> = fields.keys().filter(|field| !names.contains(field)).collect();
            assert!(unknown.is_empty(), "{name}: {unknown:?} is not in the table of docs/operating.md");
        }
        let errors = done
            .err
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{args:?}: {line}: {e}")));
        let errors: Vec<Value> = errors.filter(|value| value["error"].is_object()).collect();
        assert_eq!(errors.len(), usize::from(done.code != 0), "{args:?}: {} {}", done.out, done.err);
        for error in errors {
            let error = error["error"].as_object().expect("an object");
            let keys: Vec<_> = error.keys().map(String::as_str).collect();
            assert_eq!(keys, ["hint", "kind", "message"], "{args:?}");
            assert!(error["kind"].is_string() && error["message"].is_string(), "{args:?}");
        }
    }
}

#[test]
fn errors_have_a_stable_kind() {
    let folder = Folder::with_candles();
    for (args, code, kind) in [
        (&["status", "--db", "none.db"][..], 1, "no_database"),
        (&["journal", "show", "999", "--db", "a.db"], 1, "not_found"),
        (&["why", "x", "--db", "a.db"], 2, "usage"),
        (&[], 2, "usage"),
        (&["db"], 2, "usage"),
        (&["status", "--config", "none.toml"], 2, "config"),
        (&["db", "restore", "none.db", "--db", "a.db"], 1, "not_found"),
        (&["status", "--check", "--db", "a.db"], 3, "verdict"),
    ] {
        let done = folder.atra(&[args, &["--json"]].concat());
        let error: Value = serde_json::from_str(done.err.lines().last().expect("a line")).expect("JSON");
        assert_eq!((done.code, &error["error"]["kind"]), (code, &kind.into()), "{args:?}: {error}");
    }
    folder
        .atra(&["db", "restore", "none.db", "--db", "a.db"])
        .fails(1, &["there is no backup none.db", "'atra db backup'"]);
}

struct Careless;

#[atra::async_trait]
impl Agent for Careless {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("careless").subscribes("in.text").owns("said.").publishes_on("out.>", true)
    }

    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let text = event.payload.to_value().unwrap_or_default();
        if text == HOSTILE {
            return Err(AgentError::new(HOSTILE));
        }
        cx.put("said.text", text)?;
        Ok(())
    }
}

#[test]
fn text_from_data_cannot_steer_a_terminal() {
    let folder = Folder::new();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let seq = tokio.block_on(async {
        let store = SqliteStore::open(SqliteOptions::new(folder.path("own.db"))).await.expect("opened");
        let runtime = RuntimeBuilder::new(store).team(Team::of(|| Careless)).start().await.expect("started");
        let topic = Topic::new("in.text").expect("a topic");
        let said = format!("more {HOSTILE}");
        runtime.publish(Draft::new(topic.clone(), said)).await.expect("published");
        let seq = runtime.publish(Draft::new(topic, HOSTILE)).await.expect("published").seq;
        runtime.idle().await;
        runtime.stop(PATIENCE).await.expect("stopped");
        seq.to_string()
    });
    for command in [
        &["journal", "tail"][..],
        &["journal", "show", &seq],
        &["why", &seq],
        &["memory", "ls"],
        &["memory", "get", "said.text"],
        &["dead-letters", "ls"],
        &["dead-letters", "show", &seq],
        &["status"],
        &["db", "info"],
        &["memory", "get", HOSTILE],
        &["journal", "tail", "--topic", HOSTILE],
        &["dead-letters", "ls", "--agent", HOSTILE],
        &["run", "--ticker", HOSTILE],
        &["why", HOSTILE],
    ] {
        for json in [&[][..], &["--json"]] {
            let done = folder.atra(&[command, &["--db", "own.db"], json].concat());
            assert_clean(&done, &format!("{command:?} {json:?}"));
        }
    }
    // What is escaped is not lost.
    let tail = folder.atra(&["memory", "get", "said.text", "--json", "--db", "own.db"]).ok().one();
    assert_eq!(tail["value"], format!("more {HOSTILE}"));
    let tail = folder.atra(&["memory", "ls", "--db", "own.db"]).ok().out;
    assert!(tail.contains("\\u{9b}") || tail.contains("\\u{1b}") || tail.contains("u001b"), "{tail}");
}

#[cfg(target_os = "linux")]
#[test]
fn names_of_files_cannot_steer_a_terminal_and_need_not_be_text() {
    use std::os::unix::ffi::OsStrExt as _;

    let folder = Folder::finished();
    let hostile = format!("{}.db", HOSTILE.replace('/', ""));
    let no_text = std::ffi::OsStr::from_bytes(b"no\xfftext.db").to_owned();
    for name in [std::ffi::OsStr::new(&hostile), &no_text] {
        for command in [
            &["status"][..],
            &["db", "info"],
            &["db", "check"],
            &["db", "digest"],
            &["db", "vacuum"],
            &["db", "prune", "--keep-events", "10"],
            &["run", "--until-idle"],
            &["config", "check"],
            &["export", "trades"],
        ] {
            for is_there in [false, true] {
                for json in [&[][..], &["--json"]] {
                    let path = folder.0.path().join(name);
                    if is_there {
                        std::fs::copy(folder.path("a.db"), &path).expect("copied");
                    }
                    let mut called = folder.command(&[command, json].concat());
                    let done = Running::spawn(called.arg("--db").arg(name)).end();
                    assert_clean(&done, &format!("{command:?} {json:?}"));
                    assert!(
                        [0, 1, 2].contains(&done.code) && !done.err.contains("panicked"),
                        "{command:?}: {}",
                        done.err
                    );
                    let _ = std::fs::remove_file(&path);
                }
            }
        }
        let csv = folder.0.path().join(name).with_extension("csv");
        std::fs::write(&csv, "time,open\nx,\u{1b}[2J\n").expect("written");
        for json in [&[][..], &["--json"]] {
            let mut called =
                folder.command(&[&["import", "candles", "--ticker", "X", "--interval", "1h"], json].concat());
            assert_clean(&Running::spawn(called.arg(&csv)).end(), "import");
        }
    }
}
