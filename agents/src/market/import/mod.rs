//! CSV files of candles, as exchanges, brokers and pandas really write them, into exact candles and a report.
//!
//! Everything works on bytes in memory: the caller reads the file (and may cut it short in a test). Prices become
//! integer ticks with as many decimals as the file needs; digits beyond the fifteenth are binary noise and are rounded,
//! and counted. A bad row is put aside with its line number and a reason; too many stop the import. Whatever the file's
//! order, the candles come out sorted and without duplicates, so importing twice changes nothing.
//!
//! It leaves the store to others, and never guesses silently: the unit of the times, the order of the columns, whether
//! the file was newest first and which interval the rows have are all in the [`ImportReport`].

mod layout;
mod number;

use std::collections::BTreeMap;
use std::io::Read;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use self::layout::{COLUMNS_MAX, Layout};
use self::number::{Decimal, Unit};
use super::candle::{Candle, CandleFault, DECIMALS_MAX, Interval, LOTS_MAX, Scale, TICKS_MAX, power_of_ten};

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
    /// The numbers are not a candle.
    #[error("{0}")]
    Fault(CandleFault),
    /// No trades, and [`FlatPolicy::Refuse`].
    #[error("flat candle without volume")]
    Flat,
}

/// A row that was put aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRow {
    /// Line in the file, from 1.
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
    /// Lines with content behind the header.
    pub rows: usize,
    /// Candles that came out.
    pub candles: usize,
    /// Open times of the first and the last candle.
    pub span: Option<(i64, i64)>,
    /// Units of the times, in order of appearance: `s`, `ms`, `us`, `ns`, `text`.
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
    #[error("line {line}: the header has no {missing} column")]
    MissingColumn {
        /// Line of the header, from 1.
        line: usize,
        /// What is missing.
        missing: &'static str,
    },
    /// Too many rows had to be put aside.
    #[error("{count} rows refused, limit {limit}; the first at line {}: {}", first.line, first.reason)]
    TooManyRefused {
        /// Rows refused so far.
        count: usize,
        /// The limit.
        limit: usize,
        /// The first of them.
        first: RefusedRow,
    },
    /// The rows have another interval than the one asked for.
    #[error("the rows are {found} ms apart, the interval asked for is {wanted}")]
    Interval {
        /// Commonest distance, in milliseconds.
        found: i64,
        /// The interval asked for.
        wanted: Interval,
    },
    /// Candles are missing, and [`GapPolicy::Refuse`].
    #[error("{gaps} gaps, {missing} candles missing; the first behind {}", first.after)]
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
    /// A gzip stream is damaged, or larger than the limit.
    #[error("cannot unpack gzip")]
    Gzip(#[source] std::io::Error),
}

/// Imports the bytes of a CSV file, packed with gzip or not. `progress` is called every few thousand rows.
///
/// # Errors
/// What makes the file as a whole unusable; single bad rows are in the report.
///
/// # Examples
/// ```
/// use atra_agents::market::import::{ImportOptions, import_csv};
/// let csv = b"time,open,high,low,close,volume\n1640995200000,26.65,26.885,26.643,26.806,223357.5\n";
/// let import = import_csv(csv, &ImportOptions::default(), |_| {}).unwrap();
/// assert_eq!(import.candles[0].open, 26_650);
/// assert_eq!(import.scale.price_decimals(), 3);
/// ```
pub fn import_csv(
    bytes: &[u8],
    options: &ImportOptions,
    mut progress: impl FnMut(Progress),
) -> Result<Import, ImportError> {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        /// Four decades of one-minute candles; a bound against an archive that unpacks without end.
        const UNPACKED_BYTES_MAX: u64 = 4 << 30;
        let mut plain = Vec::with_capacity(bytes.len().saturating_mul(4));
        flate2::read::MultiGzDecoder::new(bytes)
            .take(UNPACKED_BYTES_MAX)
            .read_to_end(&mut plain)
            .map_err(ImportError::Gzip)?;
        return import_plain(&plain, options, &mut progress);
    }
    import_plain(bytes, options, &mut progress)
}

fn import_plain(
    bytes: &[u8],
    options: &ImportOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Import, ImportError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let layout = layout::detect(bytes)?;
    let mut rows = Rows::new(options, layout, bytes.len() / 48);
    let (mut line, mut at) = (layout.lines, layout.start);
    // One array for all lines: clearing it for each would cost as much as splitting.
    let mut fields = [&[][..]; COLUMNS_MAX];
    while at < bytes.len() {
        line += 1;
        at = rows.line(bytes, at, line, &mut fields)?;
        if line.is_multiple_of(PROGRESS_ROWS) {
            progress(Progress { bytes: at, bytes_total: bytes.len(), rows: rows.report.rows });
        }
    }
    progress(Progress { bytes: bytes.len(), bytes_total: bytes.len(), rows: rows.report.rows });
    rows.finish()
}

