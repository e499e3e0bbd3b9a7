//! Words of a person to the desk: kill, resume, freeze, thaw; and how they reach a runtime that has the file.
//!
//! One process has a file at a time, so whoever wants to say something to it puts a word beside it, and the runtime journals
//! it. It is a file named after the database, and where it stands says whose turn it is:
//!
//! | file | what has happened | next |
//! |---|---|---|
//! | `a.db.word` | somebody has said it; it appears whole, and one at a time | the runtime renames it; or whoever said it takes it back |
//! | `a.db.word.heard` | the runtime has it, and journals it under the word's own key | once it is on the disk, the runtime removes it |
//! | neither | it is in the journal | |
//!
//! A runtime that dies in between leaves the file, and the next one journals it, once: the key is the same. Nothing here
//! holds up a desk: it is looked for beside the work.

use std::{
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use atra::{
    Env, Filter, Level, Name, Read, Runtime, SystemEnv, Timestamp,
    agents::events::{Freeze, Kill, Resume},
    bus::{Draft, Interest},
    storage::{StoreError, create_beside, read_beside, rename_new, resolve},
};
use serde::{Deserialize, Serialize};
use tokio::{fs, time::Instant};

use super::{candles, error::CliError};

/// How often a runtime looks for a word, and whoever said it for its end. 100 ms: a person takes that for at once.
const EVERY: Duration = Duration::from_millis(100);
/// How long a word waits to be heard. 5 s: a runtime that listens does so fifty times in it.
const HEARD_MAX: Duration = Duration::from_secs(5);
/// How long one that was heard may take to the disk. 30 s: as long as a stop.
const JOURNALLED_MAX: Duration = Duration::from_secs(30);

/// The largest command file. 64 KiB: a reason is a sentence.
const COMMAND_BYTES_MAX: u64 = 64 << 10;
/// Under which name the command line publishes.
const CALLER: &str = "cli";

/// What can be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Say {
    Kill,
    Resume,
    Freeze,
    Thaw,
}

impl Say {
    /// The topic that it is journalled on.
    pub(crate) fn topic(self) -> &'static str {
        match self {
            Self::Kill => "risk.kill",
            Self::Resume => "risk.resume",
            Self::Freeze | Self::Thaw => "optimizer.freeze",
        }
    }
}

/// Something said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Word {
    say: Say,
    reason: String,
    /// Its idempotency key.
    key: String,
}

impl Word {
    pub(crate) fn new(say: Say, reason: String) -> Self {
        let key = format!("word {} {}", SystemEnv::new().now().millis(), std::process::id());
        Self { say, reason, key }
    }

    fn draft(&self) -> Draft {
        let reason = self.reason.clone();
        match self.say {
            Say::Kill => Kill { reason }.into(),
            Say::Resume => Resume { reason }.into(),
            Say::Freeze => Freeze { frozen: true }.into(),
            Say::Thaw => Freeze { frozen: false }.into(),
        }
    }

    /// Journals it and gives its seq; a second time gives the first one's.
    ///
    /// It has the time of the newest candle in the journal, or before any run that of the first in the file, as all else in a journal of
    /// old candles: by the clock on the wall it would be years younger than everything before it, and `db prune --keep 30d`
    /// would keep nothing but it.
    ///
    /// Cancel safe: a word that was sent is journalled or not, and may be sent again.
    pub(crate) async fn journal(&self, runtime: &Runtime) -> Result<u64, CliError> {
        let db = runtime.reader();
        let at = match newest(&*db, "market.>").await? {
            Some((_, time)) => Some(time),
            None => first_candle(&*db).await?,
        };
        let draft = at.map_or_else(|| self.draft(), |at| self.draft().at(at));
        // Recorded as the caller that halts the desk.
        let call = runtime.publish(draft).from(Name::new(CALLER)?).key(&self.key).level(Level::Power);
        Ok(call.await?.seq.get())
    }

