//! Allocates disk space for the log's index where SQLite does not.
//!
//! The index is mapped into memory. SQLite extends it by one byte for every 4 KiB, which allocates all of its space
//! only on disks with blocks of that size. With smaller blocks the rest is allocated by the first write through the
//! map, and on a full disk that write raises SIGBUS instead of an error. So the space is allocated before.

use std::{
    fs::File,
    io::{self, ErrorKind},
    path::Path,
};

use super::paths::{beside, create_beside};
use crate::StoreError;

/// The block size that SQLite assumes.
const BLOCK_BYTES: u64 = 4_096;
/// Space for a new index: SQLite begins with one part of 32 KiB.
const NEW_INDEX_BYTES: u64 = 64 << 10;

/// Whether the file's blocks are smaller than SQLite assumes.
#[cfg(target_os = "linux")]
pub(super) fn has_small_blocks(file: &File) -> bool {
    rustix::fs::fstatvfs(file).is_ok_and(|found| found.f_bsize < BLOCK_BYTES)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn has_small_blocks(_: &File) -> bool {
    false
}

/// Allocates space for the first bytes of a file; its content does not change.
#[cfg(target_os = "linux")]
pub(super) fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        // Not on every file system; there it stays as SQLite does it.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        reserved => Ok(reserved?),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn reserve(_: &File, _: u64) -> io::Result<()> {
    Ok(())
}

/// Refuses to open a database whose index does not exist yet and has no space.
pub(super) fn refuse_without_room(db: &Path) -> Result<(), StoreError> {
    let folder = File::open(super::paths::folder_of(db));
    let has_index = beside(db, "-shm").metadata().is_ok_and(|index| index.len() >= NEW_INDEX_BYTES / 2);
    if has_index || !folder.is_ok_and(|folder| has_small_blocks(&folder)) {
        return Ok(());
    }
    match try_room(db, |file| reserve(file, NEW_INDEX_BYTES)) {
        Err(error) if is_no_room(&error) => {
            Err(StoreError::Full(format!("{}: no room for the log's index ({error}); free some space", db.display())))
        }
        // Opening the database reports any other error.
        _ => Ok(()),
    }
}

/// Whether an error means no space: a full disk, a quota, or a limit of file size.
pub(super) fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

/// Does something with a new file beside a database, and removes it.
pub(super) fn try_room(db: &Path, work: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let path = beside(db, "-room");
    // Left by a process that was killed at this place.
    let _ = std::fs::remove_file(&path);
    let done = create_beside(&path, db).and_then(|file| work(&file));
    let _ = std::fs::remove_file(&path);
    done
}
