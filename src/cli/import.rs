//! `atra import`: files of candles into the block table of a database, and longer candles out of shorter ones.
//!
//! A file is imported whole or not at all: it is read and checked first, and what it adds is written in one transaction. Of
//! many files a few are held at once; one that cannot be imported is told, and the others go on. Candles that are there
//! already stay as they are, so importing again changes nothing, and going on after an import that was killed is importing
//! again.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use atra::{
    MemoryStore, Read, SqliteOptions, SqliteReader, SqliteStore,
    agents::market::{
        block::MergeReport,
        candle::{Interval, Scale, SeriesKey},
        import::{
            ColumnOrder, Import, ImportError, ImportOptions, ImportReport, Progress, import_from, import_seekable,
        },
        resample::{Resampled, resample as resample_candles},
    },
    config::Config,
    storage::{Level, Store, WriteBatch},
};
use indicatif::ProgressBar;
use serde_json::json;
use tokio::time::Instant;

use super::{
    args::{ImportArgs, ResampleArgs},
    candles, config_of,
    error::CliError,
    interrupted, look,
    market::on_all_cores,
    output::{Output, Style, counted, grouped, shown},
    progress::{bytes_bar, runs_bar},
    stderr, stop,
    time::Moment,
};

/// A file that was read and can be joined.
struct Parsed {
    file: PathBuf,
    series: SeriesKey,
    import: Import,
    wall: Duration,
}

/// What a file did to the database.
struct Done<'a> {
    parsed: &'a Parsed,
    db: &'a Path,
    found: MergeReport,
    dry_run: bool,
    wall: Duration,
}

/// Imports the files, or says what importing them would do.
pub(crate) async fn candles(args: ImportArgs, out: &mut Output) -> Result<(), CliError> {
    let config = config_of(&args.db)?;
    // A bad ticker is told before the files are read.
    if args.ticker.is_some() {
        ticker(&args.files[0], &args, None)?;
    }
    let mut target = Target::Closed;
    let imported = import_all(&args, &config, &mut target, out).await;
    // Closed in any case: it moves the log into the file. The first error is the one to tell.
    let closed = match target {
        Target::Store(mut store) => store.close().await,
        Target::Closed | Target::Looked(_) => Ok(()),
    };
    imported?;
    Ok(closed?)
}

/// Where candles go. Opened with the first good file, so that a bad one alone makes no database.
enum Target {
    Closed,
    Store(Box<SqliteStore>),
    /// For a dry run.
    Looked(Arc<dyn Read>),
}

impl Target {
    async fn open(&mut self, config: &Config, dry_run: bool) -> Result<(), CliError> {
        if matches!(self, Self::Closed) {
            *self = match (dry_run, config.db.exists()) {
                (false, _) => Self::Store(Box::new(open(config).await?)),
                (true, true) => Self::Looked(SqliteReader::open_read_only(&config.db).await?),
                (true, false) => Self::Looked(MemoryStore::new().reader()),
            };
        }
        Ok(())
    }

    /// Joins a file's candles to what is there; answers what that did, or would do.
    async fn take(&mut self, parsed: &Parsed) -> Result<MergeReport, CliError> {
        let Parsed { series, import, .. } = parsed;
        match self {
            Self::Store(store) => {
                let joined = candles::join(&*store.reader(), series, &import.candles, import.scale).await?;
                if !joined.blocks.is_empty() {
                    let batch = WriteBatch { blocks: joined.blocks, level: Level::Power, ..WriteBatch::default() };
                    store.commit(&batch).await?;
                }
                Ok(joined.report)
            }
            Self::Looked(db) => Ok(candles::join(&**db, series, &import.candles, import.scale).await?.report),
            Self::Closed => Ok(MergeReport::default()),
        }
    }
}

