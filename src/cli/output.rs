//! What goes to standard output: plain tables for people, one JSON value a line for programs.
//!
//! Standard output is data and nothing else; progress and errors go to standard error. Colours only on a terminal, and
//! not with `NO_COLOR`. A reader that went away (`atra … | head`) is a quiet end, not an error.

use std::{
    borrow::Cow,
    env,
    io::{self, BufWriter, IsTerminal, StdoutLock, Write},
};

use serde::Serialize;

use super::{
    error::CliError,
    escape::{self, STYLE_END, STYLES},
    layout::{COLUMN_GAP, cut, fit, width, wrap},
};

/// The longest payload in a line for people.
pub(crate) const SHORT_CHARS: usize = 100;
/// The narrowest terminal that text is laid out for. 20: what is narrower wraps by itself.
const COLUMNS_MIN: usize = 20;

/// How a text is set off on a terminal.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Style {
    /// Headings, names.
    Bold,
    /// What matters less.
    Dim,
    /// What is wrong.
    Red,
    /// What is well.
    Green,
}

/// Codes of the styles, in the order of [`STYLES`].
const CODES: [u8; 4] = [1, 2, 31, 32];

/// Standard output of one command.
pub(crate) struct Output {
    out: BufWriter<StdoutLock<'static>>,
    json: bool,
    colours: bool,
    /// Whether the command continues after its reader has closed the output, since its exit code is still needed.
    outlives_reader: bool,
    /// The width of the terminal; `None` if standard output is none, and nothing is cut or wrapped.
    columns: Option<usize>,
}

impl Output {
    /// Takes standard output for the length of a command.
    pub(crate) fn new(json: bool) -> Self {
        let stdout = io::stdout();
        let is_terminal = !json && stdout.is_terminal();
        let columns = is_terminal.then(|| columns(&console::Term::stdout()));
        Self {
            out: BufWriter::new(stdout.lock()),
            json,
            outlives_reader: false,
            colours: is_terminal && wants_colours(),
            columns,
        }
    }

    /// Whether a program reads.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// A line of JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string(value).map_err(|error| CliError::Output(error.into()))?;
        self.put(&format!("{}\n", escape::json(&text)))
    }

    /// A value as JSON for people, in lines.
    pub(crate) fn pretty(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(value).map_err(|error| CliError::Output(error.into()))?;
        self.put(&format!("{}\n", escape::json(&text)))
    }

    /// A line of text, wrapped at words on a terminal. A line end in it is escaped.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), CliError> {
        self.wrapped(&rendered_line(text), 0)
    }

    /// A line of text, cut with `…` on a terminal: for what is read in columns.
    pub(crate) fn row(&mut self, text: &str) -> Result<(), CliError> {
        let text = rendered_line(text);
        let text = self.columns.map_or_else(|| text.to_string(), |columns| cut(&text, columns));
        self.write(&text)
    }

    /// Text that has its line ends, as it is: never wrapped or cut.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), CliError> {
        let clean = escape::escaped_but(text, |c| c == '\n' || is_mark(c));
        let text = styled(&clean, self.colours).into_owned();
        self.put(&text)
    }

    /// `text`, set off if a person looks at a terminal.
    pub(crate) fn paint(&self, style: Style, text: &str) -> String {
        let place = match style {
            Style::Bold => 0,
            Style::Dim => 1,
            Style::Red => 2,
            Style::Green => 3,
        };
        if self.colours { format!("{}{text}{STYLE_END}", STYLES[place]) } else { text.into() }
    }

    /// `name  value` pairs, aligned; a long value is wrapped beside its name.
    pub(crate) fn pairs(&mut self, pairs: &[(&str, String)]) -> Result<(), CliError> {
        let wide = pairs.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
        for (name, value) in pairs {
            let name = self.paint(Style::Dim, &padded(name, wide, false));
            self.wrapped(&rendered_line(&format!("{name}  {value}")), wide + COLUMN_GAP)?;
        }
        Ok(())
    }

    /// A table with a heading, columns as wide as their widest cell, on a terminal cut to its width; numbers are set to
    /// the right.
    pub(crate) fn table(&mut self, head: &[&str], rows: &[Vec<String>]) -> Result<(), CliError> {
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|cell| rendered_line(cell).into_owned()).collect()).collect();
        for (index, line) in table(head, &rows, self.columns).into_iter().enumerate() {
            let line = if index == 0 { self.paint(Style::Bold, &line) } else { line };
            self.write(&line)?;
        }
        Ok(())
    }

    /// Hands everything over; the last act of a command.
    pub(crate) fn finish(&mut self) -> Result<(), CliError> {
        let flushed = self.out.flush();
        self.judged(flushed)
    }

    /// Lets the command continue after its reader has closed the output, since its exit code is still needed.
    pub(crate) fn outlive_reader(&mut self) {
        self.outlives_reader = true;
    }

    fn put(&mut self, text: &str) -> Result<(), CliError> {
        let written = self.out.write_all(text.as_bytes());
        self.judged(written)
    }

    fn judged(&self, written: io::Result<()>) -> Result<(), CliError> {
        match written {
            Err(error) if self.outlives_reader && error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written.map_err(CliError::Output),
        }
    }

    fn wrapped(&mut self, text: &str, indent: usize) -> Result<(), CliError> {
        match self.columns {
            None => self.write(text),
            Some(columns) => wrap(text, columns, indent).iter().try_for_each(|line| self.write(line)),
        }
    }

    /// A line that was rendered.
    fn write(&mut self, text: &str) -> Result<(), CliError> {
        let text = format!("{}\n", styled(text, self.colours));
        self.put(&text)
    }
}

