//! Which column is what: by what somebody said, by header names, or by count and plausibility where there is no header.

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

/// Names of a column that says whose candle a row is.
const SYMBOL_NAMES: [&str; 5] = ["symbol", "ticker", "tic", "pair", "instrument"];

/// Where the values are in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) delimiter: u8,
    /// Columns of time, open, high, low, close.
    pub(super) columns: [usize; 5],
    pub(super) volume: Option<usize>,
    /// Whose candle a row is.
    pub(super) symbol: Option<usize>,
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

/// What the columns can be, in the order of [`Layout::columns`], and then the volume.
const ROLES: [&str; 6] = ["time", "open", "high", "low", "close", "volume"];

/// What somebody said about the columns: (role, name or number from 1).
pub(super) type Map = [(String, String)];

/// The column of each role that somebody named.
fn mapped(map: &Map, names: &[String]) -> Result<[Option<usize>; 6], ImportError> {
    let mut columns = [None; 6];
    for (of, name) in map {
        let by_name = names.iter().position(|known| known.eq_ignore_ascii_case(name));
        let by_number = || name.parse::<usize>().ok().and_then(|n| n.checked_sub(1)).filter(|n| *n < names.len());
        let column = by_name.or_else(by_number);
        match (ROLES.iter().position(|role| role == of), column) {
            (Some(role), Some(column)) => columns[role] = Some(column),
            _ => {
                let known = names.join(", ").chars().take(200).collect();
                return Err(ImportError::NoColumn { of: of.clone(), name: name.clone(), known });
            }
        }
    }
    Ok(columns)
}

/// The layout of a file whose columns have names, and no lines.
pub(super) fn of_names(names: &[String], map: &Map) -> Result<Layout, ImportError> {
    let fields: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
    let missing = ImportError::MissingColumn { line: 0, missing: "open, high, low and close" };
    by_names(&fields, map, b',', 0, 0)?.ok_or(missing)
}

/// The layout of rows without names, from a few of them as numbers.
pub(super) fn of_rows(rows: impl Iterator<Item = Vec<Option<f64>>>, map: &Map) -> Result<Layout, ImportError> {
    let (mut votes, mut count) = (Votes::default(), 0);
    for row in rows.take(SAMPLE_ROWS) {
        count = count.max(row.len());
        if let [_, Some(a), Some(b), Some(c), Some(d), ..] = row[..] {
            votes.take([a, b, c, d]);
        }
    }
    if count < 5 {
        return Err(ImportError::NoColumns { lines: SAMPLE_ROWS });
    }
    positioned(&votes, map, &Place { delimiter: b',', start: 0, lines: 0 }, count)
}

/// Finds the delimiter, the header or its absence, and the columns.
pub(super) fn detect(bytes: &[u8], map: &Map, line_max: usize) -> Result<Layout, ImportError> {
    let mut fields = [&[][..]; COLUMNS_MAX];
    let mut start = 0;
    for (lines, line) in bytes.split_inclusive(|b| *b == b'\n').take(COMMENT_LINES_MAX).enumerate() {
        let next = start + line.len();
        if line.len() >= line_max && !line.ends_with(b"\n") {
            return Err(ImportError::LineTooLong { line: lines + 1, limit: line_max });
        }
        let delimiter = [b',', b';', b'\t']
            .into_iter()
            .max_by_key(|d| (line.iter().filter(|b| *b == d).count(), *d == b','))
            .unwrap_or(b',');
        let count = split(line.trim_ascii(), delimiter, &mut fields);
        let fields = &fields[..count];
        if let Some(layout) = by_names(fields, map, delimiter, next, lines + 1)? {
            return Ok(layout);
        }
        if count >= 5 && time(fields[0]).is_some() && fields[1..5].iter().all(|f| decimal(f).is_some()) {
            return by_position(bytes, map, &Place { delimiter, start, lines }, count);
        }
        start = next;
    }
    Err(ImportError::NoColumns { lines: COMMENT_LINES_MAX })
}

