//! What a person sees when a command cannot do what it was asked: what is wrong, where, and what to do next.

use std::{error::Error, fmt::Write as _, io, path::PathBuf, process::ExitCode};

use serde_json::{Value, json};

use atra::{
    NameError,
    agents::{
        DeskError,
        market::{
            block::BlockError,
            candle::KeyError,
            import::{ImportError, RefusedRow},
        },
    },
    config::ConfigError,
    runtime::{RuntimeError, StartError},
    storage::{OutputError, StoreError},
};

use super::{escape::escaped, files, hint, status};

/// The exit code of a failure.
const FAILURE: u8 = 1;
/// The exit code of a command line or configuration that says what cannot be meant; clap uses it too.
pub(crate) const USAGE: u8 = 2;
/// The exit code of a command that a signal ended before its work was done. Shells use the same code for Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// Flags that do not go together, or a value that is none.
    #[error("{what}")]
    Usage { what: String, next: &'static str },
    /// An invalid command line; the text has the usage.
    #[error("{text}")]
    CommandLine { text: String },
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A ticker, an interval or a series.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The name of an agent or caller.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A signal ended the command before its work was done.
    #[error("interrupted by a signal; {what}")]
    Interrupted { what: &'static str },
    /// There is no database where a command wants to read one.
    #[error("there is no database {}", path.display())]
    NoDatabase { path: PathBuf },
    /// A word for a runtime that nobody listened to; it was taken back.
    #[error("the runtime on {} did not respond; the command was not delivered", path.display())]
    NotHeard { path: PathBuf },
    /// A word that a runtime has heard, and cannot journal.
    #[error("the runtime on {} received the command but has not journalled it yet", path.display())]
    NotJournalled { path: PathBuf },
    /// A database that is to be written to cannot be.
    #[error("database {} cannot be written", path.display())]
    NotWritable { path: PathBuf, source: io::Error },
    /// The desk's settings do not fit its candles.
    #[error("desk could not be set up")]
    Desk(#[from] DeskError),
    /// The runtime did not start.
    #[error("runtime could not be started")]
    Start(#[from] StartError),
    /// The runtime refused or failed.
    #[error("runtime failed")]
    Runtime(#[from] RuntimeError),
    /// A simulation that could not be set up.
    #[error("simulation could not be run")]
    Case(#[from] atra::simulation::CaseError),
    /// A command that did its work, and what it found is bad.
    #[error("{what}")]
    Verdict { what: String, next: String, code: u8 },
    /// A file cannot be read.
    #[error("{} could not be read", path.display())]
    File { path: PathBuf, source: io::Error },
    /// A file that was asked for cannot be written.
    #[error("{} could not be written", path.display())]
    Unwritten { path: PathBuf, source: io::Error },
    /// A file that was asked for was not written.
    #[error(transparent)]
    OutputFile(#[from] OutputError),
    /// A folder cannot be made.
    #[error("folder {} could not be made", path.display())]
    Folder { path: PathBuf, source: io::Error },
    /// A file is no candles.
    #[error("{} could not be imported; nothing was changed", path.display())]
    Import { path: PathBuf, source: ImportError },
    /// A file has rows, and none of them is a candle.
    #[error(
        "{}: no row could be read ({n_rows} rows; the first, line {}: {}); nothing was changed",
        path.display(), first.line, first.reason
    )]
    NoRow { path: PathBuf, n_rows: usize, first: RefusedRow },
    /// Some of many files were not imported, each told by itself.
    #[error("{failed} of {n_files} files were not imported; the others are")]
    SomeFiles { failed: usize, n_files: usize },
    /// Candles in the database cannot be read or written.
    #[error("candles of {series}, block {start}")]
    Block { series: String, start: i64, source: BlockError },
    /// What was asked for is not there.
    #[error("{what}")]
    NotFound { what: String, next: String },
    /// A team ended though nobody told it to.
    #[error("team {team} ended: {reason}")]
    TeamEnded { team: String, reason: String, next: String },
    /// A file is not sound.
    #[error("{} is damaged: {n_problems} problems", path.display())]
    Damaged { path: PathBuf, n_problems: usize },
    /// The process lacks what it needs to begin.
    #[error("{what} could not be started")]
    Process { what: &'static str, source: io::Error },
    /// Standard output could not be written.
    #[error("output could not be written")]
    Output(#[source] io::Error),
}

impl CliError {
    /// What the process ends with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage { .. } | Self::CommandLine { .. } | Self::Config(_) | Self::Key(_) | Self::Name(_) => {
                USAGE.into()
            }
            // A setting that cannot be meant, unlike a series that is not there.
            Self::Desk(error) if !is_of_data(error) => USAGE.into(),
            Self::Verdict { code, .. } => (*code).into(),
            Self::Interrupted { .. } => INTERRUPTED.into(),
            // The reader has what it wanted.
            _ if self.is_broken_pipe() => ExitCode::SUCCESS,
            _ => FAILURE.into(),
        }
    }

    /// Whether the reader of our output went away.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// What went wrong, for a program: stable, unlike the text.
    fn kind(&self) -> &'static str {
        match self {
            Self::Usage { .. } | Self::CommandLine { .. } | Self::Key(_) | Self::Name(_) => "usage",
            Self::Config(_) => "config",
            Self::Desk(error) if !is_of_data(error) => "config",
            Self::NoDatabase { .. } => "no_database",
            Self::NotFound { .. } | Self::Desk(_) => "not_found",
            Self::Store(error) => store_kind(error),
            Self::NotHeard { .. } | Self::NotJournalled { .. } => "no_answer",
            Self::Start(_) | Self::Runtime(_) => "runtime",
            Self::TeamEnded { .. } => "team_ended",
            Self::Case(_) => "simulation",
            Self::Verdict { .. } => "verdict",
            Self::Interrupted { .. } => "interrupted",
            Self::Import { .. } | Self::NoRow { .. } | Self::SomeFiles { .. } => "import",
            Self::Block { .. } | Self::Damaged { .. } => "damaged",
            Self::File { .. }
            | Self::Unwritten { .. }
            | Self::NotWritable { .. }
            | Self::Folder { .. }
            | Self::OutputFile(OutputError::Io { .. })
            | Self::Output(_) => "io",
            Self::OutputFile(_) => "output",
            Self::Process { .. } => "process",
        }
    }

    /// The hint for an error of the operating system. It has priority over the command's own hint.
    fn cause_hint(&self) -> Option<String> {
        match self {
            Self::File { path, source }
            | Self::Unwritten { path, source }
            | Self::NotWritable { path, source }
            | Self::Folder { path, source }
            | Self::OutputFile(OutputError::Io { path, source }) => hint::of_io(source, path),
            Self::Config(ConfigError::Unreadable { path, source }) => hint::of_io(source, path),
            Self::Process { source, .. } | Self::Output(source) => hint::of_io(source, std::path::Path::new(".")),
            Self::NoDatabase { path } => hint::of_missing(path),
            Self::NotHeard { path } => {
                let process = status::owner_process(path).filter(|process| hint::is_suspended(*process));
                process.map(hint::of_suspended)
            }
            Self::Store(StoreError::Fatal { path, cause }) if cause.contains("unable to open") => {
                let path = std::path::Path::new(path);
                hint::probe(path).err().and_then(|error| hint::of_io(&error, path))
            }
            _ => None,
        }
    }

    /// What to do about it, unless the text says it already.
    fn next(&self) -> Option<String> {
        if let Some(hint) = self.cause_hint() {
            return Some(hint);
        }
        let next = match self {
            Self::Usage { next, .. } => (*next).into(),
            Self::Config(ConfigError::Settings(_) | ConfigError::Invalid { .. }) => {
                "correct it in the file, in the environment (ATRA_<SECTION>_<KEY>) or in the flag, and try 'atra config check'"
                    .into()
            }
            Self::NoDatabase { .. } => {
                "start one with 'atra run', import with 'atra import candles', or say where it is with --db FILE".into()
            }
            Self::NotHeard { .. } => {
                "only 'atra run' listens: publish the event inside the program that has the file, or stop it first".into()
            }
            Self::NotJournalled { .. } => "see 'atra status' and its disk; it is journalled as soon as that is possible".into(),
            Self::NotFound { next, .. } | Self::Verdict { next, .. } => next.clone(),
            Self::Desk(error) if !is_of_data(error) => {
                "correct it under [desk] of the configuration or in ATRA_DESK_…; 'atra config show' prints what is in force"
                    .into()
            }
            Self::File { .. } => "check the name and your rights to it".into(),
            Self::OutputFile(error) => return files::next_of(error),
            Self::Unwritten { .. } => "check that its folder is there, and your rights to it".into(),
            Self::NotWritable { .. } => "make the file and its folder writable, or use another --db FILE".into(),
            Self::Folder { .. } => "check your rights to the folder above it, or use another --db FILE".into(),
            Self::Import { source: ImportError::TooManyRefused { .. }, .. } => {
                "fix the file, or raise --refused-max; each row that was refused is listed with --dry-run".into()
            }
            Self::Import { source: ImportError::Interval { .. }, .. } => {
                "give the interval of the rows with --interval".into()
            }
            Self::Import { source: ImportError::Gaps { .. } | ImportError::TooManyMissing { .. }, .. } => {
                "leave the gaps with --gaps keep, or get a file without them".into()
            }
            Self::Import { source: ImportError::DateOrder { .. }, .. } => {
                "say which comes first with --time-unit day-first or month-first; other rows are refused then".into()
            }
            Self::Import { source: ImportError::Symbols { .. }, .. } => "make a file of each, and import them all".into(),
            // They say it.
            Self::Import { source: ImportError::Archive { .. } | ImportError::Foreign { .. }, .. } => return None,
            Self::Import {
                source: ImportError::TooLarge { .. } | ImportError::TooLargeToHold { .. } | ImportError::Ratio { .. },
                ..
            } => "check the file; to import it anyway, raise --max-size above its unpacked size, or import it in parts"
                .into(),
            Self::Import { source: ImportError::TooManyCandles { .. }, .. } => {
                "split the file, for example by year, and import its parts one after another".into()
            }
            Self::Import { source: ImportError::MissingColumn { missing, .. }, .. } => {
                let role = missing.split(',').next().unwrap_or_default();
                format!("say which column is what: --map {role}=NAME, or its number from 1")
            }
            Self::Import { source: ImportError::NoColumn { .. }, .. } => {
                "name a column of the file in --map, or its number from 1".into()
            }
            Self::Import { source: ImportError::Packed { .. } | ImportError::Damaged { .. }, .. } => {
                "get the file again: it is incomplete or damaged".into()
            }
            Self::Import { .. } | Self::NoRow { .. } => {
                "look at the file's first lines: time, open, high, low, close, volume are needed".into()
            }
            Self::SomeFiles { .. } => "fix them and import again; candles that are already stored do not change".into(),
            Self::Block { .. } | Self::Damaged { .. } => {
                "keep the file, and put a backup in its place with 'atra db restore'; without one, import into a new --db FILE".into()
            }
            Self::TeamEnded { next, .. } => next.clone(),
            Self::Store(StoreError::Pruned { floor, .. }) => format!("use --after {floor}, or a backup from before"),
            Self::Runtime(RuntimeError::Deadline(_)) => "nothing acknowledged is lost: start it again".into(),
            _ => return None,
        };
        Some(next)
    }

    /// The error with its causes, once each.
    fn message(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(cause) = source {
            let said = cause.to_string();
            // Some errors repeat their cause in their own text.
            if !text.contains(&said) {
                let _ = write!(text, ": {said}");
            }
            source = cause.source();
        }
        text
    }

    /// The whole message: the error, its causes once each, and what to do next. Each is a line.
    pub(crate) fn text(&self) -> String {
        if let Self::CommandLine { text } = self {
            return format!("error: {text}");
        }
        // Text from data, such as a file name, must not begin a new line.
        let message = escaped(&self.message()).into_owned();
        match self.next() {
            Some(next) => format!("error: {message}\n next: {}", escaped(&next)),
            None => format!("error: {message}"),
        }
    }

    /// The same for a program.
    pub(crate) fn to_json(&self) -> Value {
        let (message, usage) = match self {
            Self::CommandLine { text } => match text.split_once("\n\n") {
                Some((message, usage)) => (message.trim().to_owned(), Some(usage.trim().to_owned())),
                None => (text.clone(), None),
            },
            _ => (self.message(), self.next()),
        };
        json!({ "kind": self.kind(), "message": message, "hint": usage })
    }
}

/// What is wrong with a database, for a program.
fn store_kind(error: &StoreError) -> &'static str {
    match error {
        StoreError::InUse { .. } => "in_use",
        StoreError::Newer { .. } => "newer",
        StoreError::Full(_) => "disk_full",
        StoreError::Busy(_) => "busy",
        StoreError::Pruned { .. } => "pruned",
        StoreError::UnknownTeam(_) => "not_found",
        StoreError::Settings(_) => "config",
        _ => "database",
    }
}

/// Whether the desk lacks data, rather than having settings that make no sense.
fn is_of_data(error: &DeskError) -> bool {
    matches!(error, DeskError::UnknownSeries { .. } | DeskError::NoSeries | DeskError::Store(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_causes_once_and_what_to_do() {
        let source = io::Error::new(io::ErrorKind::NotFound, "no such file");
        let text = CliError::File { path: "a.csv".into(), source }.text();
        assert_eq!(text, "error: a.csv could not be read: no such file\n next: check the name and its folder");
    }

    #[test]
    fn usage_is_two_and_a_reader_that_left_is_no_failure() {
        let usage = CliError::Usage { what: "x".into(), next: "y" };
        assert_eq!(format!("{:?}", usage.exit_code()), format!("{:?}", ExitCode::from(2)));
        let pipe = CliError::Output(io::ErrorKind::BrokenPipe.into());
        assert_eq!(format!("{:?}", pipe.exit_code()), format!("{:?}", ExitCode::SUCCESS));
        let full = CliError::Output(io::ErrorKind::StorageFull.into());
        assert_eq!(format!("{:?}", full.exit_code()), format!("{:?}", ExitCode::from(1)));
    }
}
