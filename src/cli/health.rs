//! How a running process is, for `atra status` in another one: `<db>.status`, a small file beside the database.
//!
//! The database cannot say it: on a full disk nothing can be written to it, and before and after a run it has no mark of
//! one. The file has its full size from the start, so writing to it takes no space, and it is removed at a clean end. Only
//! who holds the database's lock writes it; it is made anew each time and never through a link.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use atra::{
    Env, Runtime, SystemEnv, TeamState, Timestamp,
    runtime::TeamStatus,
    storage::{StorageState, create_beside, read_beside, resolve},
};
use serde::{Deserialize, Serialize};

/// Bytes of the file: one block of most disks.
const FILE_BYTES: usize = 4_096;
/// The longest reason in it.
const REASON_CHARS: usize = 1_000;
/// How often the runtime is looked at. 250 ms: before a person can ask.
const EVERY: Duration = Duration::from_millis(250);

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    Starting,
    Running,
    Stopping,
}

/// Why a runtime does less than it should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Degraded {
    /// `disk_full`, `db_full`, `stuck`, `restarting` or `suspended`.
    pub(crate) kind: String,
    pub(crate) reason: String,
    /// `None`: not known.
    pub(crate) since: Option<Timestamp>,
}

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Health {
    pub(crate) process: u64,
    pub(crate) phase: Phase,
    /// Since when the process has the database.
    pub(crate) since: Timestamp,
    pub(crate) degraded: Option<Degraded>,
}

/// Reads the file of a database; `None` if there is none that makes sense.
pub(crate) fn read(db: &Path) -> Option<Health> {
    let path = path_of(db);
    let mut text = String::new();
    // Nothing that could block, no link, and no other user's file.
    read_beside(&path, db).ok()?.take(FILE_BYTES as u64).read_to_string(&mut text).ok()?;
    serde_json::from_str(text.trim_end()).ok()
}

/// The file of this process; removed when it is dropped, which a process that is killed does not come to.
pub(crate) struct HealthFile {
    path: PathBuf,
    /// `None` if it could not be made: the run goes on without it.
    file: Option<File>,
    health: Health,
}

impl HealthFile {
    /// Makes the file of a database whose lock this process holds.
    pub(crate) fn create(db: &Path) -> Self {
        let process = u64::from(std::process::id());
        let health = Health { process, phase: Phase::Starting, since: SystemEnv::new().now(), degraded: None };
        let path = path_of(db);
        let file = make(&path, db).inspect_err(|error| {
            tracing::warn!(file = %path.display(), %error, "status file cannot be made: 'atra status' knows less of this run");
        });
        let mut made = Self { path, file: file.ok(), health };
        made.write();
        made
    }

    /// Enters a phase.
    pub(crate) fn enter(&mut self, phase: Phase) {
        self.health.phase = phase;
        self.write();
    }

    /// Follows a runtime until it is dropped.
    ///
    /// Cancel safe.
    pub(crate) async fn follow(&mut self, runtime: &Runtime) {
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            ticks.tick().await;
            self.look(runtime);
        }
    }

    /// Takes over how the runtime is now.
    pub(crate) fn look(&mut self, runtime: &Runtime) {
        let storage = runtime.storage_metrics();
        let found = worst(storage.state, storage.is_full, &runtime.status());
        let old = self.health.degraded.as_ref();
        if old.map(|old| (old.kind.as_str(), &old.reason)) == found.as_ref().map(|(kind, reason)| (*kind, reason)) {
            return;
        }
        // Another reason of the same kind has lasted since the first one.
        let since = |kind: &str| old.filter(|old| old.kind == kind).and_then(|old| old.since);
        self.health.degraded = found.map(|(kind, reason)| Degraded {
            kind: kind.into(),
            reason,
            since: since(kind).or_else(|| Some(SystemEnv::new().now())),
        });
        self.write();
    }

    fn write(&mut self) {
        let Some(file) = &mut self.file else { return };
        let Ok(mut text) = serde_json::to_vec(&self.health) else { return };
        text.resize(FILE_BYTES, b' ');
        text[FILE_BYTES - 1] = b'\n';
        if let Err(error) = file.rewind().and_then(|()| file.write_all(&text)) {
            tracing::warn!(file = %self.path.display(), %error, "status file cannot be written");
            self.file = None;
        }
    }
}

