//! Writes output files for users: completely or not at all, and never over a database.
//!
//! The content is written to an unnamed file in the same folder and flushed; then the file gets its name. An error or a
//! kill before that leaves no file. An existing file is replaced only on request, and a file of any database never is,
//! not even through a link. Pipes and devices are written to directly.

use std::{
    ffi::OsStr,
    fs::{File, Metadata, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::sqlite::paths::{ATRA_SUFFIXES, SQLITE_SUFFIXES, beside, folder_of, rename_new, resolve, resolve_or_keep};

/// The first bytes of a database.
const DATABASE: &[u8] = b"SQLite format 3\0";
/// Those of a write-ahead log, but for its last bit, and of a rollback journal.
const LOG: [u8; 3] = [0x37, 0x7f, 0x06];
const JOURNAL: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
/// That of a log's index: its version.
const INDEX: u32 = 3_007_000;
/// Temporary names that are tried where unnamed files are not possible.
const NAMES_MAX: u32 = 100;

/// Why a file was not written. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The name is taken.
    #[error("{} exists", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The name, or the file that it links to, belongs to a database.
    #[error("{} belongs to the database {}", path.display(), db.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// The database.
        db: PathBuf,
    },
    /// The name belongs to a folder.
    #[error("{} is a folder", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// It could not be written.
    #[error("{} could not be written", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl From<OutputError> for io::Error {
    fn from(error: OutputError) -> Self {
        match error {
            OutputError::Io { source, .. } => source,
            OutputError::Exists { .. } => Self::new(ErrorKind::AlreadyExists, error),
            other => Self::new(ErrorKind::InvalidInput, other),
        }
    }
}

/// A file that is to be written.
///
/// # Examples
/// ```
/// # let folder = std::env::temp_dir().join(format!("atra-doc-output-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// use atra_storage::OutputFile;
///
/// let report = OutputFile::new(folder.join("report.html"));
/// report.check()?; // before the work for its content
/// report.write(b"<p>done</p>")?;
/// assert!(report.write(b"again").is_err(), "it exists");
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct OutputFile {
    path: PathBuf,
    overwrites: bool,
    protected: Option<PathBuf>,
}

/// Where a name leads.
enum Place {
    /// A pipe, a device, or a handle that this process was given.
    Stream,
    /// A file in a folder; what is there, if anything.
    File(PathBuf, Option<Metadata>),
}

impl OutputFile {
    /// A file that must not exist yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), overwrites: false, protected: None }
    }

    /// Replaces another file of the name, if asked to.
    #[must_use]
    pub fn overwrite(self, overwrites: bool) -> Self {
        Self { overwrites, ..self }
    }

    /// Never writes to this database, even if it does not exist yet.
    #[must_use]
    pub fn protect(self, db: impl Into<PathBuf>) -> Self {
        Self { protected: Some(db.into()), ..self }
    }

    /// Checks whether the file could be written now, as far as possible without writing.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn check(&self) -> Result<(), OutputError> {
        self.place().map(drop)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`OutputError`]; no new file exists then. A pipe may have received a part.
    pub fn write(&self, bytes: &[u8]) -> Result<(), OutputError> {
        let failed = |source: io::Error| match source.kind() {
            ErrorKind::AlreadyExists => OutputError::Exists { path: self.path.clone() },
            _ => OutputError::Io { path: self.path.clone(), source },
        };
        match self.place()? {
            Place::Stream => self.write_stream(bytes).map_err(failed),
            Place::File(path, there) => write_whole(&path, there.as_ref(), bytes).map_err(failed),
        }
    }

    fn write_stream(&self, bytes: &[u8]) -> io::Result<()> {
        // Opened by its name, also for standard output, whose lock another thread may hold. A file behind a handle is
        // continued at its end.
        OpenOptions::new().append(true).open(&self.path)?.write_all(bytes)
    }

    fn place(&self) -> Result<Place, OutputError> {
        let path = self.path.clone();
        if is_handle(&path) {
            return self.refuse_database(&path, path.metadata().ok().as_ref()).map(|()| Place::Stream);
        }
        let resolved = resolve(&path).map_err(|source| OutputError::Io { path: path.clone(), source })?;
        let there = match resolved.symlink_metadata() {
            Ok(there) => Some(there),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(source) => return Err(OutputError::Io { path, source }),
        };
        match &there {
            Some(there) if there.is_dir() => return Err(OutputError::Folder { path }),
            Some(there) if !there.is_file() => return Ok(Place::Stream),
            _ => {}
        }
        self.refuse_database(&resolved, there.as_ref())?;
        match &there {
            Some(_) if !self.overwrites => return Err(OutputError::Exists { path }),
            Some(there) if there.permissions().readonly() => {
                return Err(OutputError::Io { path, source: ErrorKind::PermissionDenied.into() });
            }
            _ => {}
        }
        Ok(Place::File(resolved, there))
    }

    fn refuse_database(&self, resolved: &Path, there: Option<&Metadata>) -> Result<(), OutputError> {
        let refused = |db: &Path| Err(OutputError::Database { path: self.path.clone(), db: db.to_owned() });
        if let Some(db) = self.protected.as_deref().map(resolve_or_keep)
            && is_part_of(resolved, there, &db)
        {
            return refused(&db);
        }
        match database_of(resolved, there) {
            Some(db) => refused(&db),
            None => Ok(()),
        }
    }
}

