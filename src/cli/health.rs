//! The health of a running process, for `atra status` in another process: `<db>.status`, a small file next to the
//! database.
//!
//! The database cannot hold this state: on a full disk it cannot be written, and while a process starts or stops it has
//! no record of the process. The file has its full size from the start, so writing to it needs no more space, and it is
//! removed at a clean end. Only the process that holds the database's lock writes it. It is created again at each
//! start, and never through a link.

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
/// How often the state of the runtime is read. 250 ms: faster than a person notices.
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

/// Reads the file of a database; `None` if there is none or its content is invalid.
pub(crate) fn read(db: &Path) -> Option<Health> {
    let path = path_of(db);
    let mut text = String::new();
    // Must not block on a pipe, follow a link, or read another user's file.
    read_beside(&path, db).ok()?.take(FILE_BYTES as u64).read_to_string(&mut text).ok()?;
    serde_json::from_str(text.trim_end()).ok()
}

/// The file of this process; removed on drop. A killed process leaves it behind.
pub(crate) struct HealthFile {
    path: PathBuf,
    /// `None` if it could not be created: the run continues without it.
    file: Option<File>,
    health: Health,
}

impl HealthFile {
    /// Creates the file of a database whose lock this process holds.
    pub(crate) fn create(db: &Path) -> Self {
        let process = u64::from(std::process::id());
        let health = Health { process, phase: Phase::Starting, since: SystemEnv::new().now(), degraded: None };
        let path = path_of(db);
        let file = make(&path, db).inspect_err(|error| {
            tracing::warn!(file = %path.display(), %error, "cannot create the status file; 'atra status' shows less");
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

    /// Records the current state of the runtime.
    pub(crate) fn look(&mut self, runtime: &Runtime) {
        let storage = runtime.storage_metrics();
        let found = worst(storage.state, storage.is_full, &runtime.status());
        let old = self.health.degraded.as_ref();
        if old.map(|old| (old.kind.as_str(), &old.reason)) == found.as_ref().map(|(kind, reason)| (*kind, reason)) {
            return;
        }
        // If only the reason changes, `since` stays that of the first reason of the kind.
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
            tracing::warn!(file = %self.path.display(), %error, "cannot write the status file");
            self.file = None;
        }
    }
}

impl Drop for HealthFile {
    fn drop(&mut self) {
        if self.file.is_some() {
            // If it stays, readers treat it as the file of a killed process, since nobody holds the lock.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Why the runtime is degraded: kind and reason of the worst cause.
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

/// Creates a new file and removes an old one of the same name, even a link.
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
