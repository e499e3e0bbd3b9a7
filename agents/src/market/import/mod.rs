//! Files of candles, as exchanges, brokers and pandas really write them, into exact candles and a report.
//!
//! CSV, JSON, Parquet and Feather, plain, packed with gzip or in a zip archive: told apart by their bytes, never by name.
//!
//! Text is read as it comes and never held as a whole, packed or not; Parquet and Feather are read a batch at a time from a
//! file. JSON is held while it is read: which of its parts are the candles is known at its end. What stays is 48 bytes a
//! candle. Every reader has the same limits, so that no file can take memory or time out of proportion: bytes unpacked,
//! how many times its size a packed file unpacks to, bytes of a line, candles, bytes that are held. Prices become integer
//! ticks with as many decimals as the file needs; digits beyond the fifteenth are binary noise and are rounded,
//! and counted. A bad row is put aside with its line number and a reason; too many stop the import. Whatever the file's
//! order, the candles come out sorted and without duplicates, so importing twice changes nothing.
//!
//! It leaves the store to others, and never guesses silently: the unit of the times, the order of the columns, whether
//! the file was newest first and which interval the rows have are all in the [`ImportReport`].

#[cfg(feature = "columnar")]
mod batches;
mod columnar;
mod container;
mod dates;
mod json;
mod layout;
mod number;
mod rows;

use std::cell::Cell;
use std::io::{Cursor, Read, Seek};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use self::container::{Content, Opened, Packed};
use self::layout::COLUMNS_MAX;
pub use self::number::Unit;
use self::rows::Rows;
use super::{
    calendar,
    candle::{Candle, CandleFault, Interval, Scale},
};

/// Rows between two calls of the progress hook: a few hundred microseconds of work.
const PROGRESS_ROWS: usize = 4096;

/// What to do where candles are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapPolicy {
    /// Leave the gap and report it.
    #[default]
    Keep,
    /// Insert flat candles of zero volume at the last close.
    Fill,
    /// Refuse the file.
    Refuse,
}

/// What to do with candles without trades: zero volume and four equal prices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlatPolicy {
    /// Keep and count them.
    #[default]
    Keep,
    /// Put them aside as refused rows.
    Refuse,
}

/// How to import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImportOptions {
    /// The interval that the rows must have; found from the rows if not given.
    pub interval: Option<Interval>,
    /// Refused rows at which the import stops. A thousand: enough for a damaged day, too few for a wrong file.
    pub refused_max: usize,
    /// How many refused rows, gaps and conflicts the report lists one by one.
    pub listed_max: usize,
    /// Candles that [`GapPolicy::Fill`] may insert in all, so that a wrong date does not fill the disk.
    pub filled_max: usize,
    /// What to do where candles are missing.
    pub gaps: GapPolicy,
    /// What to do with candles without trades.
    pub flat: FlatPolicy,
    /// Columns that the file does not tell, as (what it is: `time`, `open`, `high`, `low`, `close`, `volume`; its name in the
    /// header, or its number from 1).
    pub map: Vec<(String, String)>,
    /// The unit of the times, where their magnitude would be misread.
    pub time_unit: Option<Unit>,
    /// Prices are multiplied by 10 to the power of minus this: 5 for a file of prices times 100,000.
    pub price_shift: u8,
    /// Bytes read of a file, unpacked. 4 GiB: four decades of one-minute candles.
    pub size_max: u64,
    /// Bytes of a file that is held as a whole while it is read: JSON, and columnar files or archives that are packed
    /// again or come from a pipe. Also the limit for the declared unpacked size of a batch or page of a columnar file.
    /// 256 MiB.
    pub held_max: u64,
    /// Bytes of a line of text. 1 MiB: a thousand times the longest line of a candle.
    pub line_max: usize,
    /// Candles of a file; each is held with 48 bytes. 20 million: 38 years of minutes, 1 GB.
    pub candles_max: usize,
    /// How many times its packed size a file may unpack to, beyond the first 64 MiB. 100: candles pack to a fifth, flat ones
    /// to a fiftieth.
    pub ratio_max: u64,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            interval: None,
            refused_max: 1_000,
            listed_max: 20,
            filled_max: 100_000,
            gaps: GapPolicy::Keep,
            flat: FlatPolicy::Keep,
            map: Vec::new(),
            time_unit: None,
            price_shift: 0,
            size_max: 4 << 30,
            held_max: 256 << 20,
            line_max: 1 << 20,
            candles_max: 20_000_000,
            ratio_max: 100,
        }
    }
}