// === rows ===

struct Rows<'o> {
    options: &'o ImportOptions,
    layout: Layout,
    candles: Vec<Candle>,
    price_decimals: u8,
    price_max: i64,
    volume_decimals: u8,
    /// Lowered for good once a volume did not fit with more decimals.
    volume_decimals_max: u8,
    units: Vec<Unit>,
    report: ImportReport,
}

impl<'o> Rows<'o> {
    fn new(options: &'o ImportOptions, layout: Layout, rows_expected: usize) -> Self {
        let report = ImportReport {
            rows: 0,
            candles: 0,
            span: None,
            units: Vec::new(),
            order: layout.order,
            newest_first: false,
            unsorted: 0,
            duplicates: 0,
            conflicts: 0,
            rounded: 0,
            zero_volume: 0,
            no_volume: layout.volume.is_none(),
            gaps: 0,
            missing: 0,
            first_gaps: Vec::new(),
            filled: 0,
            refused: 0,
            first_refused: Vec::new(),
        };
        Self {
            options,
            layout,
            candles: Vec::with_capacity(rows_expected),
            price_decimals: 0,
            price_max: 0,
            volume_decimals: 0,
            volume_decimals_max: DECIMALS_MAX,
            units: Vec::new(),
            report,
        }
    }

    /// Reads the line at `at` and returns where the next one begins.
    fn line<'b>(
        &mut self,
        bytes: &'b [u8],
        at: usize,
        line: usize,
        fields: &mut [&'b [u8]; COLUMNS_MAX],
    ) -> Result<usize, ImportError> {
        if let Some(next) = self.plain_line(bytes, at) {
            self.report.rows += 1;
            return Ok(next);
        }
        let delimiter = self.layout.delimiter;
        // Fields and the end of the line in one pass; a quote sends the line through the careful splitter.
        let (mut count, mut start, mut end, mut quoted) = (0, at, bytes.len(), false);
        for (offset, &byte) in bytes[at..].iter().enumerate() {
            if byte > b';' {
                continue;
            }
            if byte == delimiter {
                if count < COLUMNS_MAX {
                    fields[count] = &bytes[start..at + offset];
                    count += 1;
                }
                start = at + offset + 1;
            } else if byte == b'\n' {
                end = at + offset;
                break;
            } else if byte == b'"' {
                quoted = true;
            }
        }
        if quoted {
            count = layout::split(bytes[at..end].trim_ascii(), delimiter, fields);
        } else if count < COLUMNS_MAX {
            fields[count] = bytes[start..end].strip_suffix(b"\r").unwrap_or(&bytes[start..end]);
            count += 1;
        }
        if count == 1 && fields[0].trim_ascii().is_empty() {
            return Ok(end + 1);
        }
        self.report.rows += 1;
        if let Err(reason) = self.row(fields, count) {
            self.refuse(line, reason)?;
        }
        Ok(end + 1)
    }

