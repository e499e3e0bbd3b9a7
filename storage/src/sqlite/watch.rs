//! The write-ahead log and its index are watched like the database: a commit is only as safe as the files it is in.
//!
//! A check compares the inode of both files, the size of the log with the page count in its index, the log's header and
//! its last page with the check values in the index, and the index with its own check value. That takes some
//! microseconds. SQLite's own changes are no fault: it updates the index before it truncates or restarts the log.
//!
//! The database file itself changes only when the log is moved into it. When it is shorter or has another header
//! although nothing was moved, another program has written to it.
//!
//! An overwrite in the middle of the log is found when nothing was committed in between, since the log's time of change
//! moved although its index did not; under load it is found by the next start or by a check.

use std::{
    fmt,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    files::{FRAME_HEAD, FileId, IndexHead, is_being_moved, kept, read_at},
    paths::beside,
};

/// Bytes of the database's header.
const DB_HEAD: usize = 100;
/// Bytes of the log's header.
const LOG_HEAD: u64 = 32;
/// Bytes of a part of the index, its header in the first one.
const PART_BYTES: u64 = 32 << 10;
/// Where the numbers of pages begin in the first part.
const FIRST_NUMBERS_AT: u64 = 136;
/// Pages in a part, and in the first.
const PART_PAGES: u64 = 4_096;
const FIRST_PART_PAGES: u64 = PART_PAGES - FIRST_NUMBERS_AT / 4;
/// Consecutive checks until a fault counts. 3: another process may be in the middle of changing the index.
const LOOKS: u32 = 3;

/// How much of the log was moved, and which log it was.
type Moved = (u64, [u8; 8]);

/// The state that only a checkpoint changes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct DbHead {
    len: u64,
    bytes: [u8; DB_HEAD],
}

/// What is wrong with the database, the log or its index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogFault {
    file: PathBuf,
    kind: FaultKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum FaultKind {
    Gone,
    Replaced,
    Truncated { bytes: u64, bytes_min: u64 },
    Overwritten,
}

impl LogFault {
    /// Whether the database file itself was changed; the log is as it was.
    pub(super) fn is_of_the_database(&self, db: &Path) -> bool {
        self.file == db
    }

    /// Whether the open handles still have everything: the file has lost its name, not its content.
    pub(super) fn is_content_whole(&self) -> bool {
        matches!(self.kind, FaultKind::Gone | FaultKind::Replaced)
    }
}

impl fmt::Display for LogFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match self.kind {
            FaultKind::Gone => write!(f, "{file} was deleted or moved while it was in use"),
            FaultKind::Replaced => write!(f, "{file} was replaced by another file while it was in use"),
            FaultKind::Truncated { bytes, bytes_min } => {
                write!(f, "{file} was truncated while it was in use: {bytes} of {bytes_min} bytes are left")
            }
            FaultKind::Overwritten => write!(f, "{file} was overwritten while it was in use"),
        }
    }
}

/// The log and index that the writing connection has open.
#[derive(Debug)]
pub(super) struct LogWatch {
    log_path: PathBuf,
    index_path: PathBuf,
    log_id: FileId,
    index_id: FileId,
    /// SQLite has no locks on the log, so this handle may be closed.
    log: File,
    index: Arc<File>,
    /// The index and the log's time of change when nothing was wrong.
    seen: Option<(IndexHead, (i64, i64))>,
    db_path: PathBuf,
    db: Arc<File>,
    /// The database file when nothing was wrong, and how much of the log was moved into it then.
    db_seen: Option<(DbHead, Moved)>,
    /// Pages that the index has room for, where it has to be reserved.
    reserved_pages: u64,
    needs_reserve: bool,
}

impl LogWatch {
    /// The files of a database whose writing connection was just opened.
    pub(super) fn begin(db: &Path) -> io::Result<Self> {
        let (log_path, index_path) = (beside(db, "-wal"), beside(db, "-shm"));
        let (index_id, index) = kept(&index_path)?;
        let log = File::open(&log_path)?;
        let log_id = FileId::from(&log.metadata()?);
        let needs_reserve = super::room::has_small_blocks(&index);
        let (_, database) = kept(db)?;
        Ok(Self {
            db_path: db.to_owned(),
            db: database,
            db_seen: None,
            log_path,
            index_path,
            log_id,
            index_id,
            log,
            index,
            seen: None,
            reserved_pages: 0,
            needs_reserve,
        })
    }

    /// Checks both files; returns how many bytes of the log have not been moved into the database, if that could be
    /// read.
    pub(super) fn look(&mut self) -> Result<Option<u64>, LogFault> {
        let mut tries = 1;
        loop {
            match self.look_once() {
                Err(_) if tries < LOOKS => {
                    tries += 1;
                    std::thread::yield_now();
                }
                looked => return looked,
            }
        }
    }