async fn import_all(args: &ImportArgs, config: &Config, target: &mut Target, out: &mut Output) -> Result<(), CliError> {
    let n_files = args.files.len();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let bar = if n_files > 1 { runs_bar("importing", n_files) } else { ProgressBar::hidden() };
    let mut failed = 0;
    for files in args.files.chunks(cores) {
        let parsed = on_all_cores(files.len(), |index| parse(&files[index], args, n_files == 1), || bar.inc(1))?;
        for (file, parsed) in files.iter().zip(parsed) {
            let error = match parsed {
                Err(error) => error,
                Ok(parsed) => {
                    let began = Instant::now();
                    target.open(config, args.dry_run).await?;
                    let found = target.take(&parsed).await?;
                    let wall = parsed.wall + began.elapsed();
                    bar.suspend(|| {
                        tell(&Done { parsed: &parsed, db: &config.db, found, dry_run: args.dry_run, wall }, out)
                    })?;
                    continue;
                }
            };
            if n_files == 1 {
                return Err(error);
            }
            failed += 1;
            if out.is_json() {
                out.json(&json!({ "file": shown(file), "error": error.to_json() }))?;
            }
            bar.suspend(|| stderr::error(&error));
        }
    }
    bar.finish_and_clear();
    match failed {
        0 => Ok(()),
        _ => Err(CliError::SomeFiles { failed, n_files }),
    }
}

/// Whose candles a file has: as said, or as a column of it says, or the beginning of its name up to the first dash, dot or
/// space.
fn ticker(file: &Path, args: &ImportArgs, symbol: Option<&str>) -> Result<String, CliError> {
    let second = Interval::from_millis(1_000);
    let check = |ticker: &str| second.map_or(Ok(()), |interval| SeriesKey::new(ticker, interval).map(drop));
    // `BTC/USDT` is BTCUSDT elsewhere, and a series' name has no slash.
    let symbol = symbol.map(|symbol| symbol.replace('/', "")).filter(|symbol| check(symbol).is_ok());
    if let (None, Some(symbol)) = (&args.ticker, symbol) {
        return Ok(symbol);
    }
    let named = || {
        let name = file.file_stem()?.to_str()?;
        Some(name.split(['-', '.', ' ']).next()?.to_owned())
    };
    let ticker = args.ticker.clone().or_else(named).filter(|ticker| !ticker.is_empty());
    // A name in lower case or in other letters says something else, such as `btc` or `binance`.
    let is_ticker = |ticker: &String| ticker.is_ascii() && !ticker.chars().all(|c| c.is_ascii_lowercase());
    let valid = ticker.filter(|ticker| args.ticker.is_some() || is_ticker(ticker));
    let Some(ticker) = valid else {
        let what = format!("{} does not tell whose candles it has", file.display());
        return Err(CliError::Usage { what, next: "name it with --ticker BTCUSDT" });
    };
    check(&ticker)?;
    Ok(ticker)
}

/// Makes longer candles and stores them as a series of their own; making them again changes nothing.
pub(crate) async fn resample(args: ResampleArgs, out: &mut Output) -> Result<(), CliError> {
    let config = config_of(&args.db)?;
    let from = SeriesKey::new(&args.ticker, args.interval)?;
    let mut made = Vec::new();
    {
        let db = super::open(&config.db).await?;
        let (candles, scale) = candles::load(&*db, &from).await?;
        if candles.is_empty() {
            let next = "'atra db info' tells what there is".into();
            return Err(CliError::NotFound { what: format!("there are no candles of {from}"), next });
        }
        for to in &args.to {
            let longer = resample_candles(&candles, args.interval, *to).map_err(|error| CliError::Usage {
                what: error.to_string(),
                next: "give a --to that --interval goes into, such as --interval 15m --to 1h",
            })?;
            made.push((SeriesKey::new(&args.ticker, *to)?, longer, scale));
        }
    }
    let mut store = open(&config).await?;
    let mut written = Ok(());
    for (series, longer, scale) in &made {
        written = write_resampled(&mut store, &config.db, &from, series, longer, *scale, out).await;
        if written.is_err() {
            break;
        }
    }
    let closed = store.close().await;
    written?;
    Ok(closed?)
}

async fn write_resampled(
    store: &mut SqliteStore,
    db: &Path,
    from: &SeriesKey,
    series: &SeriesKey,
    longer: &Resampled,
    scale: Scale,
    out: &mut Output,
) -> Result<(), CliError> {
    let joined = candles::join(&*store.reader(), series, &longer.candles, scale).await?;
    if !joined.blocks.is_empty() {
        let batch = WriteBatch { blocks: joined.blocks, level: Level::Power, ..WriteBatch::default() };
        store.commit(&batch).await?;
    }
    let MergeReport { added, equal, conflicting } = joined.report;
    if out.is_json() {
        let conflicting = conflicting.len();
        return out.json(&json!({
            "db": shown(db), "made_from": from, "series": series, "candles": longer.candles.len(), "added": added, "equal": equal,
            "conflicting": conflicting, "with_holes": longer.with_holes, "unfinished_left_out": longer.is_cut,
        }));
    }
    let mut line = format!("{series}: added {} made of {from}", counted(added as u64, "candle"));
    let stored = "stored with other numbers: the stored";
    for (n, one, many) in [
        (equal, "was there already", "were there already"),
        (conflicting.len(), &*format!("was {stored} one stays"), &*format!("were {stored} ones stay")),
        (longer.with_holes, "has holes", "have holes"),
    ] {
        if n > 0 {
            line += &format!(", {} {}", grouped(n as u64), if n == 1 { one } else { many });
        }
    }
    if longer.is_cut {
        line += "; the last, unfinished one is left out";
    }
    out.line(&line)
}

