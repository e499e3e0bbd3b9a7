//! One writer for a file, by whatever name it is opened; and files beside a database that are not what they should be.

#![cfg(unix)]

use std::{
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use atra_bus::Seq;

use super::{
    SqliteOptions, SqliteReader, SqliteStore, backup, owner,
    paths::beside,
    restore,
    tests::{Folder, events},
};
use crate::{Store as _, StoreError};

async fn opened(db: &Path) -> Result<SqliteStore, StoreError> {
    let mut store = SqliteStore::open(SqliteOptions::new(db)).await?;
    store.load().await?;
    Ok(store)
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().expect("there").mode() & 0o7777
}

// === one writer ===

/// A lock on a name let a second runtime write through another name, and the first one died of it.
#[tokio::test]
async fn a_second_runtime_is_refused_by_whatever_name_it_comes() {
    type Name = fn(&Path, &Path) -> PathBuf;
    let names: [(&str, Name); 6] = [
        ("the same name", |db, _| db.to_owned()),
        ("a link", |db, other| {
            symlink(db, other.join("link.db")).expect("linked");
            other.join("link.db")
        }),
        ("a link to its folder", |db, other| {
            symlink(db.parent().expect("a folder"), other.join("folder")).expect("linked");
            other.join("folder").join(db.file_name().expect("a name"))
        }),
        ("a hard link", |db, other| {
            std::fs::hard_link(db, other.join("hard.db")).expect("linked");
            other.join("hard.db")
        }),
        ("a deleted lock file", |db, _| {
            std::fs::remove_file(beside(db, ".lock")).expect("removed");
            db.to_owned()
        }),
        ("a replaced lock file", |db, other| {
            std::fs::write(other.join("new.lock"), "1").expect("written");
            std::fs::rename(other.join("new.lock"), beside(db, ".lock")).expect("renamed");
            db.to_owned()
        }),
    ];
    for (what, name) in names {
        let folder = Folder::new();
        let other = tempfile::tempdir().expect("a folder");
        let mut first = folder.store().await;
        first.commit(&events(1..=2, "x")).await.expect("committed");
        let name = name(&folder.db(), other.path());

        let second = opened(&name).await.err().unwrap_or_else(|| panic!("{what}: opened twice"));

        assert!(matches!(&second, StoreError::InUse { .. }), "{what}: {second}");
        assert!(second.to_string().contains(&std::process::id().to_string()), "{what}: {second}");
        assert_eq!(owner(&name).and_then(|owner| owner.process), Some(std::process::id()), "{what}");
        first.commit(&events(3..=4, "x")).await.unwrap_or_else(|error| panic!("{what}: the first goes on: {error}"));
        first.close().await.expect("closed");
        assert_eq!(owner(&name), None, "{what}");
    }
}

/// A bind mount is the same kind of second name; making one takes the rights for it.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_second_runtime_is_refused_through_a_mount() {
    let folder = Folder::new();
    let other = tempfile::tempdir().expect("a folder");
    let mut first = folder.store().await;
    first.commit(&events(1..=2, "x")).await.expect("committed");
    let source = folder.db().parent().expect("a folder").to_owned();
    if !Command::new("mount")
        .arg("--bind")
        .args([&source, other.path()])
        .output()
        .is_ok_and(|done| done.status.success())
    {
        eprintln!("skipped: this user may not mount");
        return;
    }
    let name = other.path().join(folder.db().file_name().expect("a name"));
    let second = opened(&name).await;
    let unmounted = Command::new("umount").arg(other.path()).status().expect("started");
    assert!(unmounted.success());
    assert!(matches!(second, Err(StoreError::InUse { .. })), "{second:?}");
}