/// Refuses the name of a file that belongs to a database, or is one.
///
/// # Errors
/// [`OutputError::Database`].
pub(crate) fn refuse_database_name(path: &Path) -> Result<(), OutputError> {
    let resolved = resolve_or_keep(path);
    match database_of(&resolved, resolved.symlink_metadata().ok().as_ref()) {
        Some(db) if db != resolved => Err(OutputError::Database { path: path.to_owned(), db }),
        _ => Ok(()),
    }
}

/// Whether a path names a handle of this process.
fn is_handle(path: &Path) -> bool {
    ["/dev/stdout", "/dev/stderr", "/dev/fd", "/proc/self/fd"].iter().any(|handle| path.starts_with(handle))
}

/// Whether a file is a database or one of the files beside it, by name or by inode.
fn is_part_of(path: &Path, there: Option<&Metadata>, db: &Path) -> bool {
    let suffixes = [""].into_iter().chain(SQLITE_SUFFIXES).chain(ATRA_SUFFIXES);
    suffixes
        .map(|suffix| beside(db, suffix))
        .any(|part| part == path || there.is_some_and(|there| part.metadata().is_ok_and(|part| is_same(&part, there))))
}

#[cfg(unix)]
fn is_same(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn is_same(_: &Metadata, _: &Metadata) -> bool {
    false
}

/// The SQLite database that a file belongs to, found by the file's content and name.
fn database_of(path: &Path, there: Option<&Metadata>) -> Option<PathBuf> {
    let is_empty = there.is_some_and(|there| there.len() == 0);
    // A new database may have all of its content in its log.
    let is_begun = is_empty && SQLITE_SUFFIXES.iter().chain(&[".lock"]).any(|suffix| beside(path, suffix).exists());
    // Reading from a pipe would wait for ever.
    if is_begun || there.is_some_and(Metadata::is_file) && is_database_file(path) {
        return Some(path.to_owned());
    }
    SQLITE_SUFFIXES.iter().chain(&ATRA_SUFFIXES).find_map(|suffix| {
        let name = path.file_name()?.as_encoded_bytes().strip_suffix(suffix.as_bytes())?;
        // A name that ends in ASCII was cut at it.
        let db = path.with_file_name(std::str::from_utf8(name).map(OsStr::new).ok()?);
        let is_database = !name.is_empty() && db.is_file() && (is_database_file(&db) || beside(&db, "-wal").exists());
        is_database.then_some(db)
    })
}

/// Whether a file begins with the first bytes of a database file.
fn is_database_file(path: &Path) -> bool {
    // Nothing blocks here: it is a regular file.
    let Ok(mut file) = File::open(path) else { return false };
    let mut head = [0; 48];
    let read = file.read(&mut head).unwrap_or(0);
    let head = &head[..read];
    let is_index = head.len() == 48 && head[..4] == INDEX.to_ne_bytes() && head[12] == 1;
    let is_database = head.starts_with(DATABASE) || head.starts_with(&LOG) || head.starts_with(&JOURNAL) || is_index;
    if is_database {
        // Not closed: a process that closes any handle of a database loses SQLite's locks on it.
        std::mem::forget(file);
    }
    is_database
}

// === whole or not at all ===

fn write_whole(path: &Path, there: Option<&Metadata>, bytes: &[u8]) -> io::Result<()> {
    let mut draft = Draft::begin(folder_of(path))?;
    draft.file.write_all(bytes)?;
    if let Some(there) = there {
        draft.file.set_permissions(there.permissions())?;
    }
    draft.file.sync_all()?;
    draft.name(path, there.is_some())?;
    // Where a folder cannot be opened, there is nothing to flush.
    File::open(folder_of(path)).map_or(Ok(()), |folder| folder.sync_all())
}

/// A file that has not got its name; removed when dropped.
struct Draft {
    file: File,
    folder: PathBuf,
    /// Its present name; `None`: it has none, and disappears when the process ends.
    name: Option<PathBuf>,
}

impl Draft {
    fn begin(folder: &Path) -> io::Result<Self> {
        if let Some(file) = nameless(folder) {
            return Ok(Self { file, folder: folder.to_owned(), name: None });
        }
        let (name, file) = with_free_name(folder, |name| OpenOptions::new().write(true).create_new(true).open(name))?;
        Ok(Self { file, folder: folder.to_owned(), name: Some(name) })
    }

    /// Gives it its name.
    fn name(mut self, path: &Path, overwrites: bool) -> io::Result<()> {
        if self.name.is_none() {
            match give_name(&self.file, path) {
                Err(error) if overwrites && error.kind() == ErrorKind::AlreadyExists => {}
                named => return named,
            }
            let folder = self.folder.clone();
            self.name = Some(with_free_name(&folder, |name| give_name(&self.file, name))?.0);
        }
        let Some(name) = &self.name else { return Ok(()) };
        if overwrites { std::fs::rename(name, path) } else { rename_new(name, path) }?;
        self.name = None;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // The earlier error is the one to report.
            let _ = std::fs::remove_file(name);
        }
    }
}

