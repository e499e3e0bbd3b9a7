//! The lock that admits one writing process, whatever name it uses for the database.
//! Two locks of the operating system; both end with the process, however it ends:
//! | lock | on | excludes |
//! |---|---|---|
//! | by inode (Linux) | the database file itself | every other name of it: links, bind mounts, a `.lock` that was deleted |
//! | by name | `<db>.lock` | a restore, which replaces the database file; older versions of atra |
//! `<db>.lock` also has, for people and the next process: the process id, whether the disk has failed, and the last
//! acknowledged seq ([`Mark`]). The file stays: removing it would race with the next process.
//!
//! Both locks are `flock` locks, which on Linux are independent of SQLite's own POSIX locks. A process that closes any
//! handle of a database loses its POSIX locks on it, so the handle that has the inode's lock stays open: see [`Handle`].

use std::{
    fmt,
    fs::{File, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use atra_bus::Seq;
use serde::Serialize;
use tokio::time::sleep;
use tracing::warn;

use super::{
    error::fatal,
    files::{Claim, FileId, Handle, LOCKS_READS},
    paths::{beside, open_beside, read_beside, resolve_or_keep},
};
use crate::StoreError;

/// Attempts to take a lock that no living process claims. With the pauses half a second: a child process that another
/// thread has just forked holds its parent's locks until it runs its own program.
const TRIES_MAX: u32 = 50;
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(10);
/// The longest text that is read from a lock file. 200 bytes: three times what is written.
const TEXT_BYTES_MAX: u64 = 200;

/// The content of the lock file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Mark {
    process: Option<u32>,
    /// The process has released the lock.
    is_closed: bool,
    /// The disk has failed, and the database was not rewritten since.
    is_unflushed: bool,
    /// The last acknowledged seq when a check last found the database and its log intact, with the boot id: after a
    /// reboot the journal may be shorter, as level `process` allows.
    acknowledged: Option<(Seq, String)>,
}

impl Mark {
    fn parse(text: &str) -> Self {
        let mut mark = Self::default();
        let mut seq = None;
        for (n, part) in text.split_whitespace().enumerate() {
            match part.split_once('=') {
                _ if n == 0 => mark.process = part.parse().ok(),
                None if part == "unflushed" => mark.is_unflushed = true,
                None if part == "closed" => mark.is_closed = true,
                Some(("seq", number)) => seq = number.parse().ok().map(Seq),
                Some(("boot", boot)) => mark.acknowledged = seq.map(|seq| (seq, boot.to_owned())),
                _ => {}
            }
        }
        mark
    }

    fn is_of_a_living_process(&self) -> bool {
        !self.is_closed && self.process.is_some_and(is_alive)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.process.unwrap_or(0))?;
        if self.is_unflushed {
            write!(f, " unflushed")?;
        }
        if let Some((seq, boot)) = &self.acknowledged {
            write!(f, " seq={seq} boot={boot}")?;
        }
        if self.is_closed {
            write!(f, " closed")?;
        }
        Ok(())
    }
}

/// The lock that makes one runtime the only writer; released on drop.
#[derive(Debug)]
pub(super) struct FileLock {
    db: PathBuf,
    file: File,
    /// The lock on the database file itself; none before there is one, and where the system has no such lock.
    inode: Option<Handle>,
    mark: Mark,
}

impl FileLock {
    /// Takes the lock by name. `db` is a resolved path.
    pub(super) async fn take(db: &Path) -> Result<Self, StoreError> {
        let mut tries = 0;
        loop {
            match Self::try_take(db)? {
                Ok(lock) => return Ok(lock),
                Err(held_by) => wait_or_refuse(db, held_by, &mut tries).await?,
            }
        }
    }