    /// The common line in one pass: milliseconds, then plain decimals, nothing else that matters. `None`, with no
    /// candle taken, for any other line and for any row that is not a good candle: the careful path finds out why.
    #[inline]
    fn plain_line(&mut self, bytes: &[u8], mut at: usize) -> Option<usize> {
        const PLAIN_COLUMNS: usize = 6;
        let Layout { columns, volume, needed, delimiter, .. } = self.layout;
        if columns[0] != 0 || !(5..=PLAIN_COLUMNS).contains(&needed) {
            return None;
        }
        let digits = bytes.get(at..at + 13)?;
        let mut time = 0;
        for byte in digits {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            time = time * 10 + i64::from(digit);
        }
        at += 13;
        let mut values = [Decimal { mantissa: 0, decimals: 0, rounded: false }; PLAIN_COLUMNS];
        for value in &mut values[1..needed] {
            if *bytes.get(at)? != delimiter {
                return None;
            }
            at += 1;
            *value = number::plain_decimal(bytes, &mut at)?;
        }
        let next = match bytes.get(at) {
            None => at,
            Some(b'\n') => at + 1,
            Some(b'\r') if bytes.get(at + 1) == Some(&b'\n') => at + 2,
            // Columns that nobody asked for.
            Some(&byte) if byte == delimiter => {
                bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |end| at + end + 1)
            }
            _ => return None,
        };
        let [_, open, high, low, close] = columns;
        let prices = [values[open], values[high], values[low], values[close]];
        let volume = volume.map_or(values[0], |column| values[column]);
        self.take(time, Unit::Millis, prices, volume).ok()?;
        Some(next)
    }

    fn row(&mut self, fields: &[&[u8]; COLUMNS_MAX], count: usize) -> Result<(), RefusedReason> {
        let Layout { columns: [time, open, high, low, close], volume, needed, .. } = self.layout;
        if count < needed {
            return Err(RefusedReason::Columns { found: count, needed });
        }
        let number = |i: usize| number::decimal(fields[i]).ok_or(RefusedReason::Number { column: i + 1 });
        let (time, unit) = number::time(fields[time]).ok_or(RefusedReason::Time)?;
        let prices = [number(open)?, number(high)?, number(low)?, number(close)?];
        let volume = volume.map_or(Ok(Decimal { mantissa: 0, decimals: 0, rounded: false }), number)?;

        self.take(time, unit, prices, volume)
    }

    /// Takes a row's values. On an error no candle is taken.
    #[inline]
    fn take(&mut self, time: i64, unit: Unit, prices: [Decimal; 4], volume: Decimal) -> Result<(), RefusedReason> {
        let decimals = prices.iter().fold(self.price_decimals, |most, p| most.max(p.decimals));
        let [open, high, low, close] =
            prices.map(|p| p.mantissa.checked_mul(power_of_ten(decimals - p.decimals)).unwrap_or(i64::MAX));
        let candle = Candle { time, open, high, low, close, volume: volume.mantissa.clamp(-1, LOTS_MAX) };
        candle.check().map_err(RefusedReason::Fault)?;
        if self.options.flat == FlatPolicy::Refuse && candle.volume == 0 && high == low {
            return Err(RefusedReason::Flat);
        }
        if decimals > self.price_decimals {
            self.widen_prices(decimals)?;
        }
        let lots = self.lots(volume)?;
        self.price_max = self.price_max.max(high);
        self.report.rounded += prices.iter().filter(|p| p.rounded).count() + usize::from(volume.rounded);
        if self.units.last() != Some(&unit) && !self.units.contains(&unit) {
            self.units.push(unit);
        }
        self.candles.push(Candle { volume: lots, ..candle });
        Ok(())
    }

    /// Gives all earlier prices more decimals. Happens at most [`DECIMALS_MAX`] times a file.
    fn widen_prices(&mut self, decimals: u8) -> Result<(), RefusedReason> {
        let factor = power_of_ten(decimals - self.price_decimals);
        if self.price_max.checked_mul(factor).is_none_or(|max| max > TICKS_MAX) {
            return Err(RefusedReason::Fault(CandleFault::OutOfRange));
        }
        for c in &mut self.candles {
            (c.open, c.high, c.low, c.close) = (c.open * factor, c.high * factor, c.low * factor, c.close * factor);
        }
        self.price_max *= factor;
        self.price_decimals = decimals;
        Ok(())
    }

    /// A volume in lots. Gives earlier volumes more decimals if it needs them, or all of them fewer if it is too great.
    fn lots(&mut self, volume: Decimal) -> Result<i64, RefusedReason> {
        let fits = |lots: &i64| *lots <= LOTS_MAX;
        while self.volume_decimals < volume.decimals.min(self.volume_decimals_max) {
            let greatest = self.candles.iter().map(|c| c.volume).max().unwrap_or(0);
            if greatest.checked_mul(10).filter(fits).is_none() {
                self.volume_decimals_max = self.volume_decimals;
                break;
            }
            self.candles.iter_mut().for_each(|c| c.volume *= 10);
            self.volume_decimals += 1;
        }
        loop {
            let decimals = self.volume_decimals;
            let lots = if volume.decimals <= decimals {
                volume.mantissa.checked_mul(power_of_ten(decimals - volume.decimals))
            } else {
                self.report.rounded += 1;
                let divisor = power_of_ten(volume.decimals - decimals);
                Some((volume.mantissa + divisor / 2) / divisor)
            };
            if let Some(lots) = lots.filter(fits) {
                return Ok(lots);
            }
            if decimals == 0 {
                return Err(RefusedReason::Fault(CandleFault::OutOfRange));
            }
            self.candles.iter_mut().for_each(|c| c.volume = (c.volume + 5) / 10);
            self.volume_decimals -= 1;
            self.volume_decimals_max = self.volume_decimals;
        }
    }

    fn refuse(&mut self, line: usize, reason: RefusedReason) -> Result<(), ImportError> {
        let row = RefusedRow { line, reason };
        self.report.refused += 1;
        if self.report.first_refused.len() < self.options.listed_max.max(1) {
            self.report.first_refused.push(row);
        }
        if self.report.refused > self.options.refused_max {
            return Err(ImportError::TooManyRefused {
                count: self.report.refused,
                limit: self.options.refused_max,
                first: self.report.first_refused[0],
            });
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Import, ImportError> {
        self.sort();
        let first_last = self.candles.first().zip(self.candles.last());
        let Some((first, last)) = first_last.map(|(a, b)| (a.time, b.time)) else {
            return Err(match self.report.first_refused.first() {
                Some(&first) => {
                    ImportError::TooManyRefused { count: self.report.refused, limit: self.options.refused_max, first }
                }
                None => ImportError::Empty { rows: self.report.rows },
            });
        };
        let interval = self.interval()?;
        if let Some(interval) = interval {
            self.gaps(interval)?;
        }
        let Self { candles, mut report, units, price_decimals, volume_decimals, .. } = self;
        report.candles = candles.len();
        report.span = Some((first, last));
        report.zero_volume = candles.iter().filter(|c| c.volume == 0).count();
        let name = |unit| match unit {
            Unit::Seconds => "s",
            Unit::Millis => "ms",
            Unit::Micros => "us",
            Unit::Nanos => "ns",
            Unit::Text => "text",
        };
        report.units = units.into_iter().map(|unit| name(unit).to_owned()).collect();
        // Both are at most DECIMALS_MAX: a Decimal has no more.
        let scale = Scale::new(price_decimals, volume_decimals).unwrap_or_default();
        Ok(Import { candles, scale, interval, report })
    }

    fn sort(&mut self) {
        let falls = self.candles.windows(2).filter(|pair| pair[0].time > pair[1].time).count();
        let rises = self.candles.windows(2).filter(|pair| pair[0].time < pair[1].time).count();
        self.report.newest_first = falls > rises;
        self.report.unsorted = falls.min(rises);
        if falls > 0 {
            // Stable, so that of two rows with one time the first in the file stays first.
            self.candles.sort_by_key(|c| c.time);
        }
        let (mut equal, mut other) = (0, 0);
        self.candles.dedup_by(|next, kept| {
            let same = next.time == kept.time;
            equal += usize::from(same && next == kept);
            other += usize::from(same && next != kept);
            same
        });
        (self.report.duplicates, self.report.conflicts) = (equal, other);
    }

    /// The commonest distance between rows; ties go to the shorter.
    fn interval(&self) -> Result<Option<Interval>, ImportError> {
        let mut distances = BTreeMap::<i64, usize>::new();
        for pair in self.candles.windows(2).take(10_000) {
            *distances.entry(pair[1].time - pair[0].time).or_default() += 1;
        }
        let found = distances.into_iter().max_by_key(|(distance, count)| (*count, -distance)).map(|(d, _)| d);
        match (self.options.interval, found) {
            (Some(wanted), Some(found)) if wanted.millis() != found => Err(ImportError::Interval { found, wanted }),
            (Some(wanted), _) => Ok(Some(wanted)),
            (None, found) => Ok(found.and_then(Interval::from_millis)),
        }
    }

    fn gaps(&mut self, interval: Interval) -> Result<(), ImportError> {
        let millis = interval.millis();
        for pair in self.candles.windows(2) {
            let distance = pair[1].time - pair[0].time;
            if distance > millis {
                let gap = Gap { after: pair[0].time, until: pair[1].time, missing: ((distance - 1) / millis) as u64 };
                self.report.gaps += 1;
                self.report.missing += gap.missing;
                if self.report.first_gaps.len() < self.options.listed_max.max(1) {
                    self.report.first_gaps.push(gap);
                }
            }
        }
        let (gaps, missing) = (self.report.gaps, self.report.missing);
        match (self.options.gaps, self.report.first_gaps.first()) {
            (GapPolicy::Refuse, Some(&first)) => Err(ImportError::Gaps { gaps, missing, first }),
            (GapPolicy::Fill, Some(_)) if missing > self.options.filled_max as u64 => {
                Err(ImportError::TooManyMissing { missing, limit: self.options.filled_max })
            }
            (GapPolicy::Fill, Some(_)) => {
                self.fill(millis);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn fill(&mut self, millis: i64) {
        let mut filled = Vec::with_capacity(self.candles.len() + self.report.missing as usize);
        for candle in &self.candles {
            while let Some(&Candle { time, close, .. }) =
                filled.last().filter(|l: &&Candle| l.time + millis < candle.time)
            {
                filled.push(Candle { time: time + millis, open: close, high: close, low: close, close, volume: 0 });
            }
            filled.push(*candle);
        }
        self.report.filled = filled.len() - self.candles.len();
        self.candles = filled;
    }
}

#[cfg(test)]
mod tests;
