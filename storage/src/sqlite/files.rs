//! What lies on the disk around a database, and who holds it. Looks only.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::{File, Metadata, OpenOptions, TryLockError},
    io::{Read as _, Seek as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::Serialize;

use super::error::fatal;
use crate::StoreError;

/// The path of what belongs to a database: the same with a suffix.
pub(super) fn beside(db: &Path, suffix: &str) -> PathBuf {
    let mut path = db.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

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

    /// Fails when the path does not lead to the same file any more, or that has been made read-only.
    pub(super) fn check(self, db: &Path) -> Result<(), StoreError> {
        let cause = match std::fs::metadata(db) {
            Err(error) => format!("it was deleted or moved while it was in use ({error}); put it back or start anew"),
            Ok(file) => match Self::from(&file) {
                found if found == self => return Ok(()),
                Self { device, number, .. } if (device, number) == (self.device, self.number) => {
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

/// The process that holds the runtime's lock on a database; `None` when nobody does. A look at the lock takes it for a
/// moment, as one of many that share it.
#[must_use]
pub fn owner(db: &Path) -> Option<Owner> {
    // Read only: who looks may have no right to write.
    let mut file = OpenOptions::new().read(true).open(beside(db, ".lock")).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // Only for the message: who holds it may not have written its number yet.
            let _ = file.read_to_string(&mut text);
            Some(Owner { process: text.split_whitespace().next().and_then(|number| number.parse().ok()) })
        }
        _ => None,
    }
}

/// Who holds a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// The number of the process, if it is known.
    pub process: Option<u32>,
}

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
/// Bytes of the index's header: two copies of 48 bytes, pages moved, five marks.
const INDEX_HEAD: usize = 120;
/// Bytes in front of each page in the log.
const FRAME_HEAD: u64 = 24;

/// Reads the state of the log, and who reads from it.
#[must_use]
pub fn log(db: &Path) -> Log {
    let bytes = size_of(db, "-wal");
    let Some((number, head)) = index_of(db) else { return Log { bytes, ..Log::default() } };
    let (pages, moved, frame_bytes) = frames(&head);
    let mark = |slot: usize| match u64::from(word(&head, 100 + 4 * slot)) {
        // The first mark means the database file alone; an unused one is all ones.
        n if slot == 0 || n > pages => 0,
        n => n,
    };
    let mut readers: Vec<LogReader> = Vec::new();
    for (process, locks) in index_locks(number) {
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

/// Bytes of the log that have not been moved into the database, as its index tells; `None` without one. Exact for the
/// process that writes, and three calls to the system.
pub(super) fn unmoved_bytes(db: &Path) -> Option<u64> {
    let (pages, moved, frame_bytes) = frames(&index_of(db)?.1);
    Some(pages.saturating_sub(moved) * frame_bytes)
}

/// Pages in the log that count, how many of them have been moved, and how many bytes of the log each takes.
fn frames(head: &[u8; INDEX_HEAD]) -> (u64, u64, u64) {
    // Size of a page in 16 bits, where 1 stands for 65,536.
    let page = match u64::from(u16::from_ne_bytes([head[14], head[15]])) {
        1 => 65_536,
        size => size,
    };
    (u64::from(word(head, 16)), u64::from(word(head, 96)), page + FRAME_HEAD)
}

fn word(head: &[u8; INDEX_HEAD], at: usize) -> u32 {
    u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

/// Indexes that were looked at, by device and number of the file. They stay open: SQLite locks with POSIX locks, and
/// a process that closes any handle on a file loses all its locks on it, also those of its connections.
static INDEXES: Mutex<BTreeMap<(u64, u64), File>> = Mutex::new(BTreeMap::new());

/// The number of a log's index as a file, and its header.
fn index_of(db: &Path) -> Option<(u64, [u8; INDEX_HEAD])> {
    let path = beside(db, "-shm");
    let FileId { device, number, .. } = FileId::from(&std::fs::metadata(&path).ok()?);
    // A panic elsewhere leaves the map whole.
    let mut indexes = INDEXES.lock().unwrap_or_else(PoisonError::into_inner);
    let index = match indexes.entry((device, number)) {
        Entry::Occupied(index) => index.into_mut(),
        Entry::Vacant(place) => place.insert(File::open(&path).ok()?),
    };
    let mut head = [0_u8; INDEX_HEAD];
    index.rewind().and_then(|()| index.read_exact(&mut head)).ok()?;
    Some((number, head))
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