    fn look_once(&mut self) -> Result<Option<u64>, LogFault> {
        // The index first: another process changes it before it shortens the log.
        same(&self.index_path, self.index_id)?;
        let fault = |file: &Path, kind| LogFault { file: file.to_owned(), kind };
        let overwritten = |file: &Path| fault(file, FaultKind::Overwritten);
        let Some(head) = self.head()? else { return Ok(None) };
        let (pages, frame_bytes) = (head.pages(), head.frame_bytes());
        let found = same(&self.log_path, self.log_id)?;
        let unmoved = pages.saturating_sub(head.moved()) * frame_bytes;
        self.look_at_db(&head)?;
        if pages == 0 {
            self.seen = None;
            return Ok(Some(unmoved));
        }
        let bytes_min = LOG_HEAD + pages * frame_bytes;
        if found.len() < bytes_min {
            return Err(fault(&self.log_path, FaultKind::Truncated { bytes: found.len(), bytes_min }));
        }
        let mut log_head = [0; LOG_HEAD as usize];
        let mut last = [0; FRAME_HEAD as usize];
        let read =
            read_at(&self.log, &mut log_head, 0).and_then(|()| read_at(&self.log, &mut last, bytes_min - frame_bytes));
        if is_unreadable(&read) {
            return Ok(Some(unmoved));
        }
        let is_whole = read.is_ok()
            && log_head[16..24] == *head.salts()
            && last[8..16] == *head.salts()
            && (big_endian(&last, 16), big_endian(&last, 20)) == head.last_sums();
        if !is_whole {
            return Err(overwritten(&self.log_path));
        }
        let changed_at = changed_at(&found);
        match self.seen {
            Some((seen, at)) if seen == head && at == changed_at => return Ok(Some(unmoved)),
            // The log was written without a commit: a rollback, or another program wrote.
            Some((seen, at))
                if is_same_log(&seen, &head) && at != changed_at && valid_pages(&self.log, pages) < pages =>
            {
                return Err(overwritten(&self.log_path));
            }
            _ => {}
        }
        if !self.are_pages_listed(pages) {
            return Err(overwritten(&self.index_path));
        }
        self.seen = Some((head, changed_at));
        Ok(Some(unmoved))
    }

    fn look_at_db(&mut self, index: &IndexHead) -> Result<(), LogFault> {
        let moved = (index.moved(), salts_of(index));
        let mut bytes = [0; DB_HEAD];
        let Ok(len) = self.db.metadata().map(|db| db.len()) else { return Ok(()) };
        let read = read_at(&self.db, &mut bytes, 0);
        if is_unreadable(&read) {
            return Ok(());
        }
        let found = DbHead { len, bytes };
        if let Some((seen, at)) = &self.db_seen
            && *at == moved
            && (found.len < seen.len || found.bytes != seen.bytes)
            && !is_being_moved(self.index_id.number())
        {
            let kind = match found.len < seen.len {
                true => FaultKind::Truncated { bytes: found.len, bytes_min: seen.len },
                false => FaultKind::Overwritten,
            };
            return Err(LogFault { file: self.db_path.clone(), kind });
        }
        self.db_seen = Some((found, moved));
        Ok(())
    }

    /// The store is about to move the log: the next check records the new state of the database file.
    pub(super) fn expect_change(&mut self) {
        self.db_seen = None;
    }

    /// The header of the index; `None` when it could not be read this time.
    fn head(&self) -> Result<Option<IndexHead>, LogFault> {
        let fault = |kind| LogFault { file: self.index_path.clone(), kind };
        match IndexHead::read(&self.index) {
            Ok(head) if head.is_valid() => Ok(Some(head)),
            Ok(_) => Err(fault(FaultKind::Overwritten)),
            read if is_unreadable(&read) => Ok(None),
            Err(_) => {
                let bytes = self.index.metadata().map_or(0, |index| index.len());
                Err(fault(FaultKind::Truncated { bytes, bytes_min: PART_BYTES }))
            }
        }
    }

    /// Whether the index names a page for each frame of the log: none has the number 0.
    fn are_pages_listed(&self, pages: u64) -> bool {
        let mut numbers = [0_u8; (PART_PAGES * 4) as usize];
        let (mut left, mut part) = (pages, 0);
        while left > 0 {
            let (at, n_max) = match part {
                0 => (FIRST_NUMBERS_AT, FIRST_PART_PAGES),
                part => (part * PART_BYTES, PART_PAGES),
            };
            let n = left.min(n_max);
            let numbers = &mut numbers[..(n * 4) as usize];
            let read = read_at(&self.index, numbers, at);
            if is_unreadable(&read) {
                return true;
            }
            if read.is_err() || numbers.chunks_exact(4).any(|number| *number == [0; 4]) {
                return false;
            }
            (left, part) = (left - n, part + 1);
        }
        true
    }

    /// Allocates space in the index for this many more pages than the log had at the last check, where SQLite does not
    /// do it itself. See decision 83.
    pub(super) fn reserve(&mut self, more_pages: u64) -> io::Result<()> {
        if !self.needs_reserve {
            return Ok(());
        }
        let pages = self.seen.map_or(0, |(head, _)| head.pages()) + more_pages;
        if pages > self.reserved_pages {
            // More than needed now, so that not every check extends it.
            let parts = 1 + (pages + more_pages).saturating_sub(FIRST_PART_PAGES).div_ceil(PART_PAGES);
            super::room::reserve(&self.index, parts * PART_BYTES)?;
            self.reserved_pages = FIRST_PART_PAGES + (parts - 1) * PART_PAGES;
        }
        Ok(())
    }

