//! Names of the files of a database, and how they are opened.
//!
//! A path is resolved once, before anything else: links are followed, and every other file of the database is named
//! after what was found. Those files are opened without following links, must be regular files of a trusted owner,
//! and have the access rights of the database: 0600 when it is created here.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use super::error::fatal;
use crate::StoreError;

/// Links that are followed while a path is resolved. 40: as many as Linux follows.
const LINKS_MAX: usize = 40;

/// Suffixes of the files that SQLite keeps next to a database.
pub(crate) const SQLITE_SUFFIXES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Suffixes of the files that atra keeps next to a database.
pub(crate) const ATRA_SUFFIXES: [&str; 9] =
    [".lock", ".status", ".partial", ".restoring", ".restored", ".sock", ".word", ".word.heard", "-room"];

/// The path of a database's other file: the database's path with a suffix.
pub(crate) fn beside(db: &Path, suffix: &str) -> PathBuf {
    let mut path = db.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// The folder of a file.
pub(crate) fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// The path of a file with every link resolved; of one that does not exist, its folder's path and its name.
///
/// # Errors
/// What the operating system says about the file or its folder, or that the path names no file.
pub fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut name = path.to_owned();
    for _ in 0..LINKS_MAX {
        match name.canonicalize() {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            found => return found,
        }
        // A link to a file that does not exist: the file is created where the link leads.
        if let Ok(target) = name.read_link() {
            name = folder_of(&name).join(target);
            continue;
        }
        let file = name.file_name().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "the path names no file"))?;
        return Ok(folder_of(&name).canonicalize()?.join(file));
    }
    Err(io::Error::other(format!("more than {LINKS_MAX} links lead to it")))
}

/// The path of a database with every link resolved.
///
/// # Errors
/// [`StoreError::Fatal`] when its folder does not exist or cannot be read.
pub(crate) fn resolve_db(db: &Path) -> Result<PathBuf, StoreError> {
    resolve(db).map_err(|error| {
        fatal(db, format!("its path cannot be resolved: {error}; check that the folder exists and is accessible"))
    })
}

/// The resolved path, or the unresolved path when that fails: opening the file then returns the error.
pub(crate) fn resolve_or_keep(db: &Path) -> PathBuf {
    resolve(db).unwrap_or_else(|_| db.to_owned())
}

/// Refuses a database whose files could be another user's, or are no regular files.
pub(super) fn refuse_unsafe_files(db: &Path) -> Result<(), StoreError> {
    refuse_special(db, db)?;
    SQLITE_SUFFIXES.iter().try_for_each(|suffix| refuse_special(db, &beside(db, suffix)))
}

/// Refuses a database file that is not a regular file, has several names, or belongs to another user.
fn refuse_special(db: &Path, file: &Path) -> Result<(), StoreError> {
    let found = match file.symlink_metadata() {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fatal(db, format!("{} cannot be read: {error}", file.display()))),
    };
    let fault = if file == db { is_special(&found).map(str::to_owned) } else { fault_of(&found, db) };
    match fault {
        Some(fault) if file == db => Err(fatal(db, fault)),
        Some(fault) => Err(fatal(db, format!("{} {fault}; move it away", file.display()))),
        None => Ok(()),
    }
}

fn is_special(file: &Metadata) -> Option<&'static str> {
    (!file.is_file()).then(|| match () {
        () if file.is_symlink() => "it is a symbolic link, not a regular file",
        () if file.is_dir() => "it is a folder, not a regular file",
        () => "it is a pipe, socket or device, not a regular file",
    })
}

/// What is wrong with a file beside a database; `None`: nothing.
fn fault_of(file: &Metadata, db: &Path) -> Option<String> {
    if let Some(kind) = is_special(file) {
        return Some(kind.replacen("it ", "", 1));
    }
    unix::fault_of(file, db)
}

/// Opens a file beside a database for reading and writing; creates it with the access rights of the database.
///
/// # Errors
/// Those of the system, and [`ErrorKind::InvalidInput`] with what is wrong: a link, a pipe, another user's file.
pub(crate) fn open_beside(path: &Path, db: &Path) -> io::Result<File> {
    match create_beside(path, db) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        created => return created,
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    open_checked(&mut options, path, db)
}

/// Opens a file beside a database for reading.
///
/// # Errors
/// Those of the system, with [`ErrorKind::NotFound`], and [`ErrorKind::InvalidInput`] for a link, a pipe or another user's
/// file.
pub fn read_beside(path: &Path, db: &Path) -> io::Result<File> {
    open_checked(OpenOptions::new().read(true), path, db)
}

/// Creates a file beside a database, with its access rights.
///
/// # Errors
/// Those of the system; [`ErrorKind::AlreadyExists`] also for a link.
pub fn create_beside(path: &Path, db: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    unix::create(&mut options, path, db)
}

fn open_checked(options: &mut OpenOptions, path: &Path, db: &Path) -> io::Result<File> {
    // Checked before opening for a better message; the check of the opened file decides.
    if let Some(fault) = path.symlink_metadata().ok().and_then(|found| fault_of(&found, db)) {
        return Err(io::Error::new(ErrorKind::InvalidInput, format!("it {fault}")));
    }
    let file = unix::open(options, path)?;
    match fault_of(&file.metadata()?, db) {
        Some(fault) => Err(io::Error::new(ErrorKind::InvalidInput, format!("it {fault}"))),
        None => Ok(file),
    }
}