/// How the columns were told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnOrder {
    /// By a header's names.
    Named,
    /// No header; time, open, high, low, close.
    OpenHighLowClose,
    /// No header; time, open, close, high, low: the only order in which every row is a candle.
    OpenCloseHighLow,
}

/// Why a row was put aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RefusedReason {
    /// Fewer columns than the layout needs, as in a truncated last line.
    #[error("{found} columns, {needed} needed")]
    Columns {
        /// Columns in the row.
        found: usize,
        /// Columns needed.
        needed: usize,
    },
    /// The time cannot be read.
    #[error("the time cannot be read")]
    Time,
    /// A number cannot be read; NaN and infinity are none.
    #[error("column {column} is not a finite number")]
    Number {
        /// Number of the column, from 1.
        column: usize,
    },
    /// A comma with three digits behind it, in a file that does not part its columns with commas: it may part thousands or
    /// be a decimal comma, and no number before told which.
    #[error("column {column}: its comma may part thousands or be a decimal comma; write it without, or with a point")]
    Comma {
        /// Number of the column, from 1.
        column: usize,
    },
    /// The numbers are not a candle.
    #[error("{0}")]
    Fault(CandleFault),
    /// Day and month stand the other way round than in other rows, or than was said.
    #[error("day and month stand the other way round than in other rows")]
    DateOrder,
    /// Another's candle; it makes the whole file an [`ImportError::Symbols`].
    #[error("the candle is another's than those before")]
    Symbol,
    /// No trades, and [`FlatPolicy::Refuse`].
    #[error("flat candle without volume")]
    Flat,
    /// More candles than are held; it makes the whole file an [`ImportError::TooManyCandles`].
    #[error("more candles than the limit")]
    TooMany,
}

/// A row that was put aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRow {
    /// Line in the file, from 1; the row's number in a file without lines.
    pub line: usize,
    /// Why.
    pub reason: RefusedReason,
}

/// Missing candles between two that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Open time of the last candle before the gap.
    pub after: i64,
    /// Open time of the first candle behind it.
    pub until: i64,
    /// Whole intervals missing between them.
    pub missing: u64,
}

/// What an import found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportReport {
    /// Whose candles they are, if a column says so.
    pub symbol: Option<String>,
    /// Lines with content behind the header.
    pub rows: usize,
    /// Candles that came out.
    pub candles: usize,
    /// Open times of the first and the last candle.
    pub span: Option<(i64, i64)>,
    /// Units of the times, in order of appearance, as [`Unit::name`] says them.
    pub units: Vec<String>,
    /// How the columns were told apart.
    pub order: ColumnOrder,
    /// Whether the rows ran backwards and were turned round.
    pub newest_first: bool,
    /// Rows that were out of order otherwise, and sorted.
    pub unsorted: usize,
    /// Rows equal to another.
    pub duplicates: usize,
    /// Rows with the time of another, but other numbers: the first in the file is kept.
    pub conflicts: usize,
    /// Numbers of which noise digits were rounded away.
    pub rounded: usize,
    /// Candles of zero volume.
    pub zero_volume: usize,
    /// Whether the file has no volume column.
    pub no_volume: bool,
    /// Gaps in all.
    pub gaps: usize,
    /// Candles missing in all.
    pub missing: u64,
    /// The first few gaps.
    pub first_gaps: Vec<Gap>,
    /// Candles inserted by [`GapPolicy::Fill`].
    pub filled: usize,
    /// Rows put aside in all.
    pub refused: usize,
    /// The first few rows put aside.
    pub first_refused: Vec<RefusedRow>,
}

/// Candles of one series, as imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Sorted by time, no time twice.
    pub candles: Vec<Candle>,
    /// Decimals of the ticks and lots.
    pub scale: Scale,
    /// The interval given, or the commonest distance of two rows. `None` for less than two rows.
    pub interval: Option<Interval>,
    /// What was found.
    pub report: ImportReport,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read.
    pub bytes: usize,
    /// Bytes in all.
    pub bytes_total: usize,
    /// Rows read.
    pub rows: usize,
}

