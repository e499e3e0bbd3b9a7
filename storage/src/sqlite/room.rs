//! Room on the disk for the log's index, where SQLite does not make sure of it.
//!
//! The index is mapped into memory. SQLite extends it by one byte for every 4 KiB, which takes the space for all of them
//! only where the disk's blocks are as large. On smaller blocks the rest is allocated when it is first written through the map, and on
//! a full disk that write is the signal SIGBUS instead of an error. So there the space is taken before.

use std::{
    fs::File,
    io::{self, ErrorKind},
    path::Path,
};

use super::paths::{beside, create_beside};
use crate::StoreError;

/// What SQLite takes for granted of a block.
const BLOCK_BYTES: u64 = 4_096;
/// Room for a new index: SQLite begins with one part of 32 KiB.
const NEW_INDEX_BYTES: u64 = 64 << 10;

/// Whether the file lies on blocks smaller than SQLite takes them to be.
#[cfg(target_os = "linux")]
pub(super) fn has_small_blocks(file: &File) -> bool {
    rustix::fs::fstatvfs(file).is_ok_and(|found| found.f_bsize < BLOCK_BYTES)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn has_small_blocks(_: &File) -> bool {
    false
}

/// Takes space for the first bytes of a file; what is in it stays.
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

/// Refuses to open a database whose index would have to be made where there is no room for it.
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
        // Whatever else is wrong, the opening says it.
        _ => Ok(()),
    }
}

/// Whether an error says that there is no room, by the disk, a quota, or a limit of a file's size.
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