    /// One attempt; the inner error has the mark of the present holder.
    fn try_take(db: &Path) -> Result<Result<Self, Mark>, StoreError> {
        let path = beside(db, ".lock");
        let failed = |what: &str, error: io::Error| {
            let path = path.display();
            fatal(
                db,
                format!("lock file {path} cannot be {what}: {error}; check the file, its folder and their rights"),
            )
        };
        let mut file = open_beside(&path, db).map_err(|error| failed("opened", error))?;
        let is_held = match file.try_lock() {
            Ok(()) => false,
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Error(error)) => return Err(failed("locked", error)),
        };
        let read = read_mark(&mut file);
        if is_held {
            // Only for the message: the holder may not have written its process id yet.
            return Ok(Err(read.unwrap_or_default()));
        }
        let mark = read.map_err(|error| failed("read", error))?;
        Ok(Ok(Self { db: db.to_owned(), file, inode: None, mark }))
    }

    /// Takes the lock on the database file itself, and records the holder of both in the lock file.
    pub(super) async fn take_inode(&mut self) -> Result<(), StoreError> {
        if cfg!(target_os = "linux") {
            self.inode = Some(self.locked_inode().await?);
        }
        self.mark.process = Some(std::process::id());
        self.mark.is_closed = false;
        self.write().map_err(|error| {
            let path = beside(&self.db, ".lock");
            fatal(&self.db, format!("lock file {} cannot be written: {error}", path.display()))
        })
    }

    async fn locked_inode(&self) -> Result<Handle, StoreError> {
        let db = &self.db;
        let mut tries = 0;
        loop {
            let claim = Handle::claim(db).map_err(|error| fatal(db, format!("it cannot be locked: {error}")))?;
            let held_by = match claim {
                Claim::Taken(handle) if FileId::of(db)?.is_same(handle.id()) => return Ok(handle),
                // Replaced between the opening and the lock: the file that is there now is the one to lock.
                Claim::Taken(_) => Mark::default(),
                Claim::Held { number } => Mark { process: holder_of(number), ..Mark::default() },
            };
            wait_or_refuse(db, held_by, &mut tries).await?;
        }
    }

    /// Writes the mark; into a new lock file if somebody has deleted or replaced this one.
    fn write(&mut self) -> io::Result<()> {
        self.keep();
        let text = self.mark.to_string();
        self.file.rewind()?;
        self.file.write_all(text.as_bytes())?;
        self.file.set_len(text.len() as u64)
    }

    /// Creates the lock file again if it was deleted or replaced, and returns whether it did. A failure does not
    /// matter, since the lock on the database file still holds.
    fn keep(&mut self) -> bool {
        let path = beside(&self.db, ".lock");
        let is_there = path.symlink_metadata().is_ok_and(|there| {
            self.file.metadata().is_ok_and(|ours| FileId::from(&there).is_same(FileId::from(&ours)))
        });
        // In another folder, a lock file of the old name would belong to another database.
        let is_ours = |inode: &Handle| FileId::of(&self.db).is_ok_and(|found| found.is_same(inode.id()));
        if is_there || !self.inode.as_ref().is_some_and(is_ours) {
            return false;
        }
        if let Ok(file) = open_beside(&path, &self.db)
            && file.try_lock().is_ok()
        {
            warn!(lock = %path.display(), "lock file was deleted or replaced while in use; it was created again");
            self.file = file;
            return true;
        }
        false
    }

    pub(super) fn is_unflushed(&self) -> bool {
        self.mark.is_unflushed
    }

    /// Records for the next process that the disk has failed. This need not survive a reboot: after that, reads return
    /// what the disk holds.
    pub(super) fn set_unflushed(&mut self, is_unflushed: bool) {
        if self.mark.is_unflushed != is_unflushed {
            self.mark.is_unflushed = is_unflushed;
            self.write_or_warn("the next process will not know that the disk has failed");
        }
    }

    /// Records the last acknowledged seq for the next process, while database and log are intact.
    pub(super) fn set_acknowledged(&mut self, last: Seq) {
        let is_known = self.mark.acknowledged.as_ref().is_some_and(|(seq, _)| *seq == last);
        if is_known && !self.keep() {
            return;
        }
        self.mark.acknowledged = boot().map(|boot| (last, boot));
        self.write_or_warn("the next process will not know what was acknowledged");
    }

    /// The last seq that the previous process acknowledged, if it did not end cleanly and the machine was not rebooted.
    pub(super) fn acknowledged(&self) -> Option<Seq> {
        let (seq, before) = self.mark.acknowledged.as_ref()?;
        (boot().as_ref() == Some(before)).then_some(*seq)
    }

    /// Clears the recorded seq: everything acknowledged is in the database, or it no longer counts.
    pub(super) fn clear_acknowledged(&mut self) {
        if self.mark.acknowledged.take().is_some() {
            self.write_or_warn("the next start may be refused although nothing is lost");
        }
    }

    fn write_or_warn(&mut self, consequence: &str) {
        if let Err(error) = self.write() {
            warn!(%error, consequence, "lock file could not be written");
        }
    }
}

impl Drop for FileLock {
    /// Unlocks explicitly: a child process that another thread has just forked has the same handles, and would keep the
    /// locks until it runs its own program.
    fn drop(&mut self) {
        // Without the second lock nothing was claimed in the file.
        if self.inode.is_some() || !cfg!(target_os = "linux") {
            self.mark.is_closed = true;
            // Only for messages.
            let _ = self.write();
        }
        self.inode = None;
        let _ = self.file.unlock();
    }
}