/// Why a file cannot be imported.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImportError {
    /// Neither a header with known names nor rows of time and four prices.
    #[error(
        "no header with open, high, low, close and no row of time and four numbers in the first {lines} lines; is it a csv file of candles?"
    )]
    NoColumns {
        /// Lines looked at.
        lines: usize,
    },
    /// A header lacks a column.
    #[error("{}there is no {missing} column", at_line(*line))]
    MissingColumn {
        /// Line of the header, from 1; 0 in a file without lines.
        line: usize,
        /// What is missing.
        missing: &'static str,
    },
    /// Too many rows had to be put aside.
    #[error("{} refused, limit {limit}; the first at line {}: {}", counted(*count as u64, "row"), first.line, first.reason)]
    TooManyRefused {
        /// Rows refused so far.
        count: usize,
        /// The limit.
        limit: usize,
        /// Good rows before: without any, this is another kind of file.
        taken: usize,
        /// The first of them.
        first: RefusedRow,
    },
    /// The rows have another interval than the one asked for.
    #[error("the rows are {} apart, the interval asked for is {wanted}", length(*found))]
    Interval {
        /// Commonest distance, in milliseconds.
        found: i64,
        /// The interval asked for.
        wanted: Interval,
    },
    /// Some dates can only be day first and others only month first.
    #[error("line {line}: day and month stand the other way round than in the rows before")]
    DateOrder {
        /// The first line that contradicts those before it, from 1.
        line: usize,
    },
    /// Candles of several series, by a column that says whose they are: mixed, they would be a market that never was.
    #[error("line {line}: the candle is another's than those before, which are of {first:?}")]
    Symbols {
        /// The first line of another, from 1.
        line: usize,
        /// Whose candles the lines before are.
        first: String,
    },
    /// Candles are missing, and [`GapPolicy::Refuse`].
    #[error(
        "{}, {} missing; the first after {}",
        counted(*gaps as u64, "gap"), counted(*missing, "candle"), calendar::minute(first.after)
    )]
    Gaps {
        /// How many gaps.
        gaps: usize,
        /// How many candles.
        missing: u64,
        /// The first gap.
        first: Gap,
    },
    /// Filling the gaps would insert too many candles.
    #[error("{missing} candles are missing, more than the {limit} that may be filled in")]
    TooManyMissing {
        /// How many.
        missing: u64,
        /// The limit.
        limit: usize,
    },
    /// No row is a candle.
    #[error("no candle in {rows} rows")]
    Empty {
        /// Rows read.
        rows: usize,
    },
    /// The bytes cannot be read.
    #[error("it cannot be read")]
    Read {
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// A packed file is damaged.
    #[error("cannot unpack {what}")]
    Packed {
        /// Which kind of packing.
        what: &'static str,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// The unpacked file is larger than the limit.
    #[error("it has more than {limit} bytes, unpacked")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// A file that has to be held in memory is larger than the limit.
    #[error("it is {what}, which is held in memory while it is read, and has more than {limit} bytes, unpacked")]
    TooLargeToHold {
        /// What it is.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The ratio of unpacked to packed size is far above that of candles.
    #[error("it unpacks to more than {limit} times its packed size ({unpacked} bytes out of {packed})")]
    Ratio {
        /// Bytes read of it.
        packed: u64,
        /// Bytes that they unpacked to.
        unpacked: u64,
        /// The limit.
        limit: u64,
    },
    /// A line of text is too long for a candle.
    #[error("line {line} has more than {limit} bytes; is it a csv file of candles?")]
    LineTooLong {
        /// The line, from 1.
        line: usize,
        /// The limit.
        limit: usize,
    },
    /// More candles than are held.
    #[error("it has more than {limit} candles: import it in parts")]
    TooManyCandles {
        /// The limit.
        limit: usize,
    },
    /// An archive does not hold exactly one file.
    #[error("the archive holds {count} files, not one: unpack it and import them by name")]
    Archive {
        /// How many.
        count: usize,
    },
    /// Another kind of file.
    #[error("it is {what}")]
    Foreign {
        /// What it is, and what to do.
        what: &'static str,
    },
    /// A file is not what its beginning says.
    #[error("the {what} file is damaged: {why}")]
    Damaged {
        /// What its beginning says.
        what: &'static str,
        /// What was found.
        why: String,
    },
    /// A column that was named is not there.
    #[error("there is no column {name:?} for {of}; the file has {known}")]
    NoColumn {
        /// What it was to be.
        of: String,
        /// The name given.
        name: String,
        /// The columns that there are.
        known: String,
    },
}

/// Where in a file; nowhere in one without lines.
fn at_line(line: usize) -> String {
    if line > 0 { format!("line {line}: ") } else { String::new() }
}

/// `1 gap`, `2 gaps`.
fn counted(n: u64, one: &str) -> String {
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}

/// A distance in time as an interval is written, if it is one.
fn length(millis: i64) -> String {
    Interval::from_millis(millis).map_or_else(|| format!("{millis} ms"), |interval| interval.to_string())
}

/// Imports the bytes of a file of candles. What it is is told from the bytes: CSV, JSON, Parquet, Feather (Arrow IPC), each
/// also packed with gzip or in a zip archive. `progress` is called every few thousand rows.
///
/// # Errors
/// What makes the file as a whole unusable; single bad rows are in the report.
///
/// # Examples
/// ```
/// use atra_agents::market::import::{ImportOptions, import_candles};
/// let csv = b"time,open,high,low,close,volume\n1640995200000,26.65,26.885,26.643,26.806,223357.5\n";
/// let import = import_candles(csv, &ImportOptions::default(), |_| {}).unwrap();
/// assert_eq!(import.candles[0].open, 26_650);
/// assert_eq!(import.scale.price_decimals(), 3);
/// ```
pub fn import_candles(
    bytes: &[u8],
    options: &ImportOptions,
    mut progress: impl FnMut(Progress),
) -> Result<Import, ImportError> {
    let mut progress = |done: Progress| progress(Progress { bytes_total: bytes.len(), ..done });
    let mut source = bytes;
    File { options, packed: None, depth: 0 }.read(&mut source, bytes.len() as u64, &mut progress)
}

/// As [`import_candles`], from what is read bit by bit; `bytes_total` is for the progress alone, 0 if it is not known.
///
/// # Errors
/// As [`import_candles`].
pub fn import_from(
    reader: &mut dyn Read,
    bytes_total: u64,
    options: &ImportOptions,
    mut progress: impl FnMut(Progress),
) -> Result<Import, ImportError> {
    File { options, packed: None, depth: 0 }.read(reader, bytes_total, &mut progress)
}

/// A file, or the entry of an archive.
#[derive(Clone, Copy)]
struct File<'o> {
    options: &'o ImportOptions,
    /// Packed bytes of an entry.
    packed: Option<u64>,
    /// Archives around it.
    depth: usize,
}

impl File<'_> {
    fn read(
        self,
        reader: &mut dyn Read,
        bytes_total: u64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Import, ImportError> {
        let Self { options, packed, .. } = self;
        let read = Cell::new(0);
        let counted = Counted { reader, read: &read };
        let bytes_total = usize::try_from(bytes_total).unwrap_or(usize::MAX);
        let mut told = |rows| {
            // For an archive entry, the bytes read are already unpacked.
            let bytes = usize::try_from(read.get()).unwrap_or(usize::MAX);
            progress(Progress {
                bytes: if packed.is_some() { bytes.min(bytes_total) } else { bytes },
                bytes_total,
                rows,
            });
        };
        let packed = packed.map_or(Packed::Read(&read), Packed::Whole);
        match container::open(Box::new(counted), packed, options)? {
            Opened::Text(text) => import_text(text, options, &mut told),
            Opened::Json(bytes) => json::import(&bytes, options, &mut |done| told(done.rows)),
            Opened::Parquet(bytes) => columnar::parquet(bytes, options, &mut |done| told(done.rows)),
            Opened::Feather(bytes) => columnar::feather(bytes, options, &mut |done| told(done.rows)),
            Opened::Zip(bytes) => self.read_zip(Cursor::new(bytes), progress),
        }
    }

    /// Reads the one file of a zip archive, as it comes.
    fn read_zip(self, source: impl Read + Seek, progress: &mut dyn FnMut(Progress)) -> Result<Import, ImportError> {
        let depth = self.depth + 1;
        if depth > container::DEPTH_MAX {
            return Err(container::TOO_DEEP);
        }
        container::of_zip(source, |entry, packed| {
            Self { packed: Some(packed), depth, ..self }.read(entry, packed, progress)
        })
    }
}

/// As [`import_candles`], from something of `bytes_total` bytes in which one can go back and forth, such as a file. Text is
/// read as it comes, also out of a zip archive, Parquet and Feather a batch of rows at a time; JSON, and Parquet and Feather
/// that are packed once more, are held while they are read.
///
/// # Errors
/// As [`import_candles`].
pub fn import_seekable(
    mut source: impl Read + Seek + Send + 'static,
    bytes_total: u64,
    options: &ImportOptions,
    mut progress: impl FnMut(Progress),
) -> Result<Import, ImportError> {
    let failed = |source| ImportError::Read { source };
    let mut start = Vec::new();
    Read::by_ref(&mut source).take(MAGIC_BYTES).read_to_end(&mut start).map_err(failed)?;
    source.rewind().map_err(failed)?;
    // Those count batches or rows.
    let mut scaled = |Progress { bytes, bytes_total: of, rows }: Progress| {
        let bytes = (bytes as f64 / of.max(1) as f64 * bytes_total as f64) as usize;
        progress(Progress { bytes, bytes_total: usize::try_from(bytes_total).unwrap_or(usize::MAX), rows });
    };
    match container::sniff(&start) {
        Content::Parquet | Content::Feather | Content::Zip if bytes_total > options.size_max => {
            Err(ImportError::TooLarge { limit: options.size_max })
        }
        Content::Parquet => columnar::parquet_seekable((source, bytes_total), options, &mut scaled),
        Content::Feather => columnar::feather_seekable((source, bytes_total), options, &mut scaled),
        Content::Zip => File { options, packed: None, depth: 0 }.read_zip(source, &mut scaled),
        _ => import_from(&mut source, bytes_total, options, progress),
    }
}

/// By which Parquet and Feather are told.
const MAGIC_BYTES: u64 = 8;

/// Counts what is read.
struct Counted<'a> {
    reader: &'a mut dyn Read,
    read: &'a Cell<u64>,
}