/// Opens the database for writing; makes it, and the default folder, if they are not there.
async fn open(config: &Config) -> Result<SqliteStore, CliError> {
    drop(look(&config.db).await?);
    prepare_folder(config)?;
    let mut options = SqliteOptions::new(&config.db);
    options.readers = 1;
    let mut store = SqliteStore::open(options).await?;
    store.load().await?;
    Ok(store)
}

/// Makes the default folder. A folder that somebody named is not made: its name may be a slip.
pub(crate) fn prepare_folder(config: &Config) -> Result<(), CliError> {
    let Some(folder) = config.db.parent() else { return Ok(()) };
    if config.db != Config::default().db {
        if folder.as_os_str().is_empty() || folder.is_dir() {
            return Ok(());
        }
        let what = format!("there is no folder {} for the database", folder.display());
        return Err(CliError::NotFound { what, next: "make it first, or name another --db FILE".into() });
    }
    let mut builder = std::fs::DirBuilder::new();
    // Accessible to its owner only: any user who can write in it could replace the database.
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(folder).map_err(|source| CliError::Folder { path: folder.to_owned(), source })
}

fn parse(file: &Path, args: &ImportArgs, is_alone: bool) -> Result<Parsed, CliError> {
    let began = Instant::now();
    if file.is_dir() {
        let what = format!("{} is a folder", file.display());
        return Err(CliError::Usage { what, next: "name the files in it, such as FOLDER/*.csv" });
    }
    let usual = ImportOptions::default();
    let options = ImportOptions {
        size_max: args.max_size.unwrap_or(usual.size_max),
        held_max: args.max_size.unwrap_or(usual.held_max),
        // A user who sets --max-size expects a large file.
        ratio_max: if args.max_size.is_some() { u64::MAX } else { usual.ratio_max },
        interval: args.interval,
        refused_max: args.refused_max,
        gaps: args.gaps.into(),
        flat: args.flat.into(),
        map: args.map.clone(),
        time_unit: args.time_unit.map(Into::into),
        price_shift: args.scale,
        ..usual
    };
    let bar = if is_alone { bytes_bar(&file.display().to_string()) } else { ProgressBar::hidden() };
    let progress = |progress: Progress| bar.set_position(progress.bytes as u64);
    let import = if file == Path::new("-") {
        import_from(&mut Stoppable(io::stdin().lock()), 0, &options, progress)
    } else {
        let failed = |source| CliError::File { path: file.to_owned(), source };
        let opened = std::fs::File::open(file).map_err(failed)?;
        let of = opened.metadata().map_err(failed)?;
        let mut opened = Stoppable(opened);
        bar.set_length(of.len());
        // A pipe cannot be looked at twice.
        match of.is_file() {
            true => import_seekable(opened, of.len(), &options, progress),
            false => import_from(&mut opened, 0, &options, progress),
        }
    };
    bar.finish_and_clear();
    let import = import.map_err(|source| if stop::is_asked() { interrupted() } else { why_not(file, source) })?;
    let ticker = ticker(file, args, import.report.symbol.as_deref())?;
    let Some(interval) = args.interval.or(import.interval) else {
        let what = format!("{} has a single candle, which does not tell its interval", file.display());
        return Err(CliError::Usage { what, next: "give it with --interval, such as --interval 15m" });
    };
    Ok(Parsed { file: file.to_owned(), series: SeriesKey::new(&ticker, interval)?, import, wall: began.elapsed() })
}

/// A file that ends with an error when a signal asks for an end.
struct Stoppable<R>(R);

impl<R: io::Read> io::Read for Stoppable<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if stop::is_asked() {
            return Err(io::Error::other("interrupted by a signal"));
        }
        self.0.read(bytes)
    }
}

