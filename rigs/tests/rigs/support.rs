//! The failing disk, built once; children with it; seeds.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use atra_rigs::{
    job::Job,
    ledger::{Line, parse},
    work::Work,
};
use tempfile::TempDir;

/// How long a child may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(600);

/// The library that is preloaded, compiled from `faults.c` with the system's C compiler.
fn faults() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{}.so", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("faults.c");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let mut command = Command::new(&compiler);
        command.args(["-std=gnu11", "-Wall", "-Werror", "-O1", "-shared", "-fPIC", "-o"]).arg(&path).arg(&source);
        let built = command.args(["-ldl", "-lpthread"]).output().unwrap();
        assert!(built.status.success(), "{compiler}: {}", String::from_utf8_lossy(&built.stderr));
        path
    })
}

/// A folder in memory if there is one: what is tested is the code, not the disk.
pub(crate) fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// A child that does `work`, with the failing disk told so.
pub(crate) fn child(work: &Work, faults_told: &[(&str, String)]) -> Command {
    child_for(&Job::Work(work.clone()), &work.db, &work.ledger, faults_told)
}

/// A child that does a job; the disk that may fail is that of the file `watched`.
pub(crate) fn child_for(job: &Job, watched: &Path, ledger: &Path, faults_told: &[(&str, String)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atra-rig"));
    command.arg(serde_json::to_string(job).unwrap());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.env("LD_PRELOAD", faults()).env("FAULTS_DB", watched).env("FAULTS_LEDGER", ledger);
    command.envs(faults_told.iter().map(|(name, value)| (format!("FAULTS_{name}"), value)));
    command
}

/// Waits for the child's own end and gives what it said. A panic of the child is one here.
pub(crate) fn end(mut child: Child, what: &str) -> bool {
    let begun = now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("{what}: the child does not end");
        }
        pause(Duration::from_millis(2));
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("panicked") && output.status.code().is_some(), "{what}: {} {said}", output.status);
    output.status.success()
}

pub(crate) fn lines(work: &Work) -> Vec<Line> {
    lines_of(&work.ledger)
}

pub(crate) fn lines_of(ledger: &Path) -> Vec<Line> {
    let text = std::fs::read(ledger).unwrap_or_default();
    parse(&String::from_utf8(text).unwrap()).unwrap()
}

/// What the child measured.
pub(crate) fn figure(lines: &[Line], name: &str) -> u64 {
    let found = lines.iter().find_map(|line| match line {
        Line::Figure(figure, value) if figure == name => Some(*value),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("{name} was not measured: {:?}", lines.last()))
}

#[expect(
    clippy::disallowed_methods,
    reason = "another process is waited for, or a moment of real time is the stimulus"
)]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Real time, for deadlines: another process does not know any other.
#[expect(clippy::disallowed_methods, reason = "another process is waited for")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Waits until the ledger says so. A child that has ended will not write it any more.
pub(crate) fn until(child: &mut Child, work: &Work, what: &str, is_so: impl Fn(&[Line]) -> bool) {
    let begun = now();
    loop {
        let ended = child.try_wait().unwrap();
        let lines = lines(work);
        if is_so(&lines) {
            return;
        }
        let last = lines.last();
        if let Some(status) = ended {
            panic!("{what} did not happen, the child has ended ({status}); the ledger ends with {last:?}");
        }
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("{what} did not happen within {PATIENCE:?}; the ledger ends with {last:?}");
        }
        pause(Duration::from_millis(10));
    }
}

/// Repeatable choices.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seed(u64);

impl Seed {
    /// From the environment, else of its own; printed in any case.
    pub(crate) fn begin(rig: &str) -> Self {
        let seed = number("ATRA_RIG_SEED").unwrap_or_else(|| u64::from(std::process::id()));
        eprintln!("{rig}: ATRA_RIG_SEED={seed}");
        Self(seed)
    }

    /// SplitMix64: repeatable is all that it needs to be.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

/// A number from the environment.
pub(crate) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// How often a rig is to run: as asked for, else so often.
pub(crate) fn rounds(otherwise: u64) -> u64 {
    number("ATRA_RIG_ROUNDS").unwrap_or(otherwise)
}
