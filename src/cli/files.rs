//! Files that the command line writes for a user: see [`OutputFile`] for what is promised.

use std::path::{Path, PathBuf};

use atra::storage::{OutputError, OutputFile};
use clap::Args;

use super::error::CliError;

/// Whether files that exist are replaced.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct ForceArgs {
    /// Replace output files that exist. Files of a database are never replaced.
    #[arg(long)]
    pub(crate) force: bool,
}

/// How the files of one command are written.
#[derive(Debug, Clone)]
pub(crate) struct Outputs {
    force: bool,
    /// The database that the command reads.
    db: Option<PathBuf>,
}

impl Outputs {
    pub(crate) fn new(force: ForceArgs, db: Option<PathBuf>) -> Self {
        Self { force: force.force, db }
    }

    /// Refuses files that could not be written, before the work for them is done.
    pub(crate) fn check(&self, paths: impl IntoIterator<Item = impl AsRef<Path>>) -> Result<(), CliError> {
        paths.into_iter().try_for_each(|path| Ok(self.file(path.as_ref()).check()?))
    }

    /// Writes a file, whole or not at all.
    pub(crate) fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), CliError> {
        Ok(self.file(path).write(bytes)?)
    }

    fn file(&self, path: &Path) -> OutputFile {
        let file = OutputFile::new(path).overwrite(self.force);
        match &self.db {
            Some(db) => file.protect(db),
            None => file,
        }
    }
}

/// What to do about a file that was not written.
pub(crate) fn next_of(error: &OutputError) -> Option<String> {
    let next = match error {
        OutputError::Exists { .. } => "use --force to replace it, or name another file",
        OutputError::Database { .. } => "name another file: a database is never overwritten",
        OutputError::Folder { .. } => "name a file in it",
        OutputError::Io { .. } => "check that its folder is there, and your rights to it",
        _ => return None,
    };
    Some(next.into())
}