impl<R: io::Seek> io::Seek for Stoppable<R> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

/// The error of a file. One without a single good row is another kind of file: a higher bound would not help it.
fn why_not(file: &Path, source: ImportError) -> CliError {
    let path = file.to_owned();
    match source {
        ImportError::TooManyRefused { count, taken: 0, first, .. } => CliError::NoRow { path, n_rows: count, first },
        ImportError::Read { source } => CliError::File { path, source },
        source => CliError::Import { path, source },
    }
}

fn tell(done: &Done<'_>, out: &mut Output) -> Result<(), CliError> {
    let Done { parsed, db, found, dry_run, wall } = done;
    let report = &parsed.import.report;
    if out.is_json() {
        return out.json(&json!({
            "db": shown(db),
            "file": shown(&parsed.file),
            "series": parsed.series,
            "dry_run": dry_run,
            "candles": report.candles,
            "added": found.added,
            "equal": found.equal,
            "conflicting": found.conflicting.len(),
            "refused": report.refused,
            "report": report,
            "wall_ms": wall.as_millis() as u64,
        }));
    }
    let verb = if *dry_run { "would add" } else { "added" };
    let heading = format!(
        "{}: {verb} {} to {} in {:.2} s",
        parsed.file.display(),
        counted(found.added as u64, "candle"),
        parsed.series,
        wall.as_secs_f64()
    );
    out.line(&out.paint(Style::Bold, &heading))?;
    for line in details(report, found) {
        out.line(&format!("  {line}"))?;
    }
    if let Some(named) = named_interval(&parsed.file).filter(|named| *named != parsed.series.interval()) {
        out.line(&format!("  its name says {named}, its rows are {} apart", parsed.series.interval()))?;
    }
    for row in &report.first_refused {
        let place = format!("{}, line {}", parsed.file.display(), row.line);
        out.line(&format!("  refused {}: {}", out.paint(Style::Red, &place), row.reason))?;
    }
    let unlisted = report.refused - report.first_refused.len();
    if unlisted > 0 {
        out.line(&format!("  refused {unlisted} more"))?;
    }
    Ok(())
}

/// The interval that a file's name ends with, such as 15m of `BTCUSDT-15m.csv.gz`; names lie, so it is only told.
fn named_interval(file: &Path) -> Option<Interval> {
    let stem = file.file_name()?.to_str()?.split('.').next()?;
    stem.rsplit(['-', '_', ' ']).next()?.parse().ok()
}

/// What a person wants to know about a file, and nothing that is as usual.
fn details(report: &ImportReport, found: &MergeReport) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some((first, last)) = report.span {
        let (first, last) = (Moment(first), Moment(last));
        lines.push(format!(
            "{} from {first} to {last}, times in {}",
            counted(report.rows as u64, "row"),
            report.units.join(", ")
        ));
    }
    let mut say = |n: u64, one: &str, many: &str| {
        if n > 0 {
            lines.push(format!("{} {}", grouped(n), if n == 1 { one } else { many }));
        }
    };
    let gaps = counted(report.gaps as u64, "gap");
    say(found.equal as u64, "was there already", "were there already");
    let conflicting = "stored with other numbers: the stored";
    say(
        found.conflicting.len() as u64,
        &format!("was {conflicting} one stays"),
        &format!("were {conflicting} ones stay"),
    );
    say(report.duplicates as u64, "row twice in the file", "rows twice in the file");
    let conflicts = "with the time of another row but other numbers: the first row counts";
    say(report.conflicts as u64, &format!("row {conflicts}"), &format!("rows {conflicts}"));
    let rounded = "with digits of binary noise, rounded";
    say(report.rounded as u64, &format!("number {rounded}"), &format!("numbers {rounded}"));
    say(report.zero_volume as u64, "candle without volume", "candles without volume");
    say(report.missing, &format!("candle missing in {gaps}"), &format!("candles missing in {gaps}"));
    say(report.filled as u64, "candle filled in", "candles filled in");
    say(report.unsorted as u64, "row out of order, sorted", "rows out of order, sorted");
    say(report.refused as u64, "row refused", "rows refused");
    if report.newest_first {
        lines.push("newest first, turned round".into());
    }
    if report.no_volume {
        lines.push("no volume column".into());
    }
    if report.order == ColumnOrder::OpenCloseHighLow {
        lines.push(
            "no header; read as time, open, close, high, low: the only order in which every row is a candle".into(),
        );
    }
    lines
}