fn by_names(
    fields: &[&[u8]],
    map: &Map,
    delimiter: u8,
    start: usize,
    lines: usize,
) -> Result<Option<Layout>, ImportError> {
    let names: Vec<String> = fields.iter().map(|f| String::from_utf8_lossy(f).to_ascii_lowercase()).collect();
    // A row of numbers is no header, whatever somebody says about its columns.
    if fields.iter().take(5).filter(|field| decimal(field).is_some()).count() >= 4 {
        return Ok(None);
    }
    let find = |wanted: &[&str]| wanted.iter().find_map(|w| names.iter().position(|name| name == w));
    let known = [&["open", "o"][..], &["high", "h"], &["low", "l"], &["close", "c"]].map(find);
    let is_header = known.iter().flatten().count() >= 3;
    let said = match mapped(map, &names) {
        Ok(said) => said,
        // The comment before the header has no such column.
        Err(error) => return if is_header { Err(error) } else { Ok(None) },
    };
    if !is_header && said.iter().flatten().count() < 3 {
        return Ok(None);
    }
    // pandas leaves its index column unnamed; that is where the time then is.
    let index = || (names.first()?.is_empty() || names[0].starts_with("unnamed")).then_some(0);
    let time = said[0].or_else(|| find(&TIME_NAMES)).or_else(index);
    let [open, high, low, close] = [1, 2, 3, 4].map(|role| said[role].or(known[role - 1]));
    let found = [time, open, high, low, close];
    let [Some(time), Some(open), Some(high), Some(low), Some(close)] = found else {
        let missing = ROLES.into_iter().zip(found).find_map(|(name, column)| column.is_none().then_some(name));
        return Err(ImportError::MissingColumn { line: lines, missing: missing.unwrap_or("time") });
    };
    let columns = [time, open, high, low, close];
    let volume = said[5].or_else(|| find(&VOLUME_NAMES));
    let needed = columns.into_iter().chain(volume).max().unwrap_or(0) + 1;
    if needed > COLUMNS_MAX {
        return Err(ImportError::NoColumns { lines: COMMENT_LINES_MAX });
    }
    let symbol = find(&SYMBOL_NAMES).filter(|at| *at < COLUMNS_MAX && volume != Some(*at) && !columns.contains(at));
    Ok(Some(Layout { delimiter, columns, volume, symbol, needed, start, lines, order: ColumnOrder::Named }))
}

/// Where the rows begin.
struct Place {
    delimiter: u8,
    start: usize,
    lines: usize,
}

/// How many rows make no sense in either order of columns.
#[derive(Default)]
struct Votes {
    usual: usize,
    close_second: usize,
}

impl Votes {
    fn take(&mut self, [a, b, c, d]: [f64; 4]) {
        self.usual += usize::from(b < a.max(d) || c > a.min(d));
        self.close_second += usize::from(c < a.max(b) || d > a.min(b));
    }
}

/// Time first, then open, high, low, close – unless the rows only make sense as open, close, high, low (Bitfinex).
fn by_position(bytes: &[u8], map: &Map, place: &Place, count: usize) -> Result<Layout, ImportError> {
    let mut fields = [&[][..]; COLUMNS_MAX];
    let mut votes = Votes::default();
    for line in bytes[place.start..].split(|b| *b == b'\n').take(SAMPLE_ROWS) {
        let found = split(line.trim_ascii(), place.delimiter, &mut fields);
        let number = |i: usize| {
            let text = std::str::from_utf8(fields[i]).ok()?;
            text.parse::<f64>().ok().filter(|_| i < found)
        };
        if let (Some(a), Some(b), Some(c), Some(d)) = (number(1), number(2), number(3), number(4)) {
            votes.take([a, b, c, d]);
        }
    }
    positioned(&votes, map, place, count)
}

fn positioned(votes: &Votes, map: &Map, place: &Place, count: usize) -> Result<Layout, ImportError> {
    let &Place { delimiter, start, lines } = place;
    let (mut columns, order) = if votes.usual > 0 && votes.close_second == 0 {
        ([0, 1, 3, 4, 2], ColumnOrder::OpenCloseHighLow)
    } else {
        ([0, 1, 2, 3, 4], ColumnOrder::OpenHighLowClose)
    };
    let mut volume = (count > 5).then_some(5);
    let numbers: Vec<String> = (1..=count.min(COLUMNS_MAX)).map(|n| n.to_string()).collect();
    let said = mapped(map, &numbers)?;
    for (column, said) in columns.iter_mut().zip(said) {
        *column = said.unwrap_or(*column);
    }
    volume = said[5].or(volume);
    let order = if map.is_empty() { order } else { ColumnOrder::Named };
    let needed = columns.into_iter().chain(volume).max().unwrap_or(0) + 1;
    Ok(Layout { delimiter, columns, volume, symbol: None, needed, start, lines, order })
}
