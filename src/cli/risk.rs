//! `atra risk`: stops the desk and lets it go on, from outside.
//!
//! The words are events in the journal, published as any caller does. A running desk hears them at once, by way of
//! [`words`]; into the file of one that is not running they are written here, and are the first thing that the next run
//! hears. Either way the command ends when the word is on the disk.

use atra::{RuntimeBuilder, SqliteOptions, SqliteStore, storage::StoreError};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    args::DbArgs,
    config_of,
    error::CliError,
    look,
    output::{Output, shown},
    words::{Say, Word, newest},
};

#[derive(Debug, Subcommand)]
pub(crate) enum RiskCommand {
    /// Stops all trading: nothing is traded, not even closed, until 'atra risk resume'.
    Kill(RiskArgs),
    /// Lets the desk trade again.
    Resume(RiskArgs),
    /// Keeps the parameters that are in force: the optimizer promotes none, until 'atra risk thaw'.
    Freeze(DbArgs),
    /// Lets the optimizer promote parameters again.
    Thaw(DbArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RiskArgs {
    /// Why, for the journal.
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    db: DbArgs,
}

/// Journals the word, or has the runtime do it.
pub(crate) async fn risk(command: RiskCommand, out: &mut Output) -> Result<(), CliError> {
    let (say, args) = match command {
        RiskCommand::Kill(args) => (Say::Kill, args),
        RiskCommand::Resume(args) => (Say::Resume, args),
        // These events have no reason.
        RiskCommand::Freeze(db) => (Say::Freeze, RiskArgs { reason: String::new(), db }),
        RiskCommand::Thaw(db) => (Say::Thaw, RiskArgs { reason: String::new(), db }),
    };
    let config = config_of(&args.db)?;
    let Some(db) = look(&config.db).await? else { return Err(CliError::NoDatabase { path: config.db }) };
    let word = Word::new(say, args.reason);
    let mut options = SqliteOptions::new(&config.db);
    options.readers = 1;
    let (seq, who) = match SqliteStore::open(options).await {
        Ok(store) => {
            let runtime = RuntimeBuilder::new(store).level(atra::Level::Power).start().await?;
            let said = word.journal(&runtime).await;
            let stopped = runtime.stop(config.runtime.stop_deadline()).await;
            let seq = said?;
            stopped?;
            (Some(seq), "the next 'atra run' hears it first")
        }
        Err(StoreError::InUse { .. }) => {
            word.say_to_runtime(&config.db).await?;
            (newest(&*db, say.topic()).await?.map(|(seq, _)| seq), "the running desk has heard it")
        }
        Err(error) => return Err(error.into()),
    };
    let what = say.topic();
    if out.is_json() {
        return out.json(
            &json!({ "db": shown(&config.db), "topic": what, "seq": seq, "running": who.starts_with("the running") }),
        );
    }
    let seq = seq.map_or_else(|| "an event".into(), |seq| format!("event {seq}"));
    out.line(&format!("{what} is {seq} of the journal; {who}"))
}
