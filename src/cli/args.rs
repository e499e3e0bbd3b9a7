//! The command line as clap reads it.

use std::{ffi::OsString, path::PathBuf};

use atra::{
    Seq,
    agents::market::{
        candle::Interval,
        import::{FlatPolicy, GapPolicy, Unit},
    },
    runtime::Placement,
    storage::Span,
};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum, error::ErrorKind};

use super::{
    error::CliError,
    events::EventRef,
    market::{
        backtest::BacktestArgs, check::CheckCommand, export::ExportCommand, indicators::IndicatorsArgs,
        optimize::OptimizeArgs,
    },
    risk::RiskCommand,
    sim::SimArgs,
    time::Moment,
};

/// The widest that help is set. 100: longer lines are hard to read.
const HELP_COLUMNS_MAX: usize = 100;

/// A runtime for teams of agents: one journal, one process, one file.
#[derive(Debug, Parser)]
#[command(name = "atra", version, about, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Environment: ATRA_<SECTION>_<KEY> sets a key of the configuration, ATRA_LOG or RUST_LOG what \
is logged (default warn), NO_COLOR turns colours off.\nExit codes: 0 ok, 1 failure, 2 usage or configuration, \
130 a signal ended the command before its work was done; docs/operating.md has those of single commands.")]
pub(crate) struct Cli {
    /// Print JSON, one value per line; also for notices, errors and the log on standard error.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Whether the command line has `--json`. Checked before the command line is parsed, since it may be invalid.
pub(crate) fn wants_json(args: impl Iterator<Item = OsString>) -> bool {
    args.take_while(|arg| arg != "--").any(|arg| arg == "--json")
}

/// Reads the command line; `None` if it asked for help, which is printed.
pub(crate) fn parse() -> Result<Option<Cli>, CliError> {
    // Piped help is usually read on a terminal too.
    let columns = super::output::columns(&console::Term::stdout());
    let parsed = Cli::command().term_width(columns.min(HELP_COLUMNS_MAX)).try_get_matches();
    let error = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => return Ok(Some(cli)),
        Err(error) => error,
    };
    if error.exit_code() != 0 {
        let text = error.render().to_string();
        let text = match error.kind() {
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => format!("a command is missing\n\n{text}"),
            _ => text.trim_start_matches("error: ").to_owned(),
        };
        return Err(CliError::CommandLine { text: text.trim_end().to_owned() });
    }
    error.print().map_err(CliError::Output)?;
    Ok(None)
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs the market desk: on the candles of the database, or else on a built-in simulated market.
    Run(RunArgs),
    /// Runs the desk and a crowd of agents in a deterministic simulation, with faults.
    Sim(SimArgs),
    /// Brings data into a database.
    #[command(subcommand)]
    Import(ImportCommand),
    /// Takes data out of a database: candles, trades, equity, signals.
    #[command(subcommand)]
    Export(ExportCommand),
    /// Prints indicator values of a series.
    Indicators(IndicatorsArgs),
    /// Runs a strategy over the candles of a series and tells what it made, net of fees.
    Backtest(Box<BacktestArgs>),
    /// Checks a strategy: does it look ahead, and how long must it warm up?
    #[command(subcommand)]
    Check(CheckCommand),
    /// Searches for parameters, and tells what the choice is worth where it was not made.
    Optimize(Box<OptimizeArgs>),
    /// Stops all trading, and lets it go on.
    #[command(subcommand)]
    Risk(RiskCommand),
    /// Show whether a runtime is running and each team's progress.
    #[command(after_help = super::status::CHECK_HELP)]
    Status(StatusArgs),
    /// Looks at events in the journal.
    #[command(subcommand)]
    Journal(JournalCommand),
    /// Tells why an event is there, and what it led to.
    Why(WhyArgs),
    /// Runs the present code over the recorded inputs, and compares what it decides with what is recorded.
    #[command(after_help = "Exit codes: 0 equal, 3 different. The file is only read.")]
    Replay(ReplayArgs),
    /// Looks at shared memory.
    #[command(subcommand)]
    Memory(MemoryCommand),
    /// Looks at events that an agent gave up on.
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
    /// Inspect and maintain the database file.
    #[command(subcommand)]
    Db(DbCommand),
    /// Show or check the configuration in force.
    #[command(subcommand)]
    Config(ConfigCommand),
}