/// The log is found by the name of the database: under another name what is in it would be missing.
#[tokio::test]
async fn a_database_with_two_names_is_not_written_to_and_can_be_read() {
    let folder = Folder::new();
    let mut store = folder.store().await;
    store.commit(&events(1..=3, "x")).await.expect("committed");
    store.close().await.expect("closed");
    let second = folder.db().with_extension("snapshot");
    std::fs::hard_link(folder.db(), &second).expect("linked");
    for name in [&folder.db(), &second] {
        let refused = opened(name).await.expect_err("refused").to_string();
        assert!(refused.contains("2 names"), "{refused}");
        let reader = SqliteReader::open_read_only(name).await.expect("opened");
        assert_eq!(reader.last_seq().await.expect("a seq"), Seq(3));
    }
    std::fs::remove_file(second).expect("removed");
    opened(&folder.db()).await.expect("opened").close().await.expect("closed");
}

/// `cargo test` of a fresh clone was refused once: a process that another thread had forked still had the lock.
#[test]
fn reopening_is_never_refused_while_other_threads_start_processes() {
    const REOPENINGS: usize = 200;
    let folder = Folder::new();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let is_over = AtomicBool::new(false);
    let reopened = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    Command::new("true").status().expect("started");
                }
            });
        }
        let reopened = (0..REOPENINGS).try_for_each(|n| {
            tokio.block_on(async {
                let mut store = opened(&folder.db()).await.map_err(|error| format!("reopening {n}: {error}"))?;
                store.close().await.map_err(|error| format!("closing {n}: {error}"))
            })
        });
        is_over.store(true, Ordering::Relaxed);
        reopened
    });
    reopened.expect("never refused");
}

/// Somebody who looks has the lock for a moment, and a process that is just ending may have.
#[tokio::test]
async fn a_lock_that_nobody_claims_is_waited_for() {
    let folder = Folder::new();
    opened(&folder.db()).await.expect("opened").close().await.expect("closed");
    let lock = std::fs::File::open(beside(&folder.db(), ".lock")).expect("opened");
    lock.try_lock_shared().expect("locked");
    let look = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        lock.unlock().expect("unlocked");
    };
    let db = folder.db();
    let (opened, ()) = futures::join!(opened(&db), look);
    opened.expect("opened").close().await.expect("closed");
    // It is not waited for for ever.
    lock.try_lock().expect("locked");
    let refused = SqliteStore::open(SqliteOptions::new(folder.db())).await.expect_err("refused");
    assert!(matches!(refused, StoreError::InUse { .. }), "{refused}");
}

// === names ===

#[tokio::test]
async fn a_database_behind_a_link_has_its_files_beside_itself() {
    let folder = Folder::new();
    let other = tempfile::tempdir().expect("a folder");
    // The file does not exist yet: it is created where the link leads.
    let link = other.path().join("link.db");
    symlink(folder.db(), &link).expect("linked");
    let mut store = opened(&link).await.expect("opened");
    store.commit(&events(1..=3, "x")).await.expect("committed");
    let copy = other.path().join("copy.db");
    backup(&link, &copy, |_| {}).await.expect("copied");
    store.commit(&events(4..=5, "x")).await.expect("committed");
    store.close().await.expect("closed");

    let restored = restore(&link, &copy, |_| {}).await.expect("restored");

    assert!(link.symlink_metadata().expect("there").is_symlink(), "the link was replaced by the file");
    let aside = restored.aside.expect("put aside");
    assert_eq!(aside.parent(), folder.db().canonicalize().expect("there").parent());
    let mut names: Vec<_> = std::fs::read_dir(other.path())
        .expect("read")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["copy.db", "link.db"], "nothing beside the link");
    let reader = SqliteReader::open_read_only(&link).await.expect("opened");
    assert_eq!(reader.last_seq().await.expect("a seq"), Seq(3));
}

// === access ===

