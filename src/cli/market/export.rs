//! `atra export`: candles of a database, and trades, equity and signals of its journal, as CSV, JSON lines or Parquet.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
};

use atra::{
    Filter, Read,
    agents::{
        events::{DailyEquity, PositionChanged, TargetChanged, TargetReason},
        market::{
            candle::{Scale, SeriesKey},
            money::Terms,
            table::{Column, Table},
        },
    },
    bus::{EventType, Interest, Seq},
    storage::StoreError,
};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::{SeriesArgs, parameters, usage};
use crate::cli::{
    args::{DbArgs, after},
    candles, config_of, db_of,
    error::CliError,
    events::EventRef,
    files::{ForceArgs, Outputs},
    open,
    output::{Output, shown},
    stderr,
};

/// Events read at once.
const PAGE_EVENTS: usize = 8_192;

#[derive(Debug, Subcommand)]
pub(crate) enum ExportCommand {
    /// Candles as they were imported; importing them again changes nothing.
    Candles {
        #[command(flatten)]
        series: SeriesArgs,
        #[command(flatten)]
        to: ToArgs,
    },
    /// Closed trades of the runs in the journal.
    Trades {
        #[command(flatten)]
        from: JournalArgs,
        #[command(flatten)]
        to: ToArgs,
    },
    /// The equity of the account, once a day and after each fill.
    Equity {
        #[command(flatten)]
        from: JournalArgs,
        #[command(flatten)]
        to: ToArgs,
    },
    /// Targets as they were decided, with strategy, version and reason.
    Signals {
        #[command(flatten)]
        from: JournalArgs,
        #[command(flatten)]
        to: ToArgs,
    },
}

/// Which part of a journal.
#[derive(Debug, Clone, Args)]
pub(crate) struct JournalArgs {
    #[command(flatten)]
    db: DbArgs,
    /// Exports events after this one only. Without it, everything that was not pruned.
    #[arg(long, value_name = "EVENT", value_parser = after)]
    after: Option<EventRef>,
}

/// The part of a journal that a table has.
struct Part {
    /// Events after this one.
    after: Seq,
    /// The last pruned event, if pruning is the reason.
    pruned: Option<Seq>,
}

impl Part {
    /// For a person.
    fn note(&self) -> Option<String> {
        let pruned = self.pruned?;
        Some(format!("events up to {pruned} were pruned; exported what is after them, from {} on", pruned.next()))
    }
}

/// Where a table goes.
#[derive(Debug, Clone, Args)]
pub(crate) struct ToArgs {
    /// The file; standard output if not said.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    force: ForceArgs,
    /// csv, json (an object a line) or parquet; told by the file's name if not said, else csv.
    #[arg(long, value_enum)]
    format: Option<TableFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TableFormat {
    Csv,
    Json,
    Parquet,
}

impl ToArgs {
    /// The file, if it is not standard output.
    fn file(&self) -> Option<&Path> {
        self.out.as_deref().filter(|path| *path != Path::new("-"))
    }