impl Command {
    /// Whether the exit code answers a question even if the output cannot be written.
    pub(crate) fn is_question(&self) -> bool {
        matches!(
            self,
            Self::Status(StatusArgs { check: true, .. })
                | Self::Check(_)
                | Self::Replay(_)
                | Self::Sim(_)
                | Self::Db(DbCommand::Check(_))
                | Self::Config(ConfigCommand::Check(_))
        )
    }
}

/// Which database.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct DbArgs {
    /// The database file [default: ./atra-data/atra.db].
    #[arg(long, value_name = "FILE")]
    pub(crate) db: Option<PathBuf>,
    /// A configuration file in TOML.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct StatusArgs {
    /// Exit with a code that tells the health, for monitoring.
    #[arg(long)]
    pub(crate) check: bool,
    #[command(flatten)]
    pub(crate) db: DbArgs,
}

/// Candles a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speed {
    /// As fast as it goes.
    Max,
    /// At most so many.
    PerSecond(u32),
}

impl std::str::FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<u32>() {
            _ if text == "max" => Ok(Self::Max),
            Ok(n) if n > 0 => Ok(Self::PerSecond(n)),
            _ => Err("a speed is 'max' or candles a second, such as 20".into()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlacementArg {
    /// One task for the whole team.
    Together,
    /// One task for each agent.
    Apart,
}

impl From<PlacementArg> for Placement {
    fn from(arg: PlacementArg) -> Self {
        match arg {
            PlacementArg::Together => Self::Together,
            PlacementArg::Apart => Self::Apart,
        }
    }
}

#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) db: DbArgs,
    /// Starts the journal anew; the candles stay.
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Run on a simulated market if the database has no candles; the default database starts one without this flag.
    #[arg(long)]
    pub(crate) demo: bool,
    /// Only this ticker; repeatable [default: all in the database].
    #[arg(long, value_name = "TICKER")]
    pub(crate) ticker: Vec<String>,
    /// Only candles of this length, such as 15m.
    #[arg(long)]
    pub(crate) interval: Option<Interval>,
    /// Only candles that open at this time or later.
    #[arg(long, value_name = "DATE")]
    pub(crate) from: Option<Moment>,
    /// Only candles that open before this time.
    #[arg(long, value_name = "DATE")]
    pub(crate) to: Option<Moment>,
    /// Where the agents run; the result is the same.
    #[arg(long)]
    pub(crate) placement: Option<PlacementArg>,
    /// Candles a second, or max [default: max; 1000 in the simulated market].
    #[arg(long, value_name = "max|N", allow_hyphen_values = true)]
    pub(crate) speed: Option<Speed>,
    /// Ends when the candles are used up and everything is settled.
    #[arg(long)]
    pub(crate) until_idle: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// Imports files of candles: CSV, JSON, Parquet, Feather, packed with gzip, in a zip or not. Importing again changes
    /// nothing.
    Candles(ImportArgs),
    /// Makes longer candles out of those of a series that is there: 15m out of 1m.
    Resample(ResampleArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ResampleArgs {
    /// Whose candles.
    #[arg(long)]
    pub(crate) ticker: String,
    /// The length that there is.
    #[arg(long)]
    pub(crate) interval: Interval,
    /// The length to make; repeatable.
    #[arg(long, required = true)]
    pub(crate) to: Vec<Interval>,
    #[command(flatten)]
    pub(crate) db: DbArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The files; - is standard input.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Whose candles they are; the beginning of the file's name if not said, such as BTCUSDT of BTCUSDT-15m.csv.
    #[arg(long)]
    pub(crate) ticker: Option<String>,
    /// The length of the candles, such as 15m; found from the rows if not said.
    #[arg(long)]
    pub(crate) interval: Option<Interval>,
    #[command(flatten)]
    pub(crate) db: DbArgs,
    /// Only says what would be imported.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// What to do where candles are missing: keep the gap, fill it, refuse the file.
    #[arg(long, value_enum, default_value = "keep")]
    pub(crate) gaps: GapsArg,
    /// What to do with candles without trades: keep or refuse the row.
    #[arg(long, value_enum, default_value = "keep")]
    pub(crate) flat: FlatArg,
    /// Which column is what, where the file does not tell: time, open, high, low, close, volume by name or number from 1.
    #[arg(long, value_name = "open=COLUMN,...", value_delimiter = ',', value_parser = column)]
    pub(crate) map: Vec<(String, String)>,
    /// The unit of the times, where their size would be misread; which comes first in dates, where no row tells.
    #[arg(long, value_enum)]
    pub(crate) time_unit: Option<UnitArg>,
    /// What prices are multiplied by: 1e-5 for prices in hundred-thousandths.
    #[arg(long, default_value = "1", value_name = "FACTOR", value_parser = scale)]
    pub(crate) scale: u8,
    /// Rows that may be refused before the whole file is.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub(crate) refused_max: usize,
    /// Largest unpacked size of a file, such as 500M or 8G [default: 4G; 256M for JSON and for files packed twice].
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) max_size: Option<u64>,
}

fn column(text: &str) -> Result<(String, String), String> {
    const ROLES: [&str; 6] = ["time", "open", "high", "low", "close", "volume"];
    match text.split_once('=') {
        Some((of, name)) if ROLES.contains(&of.trim()) && !name.trim().is_empty() => {
            Ok((of.trim().to_owned(), name.trim().to_owned()))
        }
        _ => Err(format!("write it as close=NAME or close=5; columns are {}", ROLES.join(", "))),
    }
}

/// Bytes as people write them: 500000, 500M, 8G, 8GiB.
fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u32); 5] = [("", 0), ("K", 10), ("M", 20), ("G", 30), ("T", 40)];
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_uppercase();
    let unit = unit.strip_suffix("IB").or_else(|| unit.strip_suffix('B')).unwrap_or(&unit);
    let shift = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, shift)| *shift);
    let bytes = number.parse::<u64>().ok().zip(shift).and_then(|(n, shift)| n.checked_mul(1 << shift));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| "write bytes as 500M, 8G or 4000000000".into())
}