/// Whether colours are wanted where there is a terminal.
pub(crate) fn wants_colours() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The width of a terminal.
pub(super) fn columns(terminal: &console::Term) -> usize {
    // One that does not say has 80, as it is with terminals.
    let columns = terminal.size_checked().map_or(80, |(_, columns)| usize::from(columns));
    columns.max(COLUMNS_MIN)
}

fn is_mark(c: char) -> bool {
    STYLES.contains(&c) || c == STYLE_END
}

/// A line with everything escaped but the marks of [`Output::paint`].
fn rendered_line(text: &str) -> Cow<'_, str> {
    escape::escaped_but(text, is_mark)
}

/// Marks as codes of the terminal; without colours they are what no text contains, and escaped.
fn styled(text: &str, colours: bool) -> Cow<'_, str> {
    if !text.contains(is_mark) {
        return Cow::Borrowed(text);
    }
    if !colours {
        return Cow::Owned(escape::escaped_but(text, |c| c == '\n').into_owned());
    }
    let mut coded = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match STYLES.iter().position(|style| *style == c) {
            Some(place) => coded.push_str(&format!("\x1b[{}m", CODES[place])),
            None if c == STYLE_END => coded.push_str("\x1b[0m"),
            None => coded.push(c),
        }
    }
    Cow::Owned(coded)
}

/// The lines of a table, the heading first, in at most this many columns of a terminal.
fn table(head: &[&str], rows: &[Vec<String>], columns: Option<usize>) -> Vec<String> {
    let mut widths: Vec<usize> = head.iter().map(|name| width(name)).collect();
    for row in rows {
        for (wide, cell) in widths.iter_mut().zip(row) {
            *wide = (*wide).max(width(cell));
        }
    }
    let is_number = |column: usize| {
        let number = |cell: &&str| cell.starts_with(|c: char| c.is_ascii_digit() || c == '-') && !cell.contains(':');
        // A cell without a value is no text.
        let cells = || rows.iter().filter_map(|row| row.get(column)).map(String::as_str).filter(|c| !c.is_empty());
        cells().next().is_some() && cells().all(|cell| number(&cell))
    };
    let right: Vec<bool> = (0..head.len()).map(is_number).collect();
    if let Some(columns) = columns {
        fit(&mut widths, &right, columns);
    }
    let heading: Vec<String> = head.iter().map(ToString::to_string).collect();
    let lines = std::iter::once(&heading).chain(rows).map(|row| set(row, &widths, &right));
    lines.map(|line| columns.map_or_else(|| line.clone(), |columns| cut(&line, columns))).collect()
}

