//! `atra risk`: stops the desk and lets it go on, from outside.
//!
//! The words are events in the journal, published as any caller does. They are written into the file of a runtime that is
//! not running – a running one holds it, and the command says so – and are the first thing that the next run hears.

use atra::{
    Runtime, RuntimeBuilder, SqliteOptions, SqliteStore,
    agents::events::{Kill, Resume},
};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{args::DbArgs, config_of, error::CliError, look, output::Output};

#[derive(Debug, Subcommand)]
pub(crate) enum RiskCommand {
    /// Stops all trading: from the next run on nothing is traded, until 'atra risk resume'.
    Kill(RiskArgs),
    /// Lets the desk trade again.
    Resume(RiskArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RiskArgs {
    /// Why, for the journal.
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    db: DbArgs,
}

/// Journals the word.
pub(crate) async fn risk(command: RiskCommand, out: &mut Output) -> Result<(), CliError> {
    let (RiskCommand::Kill(args) | RiskCommand::Resume(args)) = &command;
    let config = config_of(&args.db)?;
    if look(&config.db).await?.is_none() {
        return Err(CliError::NoDatabase { path: config.db });
    }
    let mut options = SqliteOptions::new(&config.db);
    options.readers = 1;
    let store = SqliteStore::open(options).await?;
    let runtime = RuntimeBuilder::new(store).level(atra::Level::Power).start().await?;
    let said = say(&runtime, &command).await;
    let stopped = runtime.stop(config.runtime.stop_deadline()).await;
    let (what, seq) = said?;
    stopped?;
    if out.is_json() {
        return out.json(&json!({ "said": what, "seq": seq }));
    }
    out.line(&format!("{what} is event {seq} of the journal; the next 'atra run' hears it first"))
}

async fn say(runtime: &Runtime, command: &RiskCommand) -> Result<(&'static str, u64), CliError> {
    let (what, published) = match command {
        RiskCommand::Kill(args) => ("risk.kill", runtime.publish(Kill { reason: args.reason.clone() }).await?),
        RiskCommand::Resume(args) => ("risk.resume", runtime.publish(Resume { reason: args.reason.clone() }).await?),
    };
    Ok((what, published.seq.get()))
}
