//! A full disk with blocks of 1 KiB, on which the log's index must grow.

#![cfg(target_os = "linux")]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{SqliteOptions, SqliteReader, SqliteStore, log, paths::beside, tests::events};
use crate::{Store as _, StoreError};

/// Where the child works.
const DISK: &str = "ATRA_TEST_SMALL_BLOCKS";
const DISK_BYTES: u64 = 48 << 20;
/// What is left on the disk shortly before the index grows, in KiB: for a dozen pages of the log and for none, some or all
/// of the 32 KiB of the index, of which SQLite takes 8 before it maps them. 66 to 84 was SIGBUS.
const LEFT: std::ops::RangeInclusive<u64> = 40..=136;
const LEFT_STEP: usize = 8;
/// Pages of the log then; its index grows at 4,063.
const PAGES: u64 = 4_050;

/// A disk that is unmounted in the end.
struct Mount(PathBuf);

impl Mount {
    /// `None` when this user may not mount.
    fn new(folder: &Path) -> Option<Self> {
        let (image, at) = (folder.join("image"), folder.join("disk"));
        std::fs::File::create(&image).and_then(|image| image.set_len(DISK_BYTES)).expect("an image");
        std::fs::create_dir(&at).expect("made");
        let done = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let made =
            done(Command::new("mkfs.ext4").args(["-q", "-b", "1024", "-m", "0", "-O", "^has_journal"]).arg(&image));
        (made && done(Command::new("mount").args(["-o", "loop"]).arg(image).arg(&at))).then_some(Self(at))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// The process was ended by SIGBUS: in a child, so that this would be a failure and not the end of all tests.
#[test]
fn an_index_that_cannot_grow_on_a_full_disk_of_small_blocks_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(disk) = Mount::new(folder.path()) else {
        eprintln!("skipped: it takes mkfs.ext4 and the right to mount");
        return;
    };
    let mut child = Command::new(std::env::current_exe().expect("this program"));
    child.args(["--exact", "sqlite::tests_room::the_child_fills_its_disk", "--nocapture"]).env(DISK, &disk.0);
    let output = child.output().expect("started");
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("full"), "no disk was full");
}

/// Does nothing unless the test above says where.
#[tokio::test]
async fn the_child_fills_its_disk() {
    let Some(disk) = std::env::var_os(DISK).map(PathBuf::from) else { return };
    for left in LEFT.step_by(LEFT_STEP) {
        let db = disk.join(format!("{left}.db"));
        let mut store = SqliteStore::open(SqliteOptions::new(&db)).await.expect("opened");
        store.load().await.expect("loaded");
        let mut seq = 0;
        while log(&db).pages < PAGES {
            let n_events = if log(&db).pages < PAGES - 100 { 400 } else { 10 };
            commit(&mut store, &mut seq, n_events).await.expect("committed");
            store.look(true).await.expect("whole");
        }
        fill(&disk, left << 10);
        let full = loop {
            match commit(&mut store, &mut seq, 10).await {
                Ok(()) if log(&db).pages > PAGES + 200 => break false,
                Ok(()) => {}
                Err(StoreError::Full(_)) => break true,
                Err(error) => panic!("{left} KiB left: {error}"),
            }
        };
        eprintln!("{left} KiB left: {}", if full { "full" } else { "went on" });
        std::fs::remove_file(disk.join("filler")).expect("removed");
        commit(&mut store, &mut seq, 10).await.expect("goes on when there is room");
        store.close().await.expect("closed");
        assert!(super::check(&db).await.expect("a report").is_sound());

        // A command that reads, where the index must be created.
        fill(&disk, left << 10);
        match SqliteReader::open_read_only(&db).await {
            Ok(reader) => drop(reader.last_seq().await),
            Err(StoreError::Full(_)) => {}
            Err(error) => panic!("{left} KiB left: {error}"),
        }
        for file in [disk.join("filler"), beside(&db, "-wal"), beside(&db, "-shm"), db] {
            let _ = std::fs::remove_file(file);
        }
    }
}

async fn commit(store: &mut SqliteStore, seq: &mut u64, n_events: u64) -> Result<(), StoreError> {
    store.commit(&events(*seq + 1..=*seq + n_events, "x")).await?;
    *seq += n_events;
    Ok(())
}

/// Takes all space but so many bytes.
fn fill(disk: &Path, left: u64) {
    let free = || rustix::fs::statvfs(disk).map(|found| found.f_bavail * found.f_frsize).expect("told");
    let filler = std::fs::File::create(disk.join("filler")).expect("created");
    // What is written has its place on the disk, so that no more than is left can be taken.
    rustix::fs::syncfs(&filler).expect("flushed");
    let mut taken = 0;
    for piece in [1 << 20, 64 << 10, 1 << 10] {
        while free() >= left + piece && super::room::reserve(&filler, taken + piece).is_ok() {
            taken += piece;
        }
    }
}