fn set(row: &[String], widths: &[usize], right: &[bool]) -> String {
    let mut line = String::new();
    for (column, cell) in row.iter().enumerate() {
        let wide = widths.get(column).copied().unwrap_or(0);
        let is_right = right.get(column).copied().unwrap_or(false);
        line += &padded(&cut(cell, wide), wide, is_right);
        line += &" ".repeat(COLUMN_GAP);
    }
    line.trim_end().to_owned()
}

fn padded(text: &str, wide: usize, is_right: bool) -> String {
    let pad = " ".repeat(wide.saturating_sub(width(text)));
    if is_right { format!("{pad}{text}") } else { format!("{text}{pad}") }
}

/// `text` on one line and not longer than `chars`, with `…` where it was cut. What is unsafe in it is escaped.
pub(crate) fn short(text: &str, chars: usize) -> String {
    let clean = escape::escaped(text);
    if clean.chars().count() <= chars {
        clean.into_owned()
    } else {
        clean.chars().take(chars.saturating_sub(1)).chain(['…']).collect()
    }
}

/// `1 candle`, `2 candles`, `1,000 candles`: the plural with an s.
pub(crate) fn counted(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(n), if n == 1 { "" } else { "s" })
}

/// A span of time in the unit that a person reads best: `20 ms`, `3.4 s`, `12 min`, `3.5 h`, `2.0 d`.
pub(crate) fn span(span: std::time::Duration) -> String {
    let seconds = span.as_secs_f64();
    match seconds {
        s if s < 0.001 => format!("{} µs", span.as_micros()),
        s if s < 1.0 => format!("{} ms", span.as_millis()),
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3_600.0 => format!("{:.0} min", s / 60.0),
        s if s < 86_400.0 => format!("{:.1} h", s / 3_600.0),
        s => format!("{:.1} d", s / 86_400.0),
    }
}

/// A path for JSON output. Bytes that are not UTF-8 are replaced, so that the output does not fail.
pub(crate) fn shown(path: &std::path::Path) -> String {
    path.to_string_lossy().into_owned()
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the unit that a person reads best.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (n as f64, 0);
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 1_023, 1_536, 3 << 30].map(bytes), ["0 B", "1023 B", "1.5 KiB", "3.0 GiB"]);
    }

    #[test]
    fn a_long_or_wild_text_is_one_short_line() {
        assert_eq!(short("ab\ncd\x1b[31m", 20), "ab\\ncd\\u{1b}[31m");
        assert_eq!(short("abcdef", 4), "abc…");
        assert_eq!(short("abcd", 4), "abcd");
    }

    #[test]
    fn cells_line_up() {
        let row = |a: &str, b: &str| set(&[a.into(), b.into()], &[4, 3], &[false, true]);
        assert_eq!([row("a", "1"), row("abcd", "123")], ["a       1", "abcd  123"]);
    }

    #[test]
    fn a_table_fits_the_terminal_and_is_whole_without_one() {
        let row = vec!["a.long.key.of.memory".to_owned(), "#1234".into(), "7".into(), "v".repeat(200)];
        let rows = [row.clone(), row];
        let head = ["key", "seq", "n", "value"];
        for columns in [20, 40, 80, 120] {
            let lines = table(&head, &rows, Some(columns));
            assert!(lines.iter().all(|line| width(line) <= columns), "{lines:?}");
            assert!(lines[1].contains('…'), "{lines:?}");
        }
        assert!(table(&head, &rows, None)[1].ends_with(&"v".repeat(200)));
    }

    #[test]
    fn marks_become_codes_only_with_colours_and_data_stays_data() {
        let text = format!("{}a\x1b[2J{STYLE_END}", STYLES[2]);
        assert_eq!(styled(&rendered_line(&text), true), "\x1b[31ma\\u{1b}[2J\x1b[0m");
        assert!(!styled(&rendered_line(&text), false).contains('\x1b'));
    }

    #[test]
    fn counts_and_spans_read_well() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "gap")), ["0 gaps", "1 gap", "2 gaps"]);
        let spans =
            [20_357, 3_400_000, 720_000_000, 12_600_000_000].map(|us| span(std::time::Duration::from_micros(us)));
        assert_eq!(spans, ["20 ms", "3.4 s", "12 min", "3.5 h"]);
    }
}
