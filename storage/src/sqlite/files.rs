//! What lies on the disk around a database, and who holds it. Looks only.

use std::{
    collections::BTreeMap,
    fs::{File, Metadata, OpenOptions},
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;

use super::{
    error::fatal,
    paths::{beside, resolve_or_keep},
};
use crate::StoreError;

/// Size of what belongs to a database; 0 when it is not there.
pub(super) fn size_of(db: &Path, suffix: &str) -> u64 {
    std::fs::metadata(beside(db, suffix)).map_or(0, |file| file.len())
}

/// Which file was opened, whatever its name may come to mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    number: u64,
    is_writable: bool,
}

impl FileId {
    pub(super) fn of(db: &Path) -> Result<Self, StoreError> {
        std::fs::metadata(db).map(|file| Self::from(&file)).map_err(|error| fatal(db, format!("it is gone: {error}")))
    }

    /// Whether both are the same file, writable or not.
    pub(super) fn is_same(self, other: Self) -> bool {
        self.key() == other.key()
    }

    /// Its inode number.
    pub(super) fn number(self) -> u64 {
        self.number
    }

    /// The device as `/proc/locks` writes it.
    #[cfg(target_os = "linux")]
    pub(super) fn device_text(self) -> Option<String> {
        Some(format!("{:02x}:{:02x}", rustix::fs::major(self.device), rustix::fs::minor(self.device)))
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn device_text(self) -> Option<String> {
        None
    }

    fn key(self) -> (u64, u64) {
        (self.device, self.number)
    }

    /// Fails when the path does not lead to the same file any more, or that has been made read-only.
    pub(super) fn check(self, db: &Path) -> Result<(), StoreError> {
        let cause = match std::fs::symlink_metadata(db) {
            Err(error) => format!("it was deleted or moved while it was in use ({error}); put it back or start anew"),
            Ok(file) => match Self::from(&file) {
                found if found == self => return Ok(()),
                found if found.is_same(self) => {
                    "it was made read-only while it was in use; make it writable and start again".into()
                }
                _ => "it was replaced by another file while it was in use; put the old one back or start anew".into(),
            },
        };
        Err(fatal(db, cause))
    }
}

impl From<&Metadata> for FileId {
    #[cfg(unix)]
    fn from(file: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        Self { device: file.dev(), number: file.ino(), is_writable: !file.permissions().readonly() }
    }