    /// Saves a log whose content was changed, for the next start. SQLite would use the valid pages at its beginning,
    /// although the database may already have later ones; such a log is put aside. Returns the action, for a message.
    pub(super) fn put_aside(&self) -> String {
        let head = IndexHead::read(&self.index).ok().filter(IndexHead::is_valid);
        // Without an index, the earlier number: no more can have been moved.
        let moved = head.map(|head| head.moved()).or(self.seen.map(|(head, _)| head.pages()));
        let valid = valid_pages(&self.log, u64::MAX);
        if moved.is_some_and(|moved| valid >= moved) {
            return format!("{valid} pages of the log are whole and are used by the next start");
        }
        let aside = beside(&self.log_path, ".damaged");
        match super::paths::rename_new(&self.log_path, &aside) {
            Ok(()) => format!("the log was put aside as {}", aside.display()),
            Err(error) => format!("move {} away before the next start ({error})", self.log_path.display()),
        }
    }

    /// Whether another file stands in the log's place.
    pub(super) fn is_log_foreign(&self) -> bool {
        same(&self.log_path, self.log_id).is_err_and(|fault| fault.kind == FaultKind::Replaced)
    }

    /// Moves a file that has the log's name away: SQLite would use it as the log.
    pub(super) fn put_foreign_log_aside(&self) {
        if self.is_log_foreign()
            && let Err(error) = super::paths::rename_new(&self.log_path, &beside(&self.log_path, ".foreign"))
        {
            tracing::warn!(log = %self.log_path.display(), %error, "the file in the log's place could not be moved away");
        }
    }
}

fn salts_of(index: &IndexHead) -> [u8; 8] {
    let mut salts = [0; 8];
    salts.copy_from_slice(index.salts());
    salts
}

/// Whether a read failed for another reason than the end of the file: SQLite reports a failing disk.
fn is_unreadable<T>(read: &io::Result<T>) -> bool {
    read.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::UnexpectedEof)
}

/// When a file was last written to.
#[cfg(unix)]
fn changed_at(file: &std::fs::Metadata) -> (i64, i64) {
    use std::os::unix::fs::MetadataExt as _;
    (file.mtime(), file.mtime_nsec())
}

#[cfg(not(unix))]
fn changed_at(_: &std::fs::Metadata) -> (i64, i64) {
    (0, 0)
}

/// Whether nothing was committed in between, though pages may have been moved.
fn is_same_log(a: &IndexHead, b: &IndexHead) -> bool {
    (a.pages(), a.salts(), a.last_sums()) == (b.pages(), b.salts(), b.last_sums())
}

/// Fails when the path no longer leads to this file.
fn same(path: &Path, id: FileId) -> Result<std::fs::Metadata, LogFault> {
    let kind = match path.symlink_metadata() {
        Ok(found) if FileId::from(&found).is_same(id) => return Ok(found),
        Ok(_) => FaultKind::Replaced,
        Err(_) => FaultKind::Gone,
    };
    Err(LogFault { file: path.to_owned(), kind })
}

/// Pages at the log's beginning that are whole, up to a limit: each is chained to the one before it.
/// <https://www.sqlite.org/fileformat.html#checksum_algorithm>
fn valid_pages(log: &File, limit: u64) -> u64 {
    let mut head = [0; LOG_HEAD as usize];
    if read_at(log, &mut head, 0).is_err() || big_endian(&head, 0) & !1 != 0x377f_0682 {
        return 0;
    }
    let is_big_endian = big_endian(&head, 0) & 1 == 1;
    let mut sums = add_up((0, 0), &head[..24], is_big_endian);
    let page_bytes = big_endian(&head, 8);
    if sums != (big_endian(&head, 24), big_endian(&head, 28)) || !(512..=65_536).contains(&page_bytes) {
        return 0;
    }
    let mut frame = vec![0; FRAME_HEAD as usize + page_bytes as usize];
    let mut pages = 0;
    while pages < limit {
        let at = LOG_HEAD + pages * frame.len() as u64;
        if read_at(log, &mut frame, at).is_err() || frame[8..16] != head[16..24] {
            break;
        }
        sums = add_up(sums, &frame[..8], is_big_endian);
        sums = add_up(sums, &frame[FRAME_HEAD as usize..], is_big_endian);
        if sums != (big_endian(&frame, 16), big_endian(&frame, 20)) {
            break;
        }
        pages += 1;
    }
    pages
}

fn add_up(mut sums: (u32, u32), bytes: &[u8], is_big_endian: bool) -> (u32, u32) {
    let word = |word: &[u8]| {
        let word = [word[0], word[1], word[2], word[3]];
        if is_big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
    };
    for pair in bytes.chunks_exact(8) {
        sums.0 = sums.0.wrapping_add(word(&pair[..4])).wrapping_add(sums.1);
        sums.1 = sums.1.wrapping_add(word(&pair[4..])).wrapping_add(sums.0);
    }
    sums
}

fn big_endian(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
