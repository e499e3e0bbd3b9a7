//! Files that the binary writes for a user, and the files of a database: which is never written over, by whatever name.

use std::{
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Stdio,
};

use super::{Folder, Running};

/// What an output may be called by mistake: a name that is made first, and whether it is there afterwards.
const FORBIDDEN: [&str; 9] =
    ["a.db", "./a.db", "link.csv", "hard.csv", "a.db-wal", "a.db-shm", "a.db-journal", "a.db.lock", "other.sqlite"];

fn snapshot(folder: &Folder) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder.path("."))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        // Reading a database makes an index and an empty log.
        .filter(|path| !path.to_string_lossy().ends_with("-shm"))
        .map(|path| (path.to_string_lossy().into_owned(), std::fs::read(&path).unwrap_or_default()))
        .filter(|(name, bytes)| !(name.ends_with("-wal") && bytes.is_empty()))
        .collect();
    files.sort();
    files
}

/// The command under a limit of a file's size, in a shell since only a shell can set one.
fn limited(folder: &Folder, blocks: u32, args: &str) -> super::Done {
    let mut shell = std::process::Command::new("sh");
    let script = format!("ulimit -f {blocks}; exec \"$0\" {args}");
    shell.args(["-c", &script, env!("CARGO_BIN_EXE_atra")]).current_dir(folder.path("."));
    Running::spawn(shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped())).end()
}

/// `export equity --db X --out X` overwrote the database and said nothing.
#[test]
fn an_output_never_replaces_what_belongs_to_a_database() {
    let folder = Folder::finished();
    symlink("a.db", folder.path("link.csv")).expect("linked");
    std::fs::copy(folder.path("a.db"), folder.path("other.sqlite")).expect("copied");
    std::fs::hard_link(folder.path("a.db"), folder.path("hard.csv")).expect("linked");
    let before = snapshot(&folder);
    for name in FORBIDDEN {
        for force in [&["--force"][..], &[]] {
            let export = ["export", "equity", "--db", "a.db", "--format", "csv", "--out", name];
            folder.atra(&[&export, force].concat()).fails(1, &["belongs to the database", "next: name another file"]);
            let report = ["backtest", "--db", "a.db", "--report", name];
            folder.atra(&[&report, force].concat()).fails(1, &["belongs to the database"]);
            let order = ["sim", "--agents", "2", "--no-desk", "--hours", "0.01", "--order", name];
            folder.atra(&[&order, force].concat()).fails(1, &["belongs to the database"]);
            assert_eq!(snapshot(&folder), before, "{name} {force:?}");
        }
    }
    for name in ["a.db-wal", "a.db-shm", "a.db.lock"] {
        folder.atra(&["db", "backup", name, "--db", "a.db"]).fails(1, &[name]);
        assert_eq!(snapshot(&folder), before, "backup to {name}");
    }
}

#[test]
fn an_output_replaces_another_file_only_when_told_to() {
    let folder = Folder::with_candles();
    std::fs::write(folder.path("mine.csv"), "mine").expect("written");
    let export = ["export", "candles", "--db", "a.db", "--out", "mine.csv"];
    folder.atra(&export).fails(1, &["mine.csv exists", "--force"]);
    assert_eq!(std::fs::read(folder.path("mine.csv")).expect("read"), b"mine");
    folder.atra(&[&export[..], &["--force"]].concat()).ok();
    assert!(std::fs::read_to_string(folder.path("mine.csv")).expect("read").starts_with("time,"));
    // A link leads to the file that is written, and stays.
    symlink("target.html", folder.path("page.html")).expect("linked");
    folder.atra(&["backtest", "--db", "a.db", "--report", "page.html"]).ok();
    assert!(folder.path("page.html").symlink_metadata().expect("there").is_symlink());
    assert!(folder.path("target.html").exists());
}

