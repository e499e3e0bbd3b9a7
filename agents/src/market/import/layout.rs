//! Which column of a CSV file is what: by header names, or by count and plausibility where there is no header.

use super::number::{decimal, time};
use super::{ColumnOrder, ImportError};

/// Columns looked at; Binance has twelve.
pub(super) const COLUMNS_MAX: usize = 32;
/// Lines before the header that may be comments.
const COMMENT_LINES_MAX: usize = 8;
/// Rows looked at to tell the order of columns without a header.
const SAMPLE_ROWS: usize = 200;

const TIME_NAMES: [&str; 12] = [
    "time",
    "open_time",
    "opentime",
    "open time",
    "timestamp",
    "date",
    "datetime",
    "date_time",
    "ts",
    "t",
    "unix",
    "time_open",
];
const VOLUME_NAMES: [&str; 7] = ["volume", "vol", "v", "base_volume", "volume_base", "tick_volume", "tickvol"];

/// Where the values are in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) delimiter: u8,
    /// Columns of time, open, high, low, close.
    pub(super) columns: [usize; 5],
    pub(super) volume: Option<usize>,
    /// Columns that a row must have at least.
    pub(super) needed: usize,
    /// Byte offset of the first row, and how many lines precede it.
    pub(super) start: usize,
    pub(super) lines: usize,
    pub(super) order: ColumnOrder,
}

/// Splits a line into fields, quotes removed. Returns how many there are; further ones are ignored.
pub(super) fn split<'a>(line: &'a [u8], delimiter: u8, fields: &mut [&'a [u8]; COLUMNS_MAX]) -> usize {
    let (mut count, mut start) = (0, 0);
    let mut quoted = false;
    for at in 0..=line.len() {
        match line.get(at) {
            Some(b'"') => quoted = !quoted,
            Some(&byte) if byte != delimiter || quoted => {}
            _ => {
                if count < COLUMNS_MAX {
                    let field = line[start..at].trim_ascii();
                    fields[count] = field.strip_prefix(b"\"").and_then(|f| f.strip_suffix(b"\"")).unwrap_or(field);
                    count += 1;
                }
                start = at + 1;
            }
        }
    }
    count
}

/// Finds the delimiter, the header or its absence, and the columns.
pub(super) fn detect(bytes: &[u8]) -> Result<Layout, ImportError> {
    let mut fields = [&[][..]; COLUMNS_MAX];
    let mut start = 0;
    for (lines, line) in bytes.split_inclusive(|b| *b == b'\n').take(COMMENT_LINES_MAX).enumerate() {
        let next = start + line.len();
        let delimiter = [b',', b';', b'\t']
            .into_iter()
            .max_by_key(|d| (line.iter().filter(|b| *b == d).count(), *d == b','))
            .unwrap_or(b',');
        let count = split(line.trim_ascii(), delimiter, &mut fields);
        let fields = &fields[..count];
        if let Some(layout) = by_names(fields, delimiter, next, lines + 1)? {
            return Ok(layout);
        }
        if count >= 5 && time(fields[0]).is_some() && fields[1..5].iter().all(|f| decimal(f).is_some()) {
            return Ok(by_position(bytes, delimiter, start, lines, count));
        }
        start = next;
    }
    Err(ImportError::NoColumns { lines: COMMENT_LINES_MAX })
}

fn by_names(fields: &[&[u8]], delimiter: u8, start: usize, lines: usize) -> Result<Option<Layout>, ImportError> {
    let names: Vec<String> = fields.iter().map(|f| String::from_utf8_lossy(f).to_ascii_lowercase()).collect();
    let find = |wanted: &[&str]| wanted.iter().find_map(|w| names.iter().position(|name| name == w));
    let prices = [find(&["open", "o"]), find(&["high", "h"]), find(&["low", "l"]), find(&["close", "c"])];
    if prices.iter().flatten().count() < 3 {
        return Ok(None);
    }
    // pandas leaves its index column unnamed; that is where the time then is.
    let time =
        find(&TIME_NAMES).or_else(|| (names.first()?.is_empty() || names[0].starts_with("unnamed")).then_some(0));
    let [Some(time), Some(open), Some(high), Some(low), Some(close)] =
        [time, prices[0], prices[1], prices[2], prices[3]]
    else {
        let missing = ["time", "open", "high", "low", "close"]
            .into_iter()
            .zip([time, prices[0], prices[1], prices[2], prices[3]])
            .find_map(|(name, column)| column.is_none().then_some(name))
            .unwrap_or("time");
        return Err(ImportError::MissingColumn { line: lines, missing });
    };
    let columns = [time, open, high, low, close];
    let volume = find(&VOLUME_NAMES);
    let needed = columns.into_iter().chain(volume).max().unwrap_or(0) + 1;
    Ok(Some(Layout { delimiter, columns, volume, needed, start, lines, order: ColumnOrder::Named }))
}

/// Time first, then open, high, low, close – unless the rows only make sense as open, close, high, low (Bitfinex).
fn by_position(bytes: &[u8], delimiter: u8, start: usize, lines: usize, count: usize) -> Layout {
    let mut fields = [&[][..]; COLUMNS_MAX];
    let (mut usual, mut close_second) = (0, 0);
    for line in bytes[start..].split(|b| *b == b'\n').take(SAMPLE_ROWS) {
        let found = split(line.trim_ascii(), delimiter, &mut fields);
        let number = |i: usize| {
            let text = std::str::from_utf8(fields[i]).ok()?;
            text.parse::<f64>().ok().filter(|_| i < found)
        };
        let (Some(a), Some(b), Some(c), Some(d)) = (number(1), number(2), number(3), number(4)) else { continue };
        usual += usize::from(b < a.max(d) || c > a.min(d));
        close_second += usize::from(c < a.max(b) || d > a.min(b));
    }
    let (columns, order) = if usual > 0 && close_second == 0 {
        ([0, 1, 3, 4, 2], ColumnOrder::OpenCloseHighLow)
    } else {
        ([0, 1, 2, 3, 4], ColumnOrder::OpenHighLowClose)
    };
    let volume = (count > 5).then_some(5);
    Layout { delimiter, columns, volume, needed: count.min(6), start, lines, order }
}