/// Decimal places that a factor of 1, 0.1, … 1e-10 moves a price by.
fn scale(text: &str) -> Result<u8, String> {
    let factor = text.parse::<f64>().unwrap_or(f64::NAN);
    let found = (0..=10_u8).find(|places| (factor * 10_f64.powi(i32::from(*places)) - 1.0).abs() < 1e-9);
    found.ok_or_else(|| "a factor is 1, 0.1, 0.01 … 1e-10".into())
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum UnitArg {
    S,
    Ms,
    Us,
    Ns,
    Text,
    DayFirst,
    MonthFirst,
}

impl From<UnitArg> for Unit {
    fn from(arg: UnitArg) -> Self {
        match arg {
            UnitArg::S => Self::Seconds,
            UnitArg::Ms => Self::Millis,
            UnitArg::Us => Self::Micros,
            UnitArg::Ns => Self::Nanos,
            UnitArg::Text => Self::Text,
            UnitArg::DayFirst => Self::DayFirst,
            UnitArg::MonthFirst => Self::MonthFirst,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum GapsArg {
    Keep,
    Fill,
    Refuse,
}

impl From<GapsArg> for GapPolicy {
    fn from(arg: GapsArg) -> Self {
        match arg {
            GapsArg::Keep => Self::Keep,
            GapsArg::Fill => Self::Fill,
            GapsArg::Refuse => Self::Refuse,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum FlatArg {
    Keep,
    Refuse,
}

impl From<FlatArg> for FlatPolicy {
    fn from(arg: FlatArg) -> Self {
        match arg {
            FlatArg::Keep => Self::Keep,
            FlatArg::Refuse => Self::Refuse,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum JournalCommand {
    /// Shows the newest events.
    Tail(TailArgs),
    /// Shows one event whole.
    Show(ShowArgs),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 also after Ctrl-C, 3 the journal that --follow read was replaced, begun again or \
deleted."
)]
pub(crate) struct TailArgs {
    /// How many [default: 20].
    #[arg(short = 'n', long = "lines")]
    pub(crate) lines: Option<usize>,
    /// Only topics that match this filter, such as order.> ; repeatable.
    #[arg(long, value_name = "FILTER")]
    pub(crate) topic: Vec<String>,
    /// Only events after this one, oldest first: its seq or id; 0 is before the first.
    #[arg(long, value_name = "EVENT", value_parser = after)]
    pub(crate) after: Option<EventRef>,
    /// Continue with new events until Ctrl-C.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Search the whole journal for events on the topics, however long that takes.
    #[arg(long, conflicts_with = "after")]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) db: DbArgs,
}

/// An event, or 0 for the beginning.
pub(crate) fn after(text: &str) -> Result<EventRef, String> {
    if text == "0" { Ok(EventRef::Seq(Seq::ZERO)) } else { text.parse() }
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Its seq or id; the beginning of an id is enough.
    pub(crate) event: EventRef,
    #[command(flatten)]
    pub(crate) db: DbArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// Its seq or id; the beginning of an id is enough.
    pub(crate) event: EventRef,
    /// How many generations of effects are shown.
    #[arg(long, default_value_t = 6)]
    pub(crate) depth: usize,
    /// How many effects of one event are shown.
    #[arg(long, default_value_t = 12)]
    pub(crate) width: usize,
    #[command(flatten)]
    pub(crate) db: DbArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The team.
    #[arg(long)]
    pub(crate) team: Option<String>,
    /// Compares only what this agent decides.
    #[arg(long)]
    pub(crate) agent: Option<String>,
    /// Compares from this event on: its seq or id.
    #[arg(long, value_name = "EVENT")]
    pub(crate) from: Option<EventRef>,
    /// Compares up to this event: its seq or id.
    #[arg(long, value_name = "EVENT")]
    pub(crate) to: Option<EventRef>,
    /// Begins with the state in this backup, for a journal that was pruned or is long.
    #[arg(long, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,
    /// The database; a configuration that is named here is used instead of the recorded ones.
    #[command(flatten)]
    pub(crate) db: DbArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MemoryCommand {
    /// Lists keys and their newest values.
    Ls {
        /// Only keys that begin so.
        #[arg(default_value = "")]
        prefix: String,
        #[command(flatten)]
        db: DbArgs,
    },
    /// Shows one key.
    Get {
        /// The key.
        key: String,
        /// As it was at this event: its seq or id.
        #[arg(long, value_name = "EVENT")]
        at: Option<EventRef>,
        #[command(flatten)]
        db: DbArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// Lists them.
    Ls {
        /// Only of this agent.
        #[arg(long)]
        agent: Option<String>,
        #[command(flatten)]
        db: DbArgs,
    },
    /// Shows one whole.
    Show {
        /// Seq or id of the event; the beginning of an id is enough.
        event: EventRef,
        #[command(flatten)]
        db: DbArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DbCommand {
    /// Hashes what agents decided: equal digests are equal runs.
    Digest {
        /// Only the events of this agent or caller.
        #[arg(long)]
        publisher: Option<String>,
        #[command(flatten)]
        db: DbArgs,
    },
    /// Reads every page and checks the journal, causes and memory.
    Check(DbArgs),
    /// Says what is in the file, who has it, and what keeps it from becoming smaller.
    Info(DbArgs),
    /// Copies the database to a new file, checked, whether a runtime has it or not.
    Backup {
        /// The copy; must not exist.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        db: DbArgs,
    },
    /// Puts a backup in the place of the database; what was there is kept aside. Not while a runtime has it.
    Restore {
        /// The backup.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        db: DbArgs,
    },
    /// Deletes old events that nobody needs. Not while a runtime has the database.
    Prune(PruneArgs),
    /// Drops what a team that is no more has in the file, so that it pins the journal no longer. Not while a runtime has
    /// the database.
    ForgetTeam {
        /// The team.
        team: String,
        /// Only says what would be dropped and freed; also while a runtime has the database.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        db: DbArgs,
    },
    /// Gives free space in the file back to the disk. Not while a runtime has it.
    Vacuum(DbArgs),
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("kept").required(true).multiple(true).args(["keep", "keep_events", "keep_keys", "keep_results"]))]
pub(crate) struct PruneArgs {
    /// Keeps events committed within this time, such as 30d, 12h, 90m.
    #[arg(long, value_name = "SPAN")]
    pub(crate) keep: Option<Span>,
    /// Keeps the newest N events.
    #[arg(long, value_name = "N")]
    pub(crate) keep_events: Option<u64>,
    /// Keeps idempotency keys committed within this time [default: 7d].
    #[arg(long, value_name = "SPAN")]
    pub(crate) keep_keys: Option<Span>,
    /// Keeps results of calls to the outside committed within this time [default: 7d].
    #[arg(long, value_name = "SPAN")]
    pub(crate) keep_results: Option<Span>,
    /// Only says what would be deleted; also while a runtime has the database.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) db: DbArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the configuration as TOML, merged from defaults, file, environment and flags.
    Show(DbArgs),
    /// Check the configuration and change nothing: exit code 0 if valid, 2 if not.
    Check(DbArgs),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn speeds_are_checked() {
        assert_eq!("max".parse(), Ok(Speed::Max));
        assert_eq!("25".parse(), Ok(Speed::PerSecond(25)));
        for bad in ["0", "-1", "2.5", "inf", "nan", "fast", ""] {
            assert!(bad.parse::<Speed>().is_err(), "{bad}");
        }
    }
}