    #[cfg(not(unix))]
    fn from(file: &Metadata) -> Self {
        Self { device: 0, number: 0, is_writable: !file.permissions().readonly() }
    }
}

// === handles that stay open ===

/// Handles of files that SQLite locks, by device and inode. They stay open: SQLite uses POSIX locks, and a process that
/// closes any handle of a file loses all its POSIX locks on it, including those of its connections.
static HANDLES: Mutex<BTreeMap<(u64, u64), Kept>> = Mutex::new(BTreeMap::new());

struct Kept {
    file: Arc<File>,
    /// A [`Handle`] of this process has the lock.
    is_claimed: bool,
}

/// The lock on a file itself, independent of its name; released on drop.
#[derive(Debug)]
pub(super) struct Handle {
    id: FileId,
    file: Arc<File>,
}

/// Whether a file's lock was free.
pub(super) enum Claim {
    /// This process has it.
    Taken(Handle),
    /// This process or another one has it; with the inode number of the file.
    Held {
        /// The number of the file on its device.
        number: u64,
    },
}

impl Handle {
    /// Takes the lock on a file if it is free.
    pub(super) fn claim(path: &Path) -> io::Result<Claim> {
        let (id, file) = kept(path)?;
        let mut handles = handles();
        let held = Claim::Held { number: id.number };
        // Two locks through one handle would both succeed.
        let Some(kept) = handles.get_mut(&id.key()).filter(|kept| !kept.is_claimed) else { return Ok(held) };
        match file.try_lock() {
            Ok(()) => {
                kept.is_claimed = true;
                Ok(Claim::Taken(Self { id, file }))
            }
            Err(std::fs::TryLockError::WouldBlock) => Ok(held),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }

    pub(super) fn id(&self) -> FileId {
        self.id
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut handles = handles();
        // Unlocks explicitly: the handle stays open, here and for a moment in a child process that another thread
        // forks.
        let _ = self.file.unlock();
        if let Some(kept) = handles.get_mut(&self.id.key()) {
            kept.is_claimed = false;
        }
    }
}

fn handles() -> std::sync::MutexGuard<'static, BTreeMap<(u64, u64), Kept>> {
    // A panic elsewhere leaves the map whole.
    HANDLES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The handle of a file that stays open, opened if there is none yet; writable if the file is.
pub(super) fn kept(path: &Path) -> io::Result<(FileId, Arc<File>)> {
    let id = FileId::from(&std::fs::metadata(path)?);
    let mut handles = handles();
    if let Some(kept) = handles.get(&id.key()) {
        return Ok((id, Arc::clone(&kept.file)));
    }
    // A deleted file cannot be opened again, so its locks do not matter.
    handles.retain(|_, kept| kept.is_claimed || !is_deleted(&kept.file));
    let mut options = OpenOptions::new();
    let file = open_regular(options.read(true).write(true), path);
    let file = Arc::new(file.or_else(|_| open_regular(options.write(false), path))?);
    let id = FileId::from(&file.metadata()?);
    if let Some(kept) = handles.get(&id.key()) {
        // Replaced between the two checks by a file that is already open: closing the second handle would lose its
        // locks.
        std::mem::forget(file);
        return Ok((id, Arc::clone(&kept.file)));
    }
    handles.insert(id.key(), Kept { file: Arc::clone(&file), is_claimed: false });
    Ok((id, file))
}

#[cfg(unix)]
fn open_regular(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // A pipe would block.
    options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32).open(path)
}

#[cfg(not(unix))]
fn open_regular(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.open(path)
}

#[cfg(unix)]
fn is_deleted(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    file.metadata().is_ok_and(|found| found.nlink() == 0)
}

#[cfg(not(unix))]
fn is_deleted(_: &File) -> bool {
    false
}

/// Reads from a place in a file, without moving the position that other users of the handle share.
#[cfg(unix)]
pub(super) fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

/// Reads from a place in a file.
#[cfg(not(unix))]
pub(super) fn read_at(mut file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    use std::io::{Read as _, Seek as _};
    file.seek(io::SeekFrom::Start(at))?;
    file.read_exact(bytes)
}

// === the log, as its index describes it ===

/// A process that reads from the write-ahead log at this moment, and so keeps it from being begun anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogReader {
    /// The number of the process.
    pub process: u32,
    /// Bytes of the log behind its view: nothing of them can be given back while it reads.
    pub holds_bytes: u64,
}

/// The write-ahead log as its index tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Log {
    /// Size of the file.
    pub bytes: u64,
    /// Pages in it that count.
    pub pages: u64,
    /// Pages of them that have been moved into the database.
    pub moved: u64,
    /// Who reads from it. Empty where the system does not say (it takes `/proc/locks`).
    pub readers: Vec<LogReader>,
}

/// First byte of the locks in the index: write, checkpoint, recover, then one for each of the five reader marks.
/// <https://www.sqlite.org/walformat.html#wal_locks>
const READ_LOCKS: std::ops::Range<u64> = 123..128;
const CHECKPOINT_LOCK: u64 = 121;
/// How often the list of locks is read until there is one. 3: two misses in a row are rare.
pub(super) const LOCKS_READS: u32 = 3;
/// Bytes in front of each page in the log.
pub(super) const FRAME_HEAD: u64 = 24;

/// The header of the log's index: two copies of 48 bytes, the number of pages moved, five marks of readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexHead([u8; Self::BYTES]);

impl IndexHead {
    pub(super) const BYTES: usize = 120;

    pub(super) fn read(index: &File) -> io::Result<Self> {
        let mut head = [0_u8; Self::BYTES];
        read_at(index, &mut head, 0)?;
        Ok(Self(head))
    }

    /// Whether both copies are equal, in use, and match their check value.
    pub(super) fn is_valid(&self) -> bool {
        let (first, second) = (&self.0[..48], &self.0[48..96]);
        let mut sums = (0_u32, 0_u32);
        for at in (0..40).step_by(8) {
            sums.0 = sums.0.wrapping_add(self.word(at)).wrapping_add(sums.1);
            sums.1 = sums.1.wrapping_add(self.word(at + 4)).wrapping_add(sums.0);
        }
        first == second && first[12] != 0 && sums == (self.word(40), self.word(44))
    }

    /// Valid pages in the log.
    pub(super) fn pages(&self) -> u64 {
        u64::from(self.word(16))
    }