    /// Says it to the runtime that has the file, and waits until it is journalled.
    ///
    /// # Errors
    /// [`CliError::NotHeard`] if nobody listens: the word is taken back then, and nothing has changed.
    ///
    /// Not cancel safe: what was said may be heard, or wait for the next run.
    pub(crate) async fn say_to_runtime(&self, db: &Path) -> Result<(), CliError> {
        let failed = |source| CliError::Unwritten { path: said(db), source };
        let db = &resolve(db).map_err(failed)?;
        let (word, heard) = (said(db), heard(db));
        let draft = beside(db, &format!(".word.{}", std::process::id()));
        let text = serde_json::to_string(self).map_err(io::Error::from).map_err(failed)?;
        write_new(&draft, db, &text).map_err(failed)?;
        let begun = Instant::now();
        let put = loop {
            // A rename is atomic, and fails while another command waits.
            match rename_new(&draft, &word) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                put => break put.map_err(failed),
            }
            if begun.elapsed() > HEARD_MAX {
                break Err(CliError::NotHeard { path: db.clone() });
            }
            tokio::time::sleep(EVERY).await;
        };
        if put.is_err() {
            // The error is the one to report.
            let _ = fs::remove_file(&draft).await;
        }
        put?;
        while is_there(&word).await || is_there(&heard).await {
            let waited = begun.elapsed();
            // Whoever takes it away first has it.
            if waited > HEARD_MAX && fs::remove_file(&word).await.is_ok() {
                return Err(CliError::NotHeard { path: db.into() });
            }
            if waited > JOURNALLED_MAX {
                return Err(CliError::NotJournalled { path: db.into() });
            }
            tokio::time::sleep(EVERY).await;
        }
        Ok(())
    }
}

/// Listens for words beside `db` and journals them, until it is dropped.
///
/// Cancel safe: a word that was heard and is not journalled yet is journalled by the next run.
pub(crate) async fn listen(runtime: &Runtime, db: &Path) {
    // Resolved once: a link that is changed later does not lead to another database's commands.
    let db = &resolve(db).unwrap_or_else(|_| db.to_owned());
    let mut was_told = false;
    loop {
        match hear(runtime, db).await {
            Ok(()) => was_told = false,
            // A full disk, most likely: it is tried again, and told once.
            Err(error) if !was_told => {
                tracing::warn!(error = %error.text(), "a word was heard and could not be journalled yet");
                was_told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn hear(runtime: &Runtime, db: &Path) -> Result<(), CliError> {
    let (said, heard) = (said(db), heard(db));
    let failed = |path: &Path, source| CliError::File { path: path.into(), source };
    // One that a runtime before this one has heard goes first.
    if !is_there(&heard).await {
        if !is_there(&said).await {
            return Ok(());
        }
        // Checked before it is taken: a file that is not a trusted user's command is left in place.
        read_command(&said, db).map_err(|source| failed(&said, source))?;
        match fs::rename(&said, &heard).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(|source| failed(&said, source))?,
        }
    }
    let text = read_command(&heard, db).map_err(|source| failed(&heard, source))?;
    match serde_json::from_str::<Word>(&text) {
        Ok(word) => drop(word.journal(runtime).await?),
        // Nothing that this build says; it would be in the way for ever.
        Err(error) => tracing::warn!(error = %error, "the command file has no command that this version supports"),
    }
    fs::remove_file(&heard).await.map_err(|source| failed(&heard, source))
}

/// Reads a command file: a regular file of a trusted user, of bounded size. Never blocks.
fn read_command(path: &Path, db: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = read_beside(path, db)?.take(COMMAND_BYTES_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > COMMAND_BYTES_MAX {
        return Err(io::Error::other(format!("it is larger than a command may be ({COMMAND_BYTES_MAX} bytes)")));
    }
    Ok(text)
}

/// Writes a new file that only the owner of the database can read.
fn write_new(path: &Path, db: &Path, text: &str) -> io::Result<()> {
    // Left by a process of the same number that was killed.
    let _ = std::fs::remove_file(path);
    create_beside(path, db)?.write_all(text.as_bytes())
}

/// Seq and time of the newest event on topics that suit `filter`.
pub(crate) async fn newest(db: &dyn Read, filter: &str) -> Result<Option<(u64, Timestamp)>, StoreError> {
    let Ok(filter) = Filter::new(filter) else { return Ok(None) };
    let events = db.journal_tail(&Interest::in_topics(vec![filter]), 1).await?;
    Ok(events.first().map(|committed| (committed.seq.get(), committed.event.time)))
}

/// When the first candle of the file opens.
async fn first_candle(db: &dyn Read) -> Result<Option<Timestamp>, CliError> {
    let mut first: Option<i64> = None;
    for series in candles::series(db).await? {
        let span = candles::span(db, &series).await?;
        first = first.into_iter().chain(span.map(|(first, _)| first)).min();
    }
    Ok(first.map(Timestamp))
}

async fn is_there(path: &Path) -> bool {
    fs::try_exists(path).await.unwrap_or(false)
}

fn said(db: &Path) -> PathBuf {
    beside(db, ".word")
}

fn heard(db: &Path) -> PathBuf {
    beside(db, ".word.heard")
}

fn beside(db: &Path, end: &str) -> PathBuf {
    let mut name = db.file_name().unwrap_or_default().to_owned();
    name.push(end);
    db.with_file_name(name)
}
