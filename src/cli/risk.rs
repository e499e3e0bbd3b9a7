//! `atra risk`: stops the desk and lets it go on, from outside.
//!
//! The words are events in the journal, published as any caller does. They are written into the file of a runtime that is
//! not running – a running one holds it, and the command says so – and are the first thing that the next run hears.
//!
//! They have the time of the newest candle in the journal, or before any run that of the first in the file, as all else in a journal of old candles: by the clock on the wall they would be
//! years younger than everything before them, and `db prune --keep 30d` would keep nothing but them.

use atra::{
    Filter, Read, Runtime, RuntimeBuilder, SqliteOptions, SqliteStore, Timestamp,
    agents::events::{Kill, Resume},
    bus::{Draft, Interest},
};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{args::DbArgs, candles, config_of, error::CliError, look, output::Output};

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
    let Some(db) = look(&config.db).await? else { return Err(CliError::NoDatabase { path: config.db }) };
    let market = Filter::new("market.>").map(|filter| Interest::in_topics(vec![filter])).ok();
    let newest = match market {
        Some(market) => db.journal_tail(&market, 1).await?.first().map(|committed| committed.event.time),
        None => None,
    };
    let newest = match newest {
        None => first_candle(&*db).await?,
        some => some,
    };
    drop(db);
    let mut options = SqliteOptions::new(&config.db);
    options.readers = 1;
    let store = SqliteStore::open(options).await?;
    let runtime = RuntimeBuilder::new(store).level(atra::Level::Power).start().await?;
    let said = say(&runtime, command, newest).await;
    let stopped = runtime.stop(config.runtime.stop_deadline()).await;
    let (what, seq) = said?;
    stopped?;
    if out.is_json() {
        return out.json(&json!({ "said": what, "seq": seq }));
    }
    out.line(&format!("{what} is event {seq} of the journal; the next 'atra run' hears it first"))
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

async fn say(runtime: &Runtime, command: RiskCommand, at: Option<Timestamp>) -> Result<(&'static str, u64), CliError> {
    let (what, draft) = match command {
        RiskCommand::Kill(args) => ("risk.kill", Draft::from(Kill { reason: args.reason })),
        RiskCommand::Resume(args) => ("risk.resume", Draft::from(Resume { reason: args.reason })),
    };
    let draft = at.map_or(draft.clone(), |at| draft.at(at));
    Ok((what, runtime.publish(draft).await?.seq.get()))
}