    /// Pages of them that have been moved into the database.
    pub(super) fn moved(&self) -> u64 {
        u64::from(self.word(96))
    }

    /// Bytes of the log that each page takes.
    pub(super) fn frame_bytes(&self) -> u64 {
        // Size of a page in 16 bits, where 1 stands for 65,536.
        let page = match u64::from(u16::from_ne_bytes([self.0[14], self.0[15]])) {
            1 => 65_536,
            size => size,
        };
        page + FRAME_HEAD
    }

    /// What stands in the log's header and in front of each of its pages.
    pub(super) fn salts(&self) -> &[u8] {
        &self.0[32..40]
    }

    /// The check value of the last page, which covers all before it.
    pub(super) fn last_sums(&self) -> (u32, u32) {
        (self.word(24), self.word(28))
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_ne_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }
}

/// Reads the state of the log, and who reads from it.
#[must_use]
pub fn log(db: &Path) -> Log {
    let db = &resolve_or_keep(db);
    let index = index_of(db);
    // After the index: a writer may make the log longer meanwhile.
    let bytes = size_of(db, "-wal");
    let Some((number, head)) = index else { return Log { bytes, ..Log::default() } };
    let (pages, moved, frame_bytes) = (head.pages(), head.moved(), head.frame_bytes());
    let mark = |slot: usize| match u64::from(head.word(100 + 4 * slot)) {
        // The first mark means the database file alone; an unused one is all ones.
        n if slot == 0 || n > pages => 0,
        n => n,
    };
    let mut readers: Vec<LogReader> = Vec::new();
    // The list is read in pieces while others change it, so a lock may be missed.
    let locks = (0..LOCKS_READS).map(|_| index_locks(number)).find(|locks| !locks.is_empty()).unwrap_or_default();
    for (process, locks) in locks {
        let slots = (0..5).filter(|slot| locks.contains(&(READ_LOCKS.start + *slot as u64)));
        let Some(oldest) = slots.map(mark).filter(|mark| *mark > 0).min() else { continue };
        let holds_bytes = (pages - oldest.min(pages)) * frame_bytes;
        // A process may hold several marks: the oldest counts.
        match readers.iter_mut().find(|reader| reader.process == process) {
            Some(reader) => reader.holds_bytes = reader.holds_bytes.max(holds_bytes),
            None => readers.push(LogReader { process, holds_bytes }),
        }
    }
    readers.sort_by(|a, b| b.holds_bytes.cmp(&a.holds_bytes).then(a.process.cmp(&b.process)));
    Log { bytes, pages, moved, readers }
}

/// The number of a log's index as a file, and its header.
fn index_of(db: &Path) -> Option<(u64, IndexHead)> {
    let (id, index) = kept(&beside(db, "-shm")).ok()?;
    Some((id.number, IndexHead::read(&index).ok()?))
}

/// Whether a process holds the checkpoint lock, so that it may be moving the log into the database.
pub(super) fn is_being_moved(number: u64) -> bool {
    let text = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    text.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "POSIX", _, "WRITE", _, file, first, last] = words[..] else { return false };
        let is_it = file.rsplit(':').next().and_then(|text| text.parse().ok()) == Some(number);
        let first = first.parse().unwrap_or(u64::MAX);
        is_it && first <= CHECKPOINT_LOCK && last.parse().unwrap_or(u64::MAX) >= CHECKPOINT_LOCK
    })
}

/// Processes with read locks on the index, and the bytes they have locked; from `/proc/locks`.
fn index_locks(number: u64) -> Vec<(u32, std::ops::RangeInclusive<u64>)> {
    let Ok(text) = std::fs::read_to_string("/proc/locks") else { return Vec::new() };
    let lock = |line: &str| {
        // `1: POSIX  ADVISORY  READ 4711 fe:00:10010748 123 123`
        let mut words = line.split_whitespace().skip(1);
        (words.next()? == "POSIX").then_some(())?;
        (words.nth(1)? == "READ").then_some(())?;
        let process = words.next()?.parse().ok()?;
        (words.next()?.rsplit(':').next()?.parse::<u64>().ok()? == number).then_some(())?;
        let first: u64 = words.next()?.parse().ok()?;
        let last = words.next()?.parse().unwrap_or(u64::MAX);
        (last >= READ_LOCKS.start && first < READ_LOCKS.end).then_some((process, first..=last))
    };
    text.lines().filter_map(lock).collect()
}
