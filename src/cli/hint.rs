//! What to do about an error of the operating system: one place for every command, by cause and not by command.

use std::{fs::File, io, path::Path};

/// Handles that a command needs at once on a database, with its log and index. 8: twice what SQLite opens.
const HANDLES: usize = 8;

// Numbers of <errno.h> that `ErrorKind` has no name for; the same on Linux and the BSDs.
const EIO: i32 = 5;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

/// The hint for an error on `path`; `None` if the error needs no hint.
pub(crate) fn of_io(error: &io::Error, path: &Path) -> Option<String> {
    match error.raw_os_error() {
        Some(EMFILE) => {
            return Some(format!("the limit of open files is reached ({}): raise it with ulimit -n", limit()));
        }
        Some(ENFILE) => return Some("the system's limit of open files is reached: close other programs".into()),
        Some(EIO) => return Some("the disk reports an error: look at the system's log, and restore a backup".into()),
        _ => {}
    }
    let hint = match error.kind() {
        io::ErrorKind::NotFound if has_no_working_directory() => WORKING_DIRECTORY.into(),
        io::ErrorKind::NotFound => "check the name and its folder".into(),
        io::ErrorKind::PermissionDenied => denied(path),
        io::ErrorKind::StorageFull => "the disk is full: free some space, or use another disk".into(),
        io::ErrorKind::QuotaExceeded => "the quota is used up: free some space, or have it raised".into(),
        io::ErrorKind::FileTooLarge => "the limit of a file's size is reached: raise it with ulimit -f".into(),
        io::ErrorKind::ReadOnlyFilesystem => {
            "the file system is mounted read-only: use another folder, or have it mounted writable".into()
        }
        io::ErrorKind::IsADirectory => "name a file in the folder".into(),
        io::ErrorKind::NotADirectory => "a part of the path is a file and no folder: check the path".into(),
        io::ErrorKind::AlreadyExists => "name another file".into(),
        _ => return None,
    };
    Some(hint)
}

const WORKING_DIRECTORY: &str = "the working directory was deleted: change to a folder that exists";

/// Whether the working directory was deleted, so that relative paths cannot be resolved.
pub(crate) fn has_no_working_directory() -> bool {
    std::env::current_dir().is_err()
}

/// The hint for a missing path, in addition to the command's own.
pub(crate) fn of_missing(path: &Path) -> Option<String> {
    (path.is_relative() && has_no_working_directory()).then(|| WORKING_DIRECTORY.into())
}

/// Why a file that SQLite cannot open cannot be opened: SQLite has one code for all causes.
///
/// # Errors
/// The first error of the system that stands in the way of a reader.
pub(crate) fn probe(path: &Path) -> io::Result<()> {
    // Opens as many handles as are needed; otherwise the limit of open files would cause another error later.
    let handles: Vec<File> = (0..HANDLES).map(|_| File::open(path)).collect::<io::Result<_>>()?;
    drop(handles);
    Ok(())
}

/// Compares the file's mode and owner with the current user.
fn denied(path: &Path) -> String {
    #[cfg(unix)]
    if let Ok(file) = path.metadata() {
        use std::os::unix::fs::MetadataExt as _;
        let (mode, owner, own) = (file.mode() & 0o7777, file.uid(), rustix::process::geteuid().as_raw());
        let what = if file.is_dir() { "the folder" } else { "it" };
        return match owner == own {
            true => format!("{what} has mode {mode:04o}: give yourself the right with chmod u+rw"),
            false => format!(
                "{what} has mode {mode:04o} and belongs to user {owner}, you are user {own}: run as its owner, or have its \
                 mode changed"
            ),
        };
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    format!("you may not enter folder {}: run as its owner, or have its mode changed", folder.display())
}

/// The limit of open files, for a person.
fn limit() -> String {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_whitespace().next()).map_or_else(|| "unknown".into(), str::to_owned)
}

/// Whether a process was stopped by SIGSTOP, Ctrl-Z or a debugger; known on Linux.
pub(crate) fn is_suspended(process: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name stands in parentheses and may hold any character.
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    matches!(state, Some('T' | 't'))
}

/// What to do about a process that was stopped.
pub(crate) fn of_suspended(process: u64) -> String {
    format!("process {process} is suspended (SIGSTOP or Ctrl-Z): continue it with kill -CONT {process}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of Linux: EACCES, EMFILE, ENFILE, ENOSPC, EROFS, EDQUOT, EFBIG, EIO, ENOENT, EISDIR, ENOTDIR.
    #[cfg(target_os = "linux")]
    #[test]
    fn each_cause_has_its_own_hint() {
        let hints: std::collections::BTreeSet<String> = [13, 24, 23, 28, 30, 122, 27, 5, 2, 21, 20]
            .map(|number| of_io(&io::Error::from_raw_os_error(number), Path::new("/dev/null")).expect("a hint"))
            .into();
        assert_eq!(hints.len(), 11, "{hints:#?}");
        let hint = |number| of_io(&io::Error::from_raw_os_error(number), Path::new("/dev/null")).expect("a hint");
        assert!(hint(24).contains("ulimit -n") && hint(28).contains("disk is full") && hint(30).contains("read-only"));
        assert!(hint(13).contains("has mode 0"), "{}", hint(13));
        assert!(!is_suspended(u64::from(std::process::id())));
    }
}