#[test]
fn standard_output_and_pipes_are_written_to_as_they_are() {
    let folder = Folder::with_candles();
    let export = |out: &str| folder.atra(&["export", "candles", "--db", "a.db", "--format", "csv", "--out", out]);
    let expected = folder.atra(&["export", "candles", "--db", "a.db"]).ok().out;
    assert!(expected.lines().count() > 1_000);
    for out in ["-", "/dev/stdout", "/dev/fd/1"] {
        assert_eq!(export(out).ok().out, expected, "{out}");
    }
    let made = std::process::Command::new("mkfifo").arg(folder.path("pipe")).status().expect("started");
    assert!(made.success());
    let reader = std::thread::spawn({
        let pipe = folder.path("pipe");
        move || std::fs::read_to_string(pipe).expect("read")
    });
    export("pipe").ok();
    assert_eq!(reader.join().expect("joined"), expected);
    assert_eq!(export("/dev/null").ok().out, "");
}

/// The signal for a file that is as large as it may be ended the process without a word.
#[test]
fn a_file_that_may_not_grow_is_an_error_and_nothing_is_left() {
    let folder = Folder::finished();
    let before = snapshot(&folder);
    for (args, says) in
        [("export candles --db a.db --out out.csv", "ulimit -f"), ("db backup b.db --db a.db", "no space left")]
    {
        limited(&folder, 100, args).fails(1, &[says]);
        assert_eq!(snapshot(&folder), before, "{args}");
    }
    // A database of its own cannot be finished, and says so too.
    let import = "import candles a.csv --ticker DOT --interval 15m --db new.db";
    limited(&folder, 80, import).fails(1, &["no space left"]);
}

#[test]
fn the_default_folder_and_what_is_in_it_are_their_owners_alone() {
    let folder = Folder::with_candles();
    folder.atra(&["import", "candles", "a.csv", "--ticker", "DOT", "--interval", "15m"]).ok();
    let mode = |name: &str| folder.path(name).metadata().expect("there").permissions().mode() & 0o7777;
    assert_eq!(mode("atra-data"), 0o700);
    assert_eq!((mode("atra-data/atra.db"), mode("atra-data/atra.db.lock")), (0o600, 0o600));
}

/// Through a link a second runtime started, and a command for the running one did not reach it.
#[test]
fn a_database_behind_a_link_is_the_same_database() {
    let folder = Folder::with_candles();
    symlink("a.db", folder.path("link.db")).expect("linked");
    let running = folder.running();
    let status = folder.atra(&["status", "--db", "link.db", "--json"]).ok().one();
    assert_eq!(status["process"].as_u64(), Some(u64::from(running.child.id())));
    folder
        .atra(&["run", "--config", "desk.toml", "--db", "link.db", "--until-idle"])
        .fails(1, &["in use by another atra runtime"]);
    let killed = folder.atra(&["risk", "kill", "--reason", "test", "--db", "link.db", "--json"]).ok().one();
    assert_eq!(killed["running"], true);
    assert!(!folder.path("link.db.lock").exists() && !folder.path("link.db-wal").exists());
    running.signal("-TERM");
    running.end().ok();
}

/// A pipe of that name stopped the shutdown for ever; a link of that name was followed.
#[test]
fn what_is_no_command_file_is_left_alone_and_holds_nothing_up() {
    let folder = Folder::with_candles();
    std::fs::write(folder.path("victim"), "untouched").expect("written");
    for plant in ["pipe", "link", "folder", "large"] {
        let at = folder.path("a.db.word");
        let mut running = folder.running();
        match plant {
            "pipe" => assert!(std::process::Command::new("mkfifo").arg(&at).status().expect("started").success()),
            "link" => symlink("victim", &at).expect("linked"),
            "folder" => std::fs::create_dir(&at).expect("made"),
            _ => std::fs::write(&at, vec![b'x'; 1 << 20]).expect("written"),
        }
        running.until(|line| line.contains("a.db.word"));
        running.signal("-TERM");
        running.end().ok();
        let is_there = |path: &Path| path.symlink_metadata().is_ok();
        assert!(is_there(&at) && !is_there(&folder.path("a.db.word.heard")), "{plant}");
        assert_eq!(std::fs::read(folder.path("victim")).expect("read"), b"untouched");
        std::fs::remove_file(&at).or_else(|_| std::fs::remove_dir(&at)).expect("removed");
    }
}