impl Drop for HealthFile {
    fn drop(&mut self) {
        if self.file.is_some() {
            // Left behind it is taken for one of a process that was killed, and the lock says that it is not there.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The kind and reason of what keeps a runtime from all that it should do; the worst first.
fn worst(storage: StorageState, is_full: bool, teams: &[TeamStatus]) -> Option<(&'static str, String)> {
    if storage == StorageState::Degraded {
        return Some(("disk_full", "no space on the disk: writes are paused and retried".into()));
    }
    if is_full {
        return Some(("db_full", "storage.db_bytes_max is reached: callers are refused".into()));
    }
    let stuck = teams.iter().find_map(|team| Some((team, team.stuck.as_ref()?)));
    if let Some((team, agent)) = stuck {
        let reason = format!("agent {agent} of team {} has not ended its turn for limits.watchdog_ms", team.team);
        return Some(("stuck", reason));
    }
    let restarting = teams.iter().find(|team| matches!(team.state, TeamState::Restarting { .. }));
    let reason =
        |team: &TeamStatus| format!("team {} is {}", team.team, team.state).chars().take(REASON_CHARS).collect();
    restarting.map(|team| ("restarting", reason(team)))
}

/// A new file in the place of an old one, whatever that was.
fn make(path: &Path, db: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    create_beside(path, db)
}

fn path_of(db: &Path) -> PathBuf {
    // Beside the file that a link leads to, as everything else.
    let mut path = resolve(db).unwrap_or_else(|_| db.to_owned()).into_os_string();
    path.push(".status");
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_the_phase_keeps_its_size_and_goes_at_the_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let db = folder.path().join("a.db");
        let size = || std::fs::metadata(path_of(&db)).map(|file| file.len()).ok();

        let mut file = HealthFile::create(&db);
        assert_eq!(read(&db).expect("readable").phase, Phase::Starting);
        file.enter(Phase::Stopping);
        assert_eq!((read(&db).expect("readable").phase, size()), (Phase::Stopping, Some(FILE_BYTES as u64)));
        drop(file);
        assert_eq!((read(&db), size()), (None, None));
    }

    #[test]
    fn the_worst_of_what_is_wrong_is_told() {
        let name = |text: &str| atra::Name::new(text).expect("a name");
        let team = |state: TeamState, stuck: Option<&str>| TeamStatus {
            team: name("desk"),
            state,
            paused: false,
            inputs: 0,
            inputs_ahead: 0,
            turns: 0,
            steps: 0,
            events: 0,
            dead_letters: 0,
            restarts: 0,
            stuck: stuck.map(name),
        };
        let restarting = team(TeamState::Restarting { restarts: 2, reason: "a reason".into() }, None);
        let kind = |storage, is_full, teams: &[TeamStatus]| worst(storage, is_full, teams).map(|(kind, _)| kind);
        assert_eq!(kind(StorageState::Running, false, &[team(TeamState::Running, None)]), None);
        let both = [restarting, team(TeamState::Running, Some("signal"))];
        assert_eq!(kind(StorageState::Running, false, &both[..1]), Some("restarting"));
        assert_eq!(kind(StorageState::Running, false, &both), Some("stuck"));
        assert_eq!(kind(StorageState::Running, true, &both), Some("db_full"));
        assert_eq!(kind(StorageState::Degraded, true, &both), Some("disk_full"));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_its_place_is_replaced_and_never_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (db, other) = (folder.path().join("a.db"), folder.path().join("other"));
        std::fs::write(&other, "precious").expect("written");
        std::os::unix::fs::symlink(&other, path_of(&db)).expect("linked");
        assert_eq!(read(&db), None);
        let file = HealthFile::create(&db);
        assert!(read(&db).is_some());
        drop(file);
        assert_eq!(std::fs::read_to_string(&other).expect("a file"), "precious");
    }
}