impl Read for Counted<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let n = self.reader.read(into)?;
        self.read.set(self.read.get() + n as u64);
        Ok(n)
    }
}

/// CSV, a part of it at a time: the lines that are whole are read, the rest waits for what follows.
fn import_text(
    mut text: container::Text<'_>,
    options: &ImportOptions,
    progress: &mut dyn FnMut(usize),
) -> Result<Import, ImportError> {
    let mut is_last = text.more()?;
    let start = if text.bytes.starts_with(BOM) { BOM.len() } else { 0 };
    // An unfinished line already has the maximum length.
    let layout = layout::detect(&text.bytes[start..], &options.map, options.line_max)?;
    let mut csv = Csv { rows: Rows::new(options, layout, 0), line: layout.lines };
    let mut at = start + layout.start;
    loop {
        let whole =
            if is_last { text.bytes.len() } else { text.bytes.iter().rposition(|b| *b == b'\n').map_or(at, |n| n + 1) };
        csv.take(&text.bytes[at..whole.max(at)], options.line_max)?;
        progress(csv.rows.report.rows);
        if is_last {
            return csv.rows.finish();
        }
        text.bytes.drain(..whole.max(at));
        // Without this, the rest of a long line would be searched again for every part that is read.
        if text.bytes.len() > options.line_max {
            return Err(ImportError::LineTooLong { line: csv.line + 1, limit: options.line_max });
        }
        at = 0;
        is_last = text.more()?;
    }
}

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Lines of CSV.
struct Csv<'o> {
    rows: Rows<'o>,
    /// Lines so far.
    line: usize,
}

impl Csv<'_> {
    /// Reads whole lines; the last one may lack its end.
    fn take(&mut self, bytes: &[u8], line_max: usize) -> Result<(), ImportError> {
        // One array for all lines: clearing it for each would cost as much as splitting.
        let mut fields = [&[][..]; COLUMNS_MAX];
        let mut at = 0;
        while at < bytes.len() {
            self.line += 1;
            let next = self.rows.line(bytes, at, self.line, &mut fields)?;
            if next - at > line_max {
                return Err(ImportError::LineTooLong { line: self.line, limit: line_max });
            }
            at = next;
        }
        Ok(())
    }
}

#[cfg(test)]
mod limit_tests;
#[cfg(test)]
mod tests;