#[tokio::test]
async fn files_are_their_owners_alone_and_follow_the_database() {
    let folder = Folder::new();
    let mut store = folder.store().await;
    store.commit(&events(1..=2, "x")).await.expect("committed");
    for suffix in ["", "-wal", "-shm", ".lock"] {
        assert_eq!(mode(&beside(&folder.db(), suffix)), 0o600, "{suffix:?}");
    }
    store.close().await.expect("closed");
    let copy = folder.db().with_extension("copy");
    backup(&folder.db(), &copy, |_| {}).await.expect("copied");
    assert_eq!(mode(&copy), 0o600);
    // What was opened for others before stays so.
    std::fs::set_permissions(folder.db(), std::fs::Permissions::from_mode(0o640)).expect("set");
    restore(&folder.db(), &copy, |_| {}).await.expect("restored");
    assert_eq!(mode(&folder.db()), 0o640);
}

/// A lock file that was a link to another file had the number of the process written over that file.
#[tokio::test]
async fn links_pipes_and_folders_in_the_place_of_its_files_are_refused_and_left_alone() {
    type Plant = fn(&Path, &Path);
    let plants: [(&str, Plant); 4] = [
        ("symbolic link", |at, victim| symlink(victim, at).expect("linked")),
        ("hard link", |at, victim| std::fs::hard_link(victim, at).expect("linked")),
        ("pipe", |at, _| {
            rustix::fs::mkfifoat(rustix::fs::CWD, at, rustix::fs::Mode::from_raw_mode(0o600)).expect("made");
        }),
        ("folder", |at, _| std::fs::create_dir(at).expect("made")),
    ];
    for (what, plant) in plants {
        for suffix in [".lock", "-wal", "-shm", "-journal"] {
            let folder = Folder::new();
            let victim = folder.db().with_extension("victim");
            std::fs::write(&victim, "untouched").expect("written");
            plant(&beside(&folder.db(), suffix), &victim);
            let refused = opened(&folder.db()).await;
            let refused = refused.err().unwrap_or_else(|| panic!("{what} as {suffix}: opened")).to_string();
            assert!(refused.contains(&format!("{suffix} ")), "{what} as {suffix}: {refused}");
            assert_eq!(std::fs::read(&victim).expect("read"), b"untouched", "{what} as {suffix}");
        }
        let folder = Folder::new();
        opened(&folder.db()).await.expect("opened").close().await.expect("closed");
        let (copy, victim) = (folder.db().with_extension("copy"), folder.db().with_extension("victim"));
        std::fs::write(&victim, "untouched").expect("written");
        plant(&beside(&copy, ".partial"), &victim);
        let refused = backup(&folder.db(), &copy, |_| {}).await.expect_err("refused").to_string();
        assert!(refused.contains(".partial") && !copy.exists(), "{what}: {refused}");
        assert_eq!(std::fs::read(&victim).expect("read"), b"untouched", "{what}");
    }
}

#[tokio::test]
async fn a_pipe_or_folder_named_as_the_database_is_an_error_at_once() {
    let folder = Folder::new();
    rustix::fs::mkfifoat(rustix::fs::CWD, folder.db(), rustix::fs::Mode::from_raw_mode(0o600)).expect("made");
    let refused = opened(&folder.db()).await.expect_err("refused").to_string();
    assert!(refused.contains("not a regular file"), "{refused}");
    let refused = SqliteReader::open_read_only(folder.db()).await.err().expect("refused").to_string();
    assert!(refused.contains("not a regular file"), "{refused}");
}

#[tokio::test]
async fn a_folder_in_which_everybody_may_replace_files_is_refused() {
    let folder = Folder::new();
    let parent = folder.db().parent().expect("a folder").to_owned();
    let set = |mode| std::fs::set_permissions(&parent, std::fs::Permissions::from_mode(mode)).expect("set");
    set(0o777);
    let refused = opened(&folder.db()).await.expect_err("refused").to_string();
    assert!(refused.contains("chmod o-w"), "{refused}");
    assert!(!folder.db().exists(), "nothing was created");
    // As /tmp is: others may add files, and replace none.
    set(0o1777);
    opened(&folder.db()).await.expect("opened").close().await.expect("closed");
    set(0o700);
}