/// Renames a file, unless the new name is taken.
///
/// # Errors
/// Those of the system; [`ErrorKind::AlreadyExists`] when there is a file of the new name.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::{
            fs::{CWD, RenameFlags, renameat_with},
            io::Errno,
        };
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Not on every file system.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            renamed => return Ok(renamed?),
        }
    }
    std::fs::hard_link(from, to)?;
    std::fs::remove_file(from)
}

/// Creates the file of a database with access for its owner only; does nothing when it exists.
pub(super) fn create_db(db: &Path) -> Result<(), StoreError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    match unix::create_private(&mut options, db) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(fatal(db, format!("it cannot be created: {error}; check the folder and its rights")))
        }
        _ => Ok(()),
    }
}

pub(super) use unix::{give_rights_of, refuse_open_folder, refuse_second_name};

#[cfg(unix)]
mod unix {
    use std::{
        fs::{File, Metadata, OpenOptions, Permissions},
        io,
        os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
        path::Path,
    };

    use rustix::fs::OFlags;

    use super::folder_of;
    use crate::{StoreError, sqlite::error::fatal};

    /// The access rights of files that are created without a database to copy them from: owner only.
    const PRIVATE: u32 = 0o600;
    const GROUP_WRITES: u32 = 0o020;
    const ALL_WRITE: u32 = 0o002;
    const STICKY: u32 = 0o1000;

    pub(super) fn fault_of(file: &Metadata, db: &Path) -> Option<String> {
        if file.nlink() > 1 {
            return Some(format!("has {} names (hard links)", file.nlink()));
        }
        let own = rustix::process::geteuid().as_raw();
        let of_db = db.metadata().ok();
        let is_shared = of_db.as_ref().is_some_and(|db| db.mode() & GROUP_WRITES != 0);
        let is_trusted = |uid: u32| uid == 0 || uid == own || of_db.as_ref().is_some_and(|db| db.uid() == uid);
        (!is_shared && !is_trusted(file.uid())).then(|| format!("belongs to user {}, not to {own}", file.uid()))
    }

    /// A link is an error, and a pipe does not block.
    pub(super) fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
        options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32).open(path)
    }

    pub(super) fn create(options: &mut OpenOptions, path: &Path, db: &Path) -> io::Result<File> {
        let file = create_private(options, path)?;
        if let Ok(db) = db.metadata() {
            give_rights_of(&db, &file)?;
        }
        Ok(file)
    }

    pub(super) fn create_private(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
        open(options.mode(PRIVATE), path)
    }

    /// Gives a new file the access rights of another, and its owner if this process may. SQLite does the same with its
    /// log: a command run by root must not leave files that the owner's runtime cannot open.
    pub(in crate::sqlite) fn give_rights_of(of: &Metadata, to: &File) -> io::Result<()> {
        let own = rustix::process::geteuid();
        if own.is_root() && (of.uid(), of.gid()) != (0, 0) {
            let (owner, group) = (rustix::fs::Uid::from_raw(of.uid()), rustix::fs::Gid::from_raw(of.gid()));
            rustix::fs::fchown(to, Some(owner), Some(group))?;
        }
        to.set_permissions(Permissions::from_mode(of.mode() & 0o666))
    }

    /// Refuses a folder in which every user may replace the database's files.
    pub(in crate::sqlite) fn refuse_open_folder(db: &Path) -> Result<(), StoreError> {
        let folder = folder_of(db);
        let Ok(found) = folder.metadata() else { return Ok(()) };
        if found.mode() & ALL_WRITE != 0 && found.mode() & STICKY == 0 {
            let cause = format!(
                "every user may replace files in its folder {} (mode {:o}): run chmod o-w on it, or use another folder",
                folder.display(),
                found.mode() & 0o7777
            );
            return Err(fatal(db, cause));
        }
        Ok(())
    }

    /// Refuses to write to a database that has another name: its log is found by name, so it would not be found under
    /// the other name.
    pub(in crate::sqlite) fn refuse_second_name(db: &Path) -> Result<(), StoreError> {
        let names = db.metadata().map_or(1, |found| found.nlink());
        if names > 1 {
            let cause = format!(
                "it has {names} names (hard links), and its log is found by name: under another name the log's content \
                 would be missing; remove the others, or copy the file and use the copy"
            );
            return Err(fatal(db, cause));
        }
        if is_mounted_alone(db) {
            let cause = "it is mounted as a single file, and its log would stay outside of the mount: mount its folder";
            return Err(fatal(db, cause));
        }
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn is_mounted_alone(db: &Path) -> bool {
        use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
        statx(CWD, db, AtFlags::empty(), StatxFlags::BASIC_STATS)
            .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
    }

    #[cfg(not(target_os = "linux"))]
    fn is_mounted_alone(_: &Path) -> bool {
        false
    }
}

/// Where there are no owners and access rights as on Unix, only the kind of a file is looked at.
#[cfg(not(unix))]
mod unix {
    use std::{
        fs::{File, Metadata, OpenOptions},
        io,
        path::Path,
    };

    use crate::StoreError;

    pub(super) fn fault_of(_: &Metadata, _: &Path) -> Option<String> {
        None
    }

    pub(super) fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
        options.open(path)
    }

    pub(super) fn create(options: &mut OpenOptions, path: &Path, _: &Path) -> io::Result<File> {
        options.open(path)
    }

    pub(super) fn create_private(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
        options.open(path)
    }

    pub(in crate::sqlite) fn give_rights_of(_: &Metadata, _: &File) -> io::Result<()> {
        Ok(())
    }

    pub(in crate::sqlite) fn refuse_open_folder(_: &Path) -> Result<(), StoreError> {
        Ok(())
    }

    pub(in crate::sqlite) fn refuse_second_name(_: &Path) -> Result<(), StoreError> {
        Ok(())
    }
}