/// Waits a moment if no living process claims the lock, a bounded number of times.
async fn wait_or_refuse(db: &Path, held_by: Mark, tries: &mut u32) -> Result<(), StoreError> {
    *tries += 1;
    if *tries < TRIES_MAX && !held_by.is_of_a_living_process() {
        sleep(TRY_AGAIN_AFTER).await;
        return Ok(());
    }
    let holder = held_by.process.map_or_else(String::new, |process| format!(" (process {process})"));
    Err(StoreError::InUse { path: db.display().to_string(), holder })
}

fn read_mark(file: &mut File) -> io::Result<Mark> {
    let mut text = Vec::new();
    file.rewind()?;
    file.take(TEXT_BYTES_MAX).read_to_end(&mut text)?;
    Ok(Mark::parse(&String::from_utf8_lossy(&text)))
}

#[cfg(unix)]
fn is_alive(process: u32) -> bool {
    let Some(process) = i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw) else { return false };
    // For another user's process the error shows that it exists.
    !matches!(rustix::process::test_kill_process(process), Err(rustix::io::Errno::SRCH))
}

#[cfg(not(unix))]
fn is_alive(_: u32) -> bool {
    true
}

/// The boot id of the machine; `None` where the system has none.
fn boot() -> Option<String> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let read = || {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(text.trim().to_owned()).filter(|boot| !boot.is_empty() && boot.len() <= 64)
    };
    BOOT.get_or_init(read).clone()
}

/// The process that holds the lock on a file, as `/proc/locks` says.
fn holder_of(number: u64) -> Option<u32> {
    let text = std::fs::read_to_string("/proc/locks").ok()?;
    flock_holders(&text).find(|(found, process)| *found == number && *process != 0).map(|(_, process)| process)
}

/// Inode number and process of each exclusive `flock` lock: `1: FLOCK  ADVISORY  WRITE 4711 fe:00:10010748 0 EOF`.
fn flock_holders(text: &str) -> impl Iterator<Item = (u64, u32)> + '_ {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        (words.next()? == "FLOCK").then_some(())?;
        (words.nth(1)? == "WRITE").then_some(())?;
        let process = words.next()?.parse().ok()?;
        Some((words.next()?.rsplit(':').next()?.parse().ok()?, process))
    })
}

/// The process that holds the runtime's lock on a database; `None` when nobody does. The test takes a shared lock for a
/// moment.
#[must_use]
pub fn owner(db: &Path) -> Option<Owner> {
    let db = resolve_or_keep(db);
    let by_name = || {
        // Read only: the caller may not have write access.
        let mut file = read_beside(&beside(&db, ".lock"), &db).ok()?;
        match file.try_lock_shared() {
            // Only for the message: the holder may not have written its process id yet.
            Err(TryLockError::WouldBlock) => Some(Owner { process: read_mark(&mut file).ok()?.process }),
            _ => None,
        }
    };
    // Under another name, or when the lock file was deleted. Not asked of the file: a process that closes a handle of
    // a database loses SQLite's locks on it.
    let by_inode = || {
        let id = FileId::of(&db).ok()?;
        let this = format!(" {}:{} ", id.device_text()?, id.number());
        let look = |_| {
            let text = std::fs::read_to_string("/proc/locks").ok()?;
            // SQLite has locks of another kind on the same file.
            text.lines().filter(|line| line.contains(&this)).find_map(|line| flock_holders(line).next())
        };
        let process = (0..LOCKS_READS).find_map(look);
        process.map(|(_, process)| Owner { process: Some(process).filter(|process| *process != 0) })
    };
    by_name().or_else(by_inode)
}

/// Who holds a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// The number of the process, if it is known.
    pub process: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_back_and_one_of_an_older_version_is_understood() {
        let mark = Mark {
            process: Some(4_711),
            is_closed: true,
            is_unflushed: true,
            acknowledged: Some((Seq(17), "a-b".into())),
        };
        assert_eq!(Mark::parse(&mark.to_string()), mark);
        let old = Mark::parse("4711 unflushed");
        assert_eq!((old.process, old.is_unflushed, old.is_closed, old.acknowledged), (Some(4_711), true, false, None));
        assert_eq!(Mark::parse(""), Mark::default());
        assert_eq!(Mark::parse("not a mark seq=x boot="), Mark::default());
    }

    #[test]
    fn the_holder_of_a_lock_is_read_from_the_systems_list() {
        let text = "1: POSIX  ADVISORY  READ 12 fe:00:33 128 128\n2: FLOCK  ADVISORY  WRITE 4711 fe:00:33 0 EOF\n\
                    3: FLOCK  ADVISORY  READ 9 fe:00:34 0 EOF\nnonsense\n";
        assert_eq!(flock_holders(text).collect::<Vec<_>>(), [(33, 4_711)]);
    }
}