/// Does something with a name that is free in a folder.
fn with_free_name<T>(folder: &Path, work: impl Fn(&Path) -> io::Result<T>) -> io::Result<(PathBuf, T)> {
    // Relaxed: each number is drawn once.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut tries = 0;
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = folder.join(format!(".atra-{}-{n}.tmp", std::process::id()));
        tries += 1;
        match work(&name) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && tries < NAMES_MAX => {}
            done => return done.map(|done| (name, done)),
        }
    }
}

/// A file without a name in a folder; `None` where the system has no such files.
#[cfg(target_os = "linux")]
fn nameless(folder: &Path) -> Option<File> {
    use rustix::fs::{Mode, OFlags};
    // Without it a file cannot get its name later.
    Path::new("/proc/self/fd").exists().then_some(())?;
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::from_raw_mode(0o666)).ok().map(File::from)
}

#[cfg(target_os = "linux")]
fn give_name(file: &File, name: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;

    use rustix::fs::{AtFlags, CWD, linkat};
    Ok(linkat(CWD, format!("/proc/self/fd/{}", file.as_raw_fd()), CWD, name, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(not(target_os = "linux"))]
fn nameless(_: &Path) -> Option<File> {
    None
}

#[cfg(not(target_os = "linux"))]
fn give_name(_: &File, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).expect("read");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_written_once_and_replaced_only_on_request() {
        let folder = folder();
        let path = folder.path().join("a.csv");
        let file = OutputFile::new(&path);
        file.write(b"one").expect("written");
        assert!(matches!(file.write(b"two"), Err(OutputError::Exists { .. })));
        assert_eq!(std::fs::read(&path).expect("read"), b"one");
        file.overwrite(true).write(b"two").expect("replaced");
        assert_eq!(
            (std::fs::read(&path).expect("read"), names(folder.path())),
            (b"two".to_vec(), vec!["a.csv".into()])
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_followed_and_stays() {
        let folder = folder();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        std::os::unix::fs::symlink("target", &link).expect("linked");
        OutputFile::new(&link).write(b"one").expect("written");
        OutputFile::new(&link).overwrite(true).write(b"two").expect("replaced");
        assert!(link.symlink_metadata().expect("there").is_symlink());
        assert_eq!(std::fs::read(target).expect("read"), b"two");
    }

    #[test]
    fn nothing_of_any_database_is_written_over() {
        let folder = folder();
        let db = folder.path().join("a.db");
        std::fs::write(&db, [DATABASE, &[0; 100]].concat()).expect("written");
        for suffix in [""].iter().chain(&SQLITE_SUFFIXES).chain(&ATRA_SUFFIXES) {
            let refused = OutputFile::new(beside(&db, suffix)).overwrite(true).write(b"x");
            assert!(matches!(refused, Err(OutputError::Database { .. })), "{suffix}: {refused:?}");
        }
        #[cfg(unix)]
        for suffix in ["", "-wal"] {
            let link = folder.path().join("link");
            std::os::unix::fs::symlink(beside(&db, suffix), &link).expect("linked");
            let refused = OutputFile::new(&link).overwrite(true).write(b"x");
            assert!(matches!(refused, Err(OutputError::Database { .. })), "link to {suffix:?}: {refused:?}");
            std::fs::remove_file(link).expect("removed");
        }
        let hard = folder.path().join("hard.csv");
        std::fs::hard_link(&db, &hard).expect("linked");
        let refused = OutputFile::new(&hard).overwrite(true).write(b"x");
        assert!(matches!(refused, Err(OutputError::Database { .. })), "{refused:?}");
        // One that does not exist yet, and one that has only its log.
        let planned = folder.path().join("b.db");
        let refused = OutputFile::new(beside(&planned, "-wal")).protect(&planned).write(b"x");
        assert!(matches!(refused, Err(OutputError::Database { .. })), "{refused:?}");
        std::fs::write(&planned, "").expect("written");
        std::fs::write(beside(&planned, "-wal"), "log").expect("written");
        let refused = OutputFile::new(&planned).overwrite(true).write(b"x");
        assert!(matches!(refused, Err(OutputError::Database { .. })), "{refused:?}");
        // A similar name belongs to no database.
        OutputFile::new(folder.path().join("report-wal")).write(b"x").expect("written");
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_gets_the_content_and_stays_a_pipe() {
        let folder = folder();
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from_raw_mode(0o600)).expect("made");
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || std::fs::read(pipe).expect("read")
        });
        OutputFile::new(&pipe).write(b"rows").expect("written");
        assert_eq!(reader.join().expect("joined"), b"rows");
        assert_eq!(names(folder.path()), ["pipe"]);
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing() {
        let folder = folder();
        let missing = folder.path().join("missing/a.csv");
        assert!(matches!(OutputFile::new(missing).write(b"x"), Err(OutputError::Io { .. })));
        assert!(matches!(OutputFile::new(folder.path()).write(b"x"), Err(OutputError::Folder { .. })));
        // The name is taken while the content is written.
        let path = folder.path().join("a.csv");
        let draft = Draft::begin(folder.path()).expect("begun");
        std::fs::write(&path, "another's").expect("written");
        assert_eq!(draft.name(&path, false).expect_err("taken").kind(), ErrorKind::AlreadyExists);
        assert_eq!(names(folder.path()), ["a.csv"]);
    }
}