    /// The format that flag and name say; none if neither does.
    fn format(&self, json: bool) -> Result<Option<TableFormat>, CliError> {
        let named = self.file().map(by_name).transpose()?.flatten();
        let contradiction = |what: String| Err(CliError::Usage { what, next: "leave one of them out" });
        match (self.format, named) {
            (Some(format), Some(named)) if format != named => contradiction(
                format!("--format {format:?} and the name of the file contradict each other").to_lowercase(),
            ),
            (Some(format), _) if json && self.file().is_none() && format != TableFormat::Json => {
                contradiction(format!("--json and --format {format:?} contradict each other").to_lowercase())
            }
            (format, named) => Ok(format.or(named)),
        }
    }
}

/// Exports what is asked for.
pub(crate) async fn export(command: ExportCommand, out: &mut Output) -> Result<(), CliError> {
    let (ExportCommand::Candles { to, .. }
    | ExportCommand::Trades { to, .. }
    | ExportCommand::Equity { to, .. }
    | ExportCommand::Signals { to, .. }) = &command;
    // Before anything is read.
    let db = match &command {
        ExportCommand::Candles { series, .. } => series.db()?,
        ExportCommand::Trades { from, .. }
        | ExportCommand::Equity { from, .. }
        | ExportCommand::Signals { from, .. } => db_of(&from.db)?,
    };
    let outputs = Outputs::new(to.force, Some(db));
    outputs.check(to.file())?;
    let named = to.format(out.is_json())?;
    let ((table, part), to) = match command {
        ExportCommand::Candles { series, to } => {
            let loaded = series.load().await?;
            ((Table::of_candles(&loaded.candles, loaded.scale), None), to)
        }
        ExportCommand::Trades { from, to } => (trades(&from).await?, to),
        ExportCommand::Equity { from, to } => (equity(&from).await?, to),
        ExportCommand::Signals { from, to } => (signals(&from).await?, to),
    };
    if let Some(note) = part.as_ref().and_then(Part::note) {
        stderr::note(&format!("atra: {note}"));
    }
    let format = named.unwrap_or(if out.is_json() { TableFormat::Json } else { TableFormat::Csv });
    let bytes = bytes_of(&table, format)?;
    match to.file() {
        Some(path) => {
            outputs.write(path, &bytes)?;
            if !out.is_json() {
                return Ok(());
            }
            // The table is in the file, so standard output describes it.
            let mut written = json!({ "file": shown(path), "bytes": bytes.len(), "rows": table.len() });
            if let Some(Part { after, pruned }) = part {
                (written["after"], written["pruned_upto"]) = (json!(after), json!(pruned));
            }
            out.json(&written)
        }
        None => {
            out.finish()?;
            std::io::stdout().write_all(&bytes).map_err(CliError::Output)
        }
    }
}

/// The format that a file's name tells; none if the name has no ending.
fn by_name(path: &Path) -> Result<Option<TableFormat>, CliError> {
    let Some(ending) = path.extension() else { return Ok(None) };
    match ending.to_ascii_lowercase().to_str() {
        Some("csv") => Ok(Some(TableFormat::Csv)),
        Some("json" | "jsonl" | "ndjson") => Ok(Some(TableFormat::Json)),
        Some("parquet" | "pq") => Ok(Some(TableFormat::Parquet)),
        _ => {
            let what = format!("{} has an ending that is none of .csv, .json, .jsonl, .parquet", path.display());
            Err(CliError::Usage { what, next: "name the file with one of them" })
        }
    }
}

/// Refuses files that [`write_table`] could not write, before the work for them is done.
pub(super) fn check_names<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<(), CliError> {
    paths.into_iter().try_for_each(|path| by_name(path).map(drop))
}

fn bytes_of(table: &Table, format: TableFormat) -> Result<Vec<u8>, CliError> {
    match format {
        TableFormat::Csv => Ok(table.csv().into_bytes()),
        TableFormat::Json => Ok(table.json_lines().into_bytes()),
        TableFormat::Parquet => table.parquet().map_err(|error| usage(&error)),
    }
}

/// Writes a table in the format that the file's name tells; csv if it tells none.
pub(super) fn write_table(table: &Table, path: &Path, outputs: &Outputs) -> Result<(), CliError> {
    outputs.write(path, &bytes_of(table, by_name(path)?.unwrap_or(TableFormat::Csv))?)
}

/// Every event of a type in the journal after `after`, in order, and the seq after which they are complete: pruned
/// events are left out.
pub(crate) async fn events<T: EventType + Clone>(db: &dyn Read, after: Seq) -> Result<(Vec<T>, Seq), CliError> {
    let interest = Interest::in_topics(vec![Filter::exactly(&T::TOPIC)]);
    let last = db.last_seq().await?;
    let mut begin = after.max(db.floor().await?);
    let (mut after, mut found) = (begin, Vec::new());
    while after < last {
        let (page, complete) = match db.journal(after, last, &interest, PAGE_EVENTS).await {
            // Pruned meanwhile by the runtime: whole from there on.
            Err(StoreError::Pruned { .. }) => {
                begin = after.max(db.floor().await?);
                (after, found) = (begin, Vec::new());
                continue;
            }
            page => page?,
        };
        found.extend(page.iter().filter_map(|committed| committed.event.get::<T>().ok().cloned()));
        if complete <= after {
            break;
        }
        after = complete;
    }
    Ok((found, begin))
}

/// The events of a type in the part of the journal that was asked for.
async fn part_of<T: EventType + Clone>(db: &dyn Read, args: &JournalArgs) -> Result<(Vec<T>, Option<Part>), CliError> {
    let wanted = match &args.after {
        Some(event) => event.seq(db).await?,
        None => Seq::ZERO,
    };
    let (found, after) = events(db, wanted).await?;
    let pruned = (after > wanted).then_some(after);
    Ok((found, Some(Part { after, pruned })))
}

fn texts<T>(rows: &[T], of: impl Fn(&T) -> String) -> Column {
    Column::Text(rows.iter().map(of).collect())
}

fn times<T>(rows: &[T], of: impl Fn(&T) -> i64) -> Column {
    Column::Time(rows.iter().map(of).collect())
}

async fn trades(args: &JournalArgs) -> Result<(Table, Option<Part>), CliError> {
    let config = config_of(&args.db)?;
    let db = open(&config.db).await?;
    let (mut changed, part) = part_of::<PositionChanged>(&*db, args).await?;
    changed.retain(|changed| changed.trade.is_some());
    let mut scales: BTreeMap<SeriesKey, Scale> = BTreeMap::new();
    for changed in &changed {
        if !scales.contains_key(&changed.series) {
            let scale = candles::scale(&*db, &changed.series).await?;
            scales.insert(changed.series.clone(), scale);
        }
    }
    let terms = |series: &SeriesKey| {
        let scale = scales.get(series).copied().unwrap_or_default();
        Terms::new(scale, config.desk.lot_decimals, config.desk.fee_ppm).map_err(|error| usage(&error))
    };
    let (mut names, mut rows) = (Vec::new(), Vec::new());
    for PositionChanged { series, trade, .. } in changed {
        if let Some(trade) = trade {
            rows.push((trade, terms(&series)?));
            names.push(series.to_string());
        }
    }
    Ok((Table::of_trades(Some(names), &rows), part))
}

async fn equity(args: &JournalArgs) -> Result<(Table, Option<Part>), CliError> {
    let db = open(&db_of(&args.db)?).await?;
    let (rows, part) = part_of::<DailyEquity>(&*db, args).await?;
    let table = Table::new()
        .with("time", times(&rows, |row| row.time))
        .with("equity", texts(&rows, |row| row.equity.to_string()))
        .with("cash", texts(&rows, |row| row.cash.to_string()))
        .with("drawdown", Column::Number(rows.iter().map(|row| Some(row.drawdown)).collect()));
    Ok((table, part))
}

async fn signals(args: &JournalArgs) -> Result<(Table, Option<Part>), CliError> {
    let db = open(&db_of(&args.db)?).await?;
    let (rows, part) = part_of::<TargetChanged>(&*db, args).await?;
    let reason = |row: &TargetChanged| {
        let text = match row.reason {
            TargetReason::Rule(rule) => serde_json::to_string(&rule),
            other => serde_json::to_string(&other),
        };
        text.unwrap_or_default().replace('"', "")
    };
    let table = Table::new()
        .with("series", texts(&rows, |row| row.series.to_string()))
        .with("time", times(&rows, |row| row.time))
        .with("target", Column::Number(rows.iter().map(|row| Some(row.target)).collect()))
        .with("strength", Column::Number(rows.iter().map(|row| row.strength).collect()))
        .with("strategy", texts(&rows, |row| row.strategy.map(parameters).unwrap_or_default()))
        .with("version", Column::Number(rows.iter().map(|row| Some(row.version as f64)).collect()))
        .with("reason", texts(&rows, reason));
    Ok((table, part))
}
