//! What goes to standard output: plain tables for people, one JSON value a line for programs.
//!
//! Standard output is data and nothing else; progress and errors go to standard error. Colours only on a terminal, and
//! not with `NO_COLOR`. A reader that went away (`atra … | head`) is a quiet end, not an error.

use std::{
    env,
    io::{self, BufWriter, IsTerminal, StdoutLock, Write},
};

use serde::Serialize;

use super::error::CliError;

/// The longest payload in a line for people.
pub(crate) const SHORT_CHARS: usize = 100;

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

/// Standard output of one command.
pub(crate) struct Output {
    out: BufWriter<StdoutLock<'static>>,
    json: bool,
    colours: bool,
}

impl Output {
    /// Takes standard output for the length of a command.
    pub(crate) fn new(json: bool) -> Self {
        let stdout = io::stdout();
        let colours = !json && stdout.is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { out: BufWriter::new(stdout.lock()), json, colours }
    }

    /// Whether a program reads.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// A line of JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string(value).map_err(|error| CliError::Output(error.into()))?;
        self.line(&text)
    }

    /// A line of text.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), CliError> {
        writeln!(self.out, "{text}").map_err(CliError::Output)
    }

    /// Text that has its line ends.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), CliError> {
        self.out.write_all(text.as_bytes()).map_err(CliError::Output)
    }

    /// `text`, set off if a person looks at a terminal.
    pub(crate) fn paint(&self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Bold => 1,
            Style::Dim => 2,
            Style::Red => 31,
            Style::Green => 32,
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }

    /// `name  value` pairs, aligned.
    pub(crate) fn pairs(&mut self, pairs: &[(&str, String)]) -> Result<(), CliError> {
        let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, value) in pairs {
            let name = self.paint(Style::Dim, &format!("{name:width$}"));
            self.line(&format!("{name}  {value}"))?;
        }
        Ok(())
    }

    /// A table with a heading, columns as wide as their widest cell; numbers are set to the right.
    pub(crate) fn table(&mut self, head: &[&str], rows: &[Vec<String>]) -> Result<(), CliError> {
        let mut widths: Vec<usize> = head.iter().map(|name| name.chars().count()).collect();
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let is_number = |column: usize| {
            let number =
                |cell: &&str| cell.starts_with(|c: char| c.is_ascii_digit() || c == '-') && !cell.contains(':');
            // A cell without a value is no text.
            let cells = || rows.iter().filter_map(|row| row.get(column)).map(String::as_str).filter(|c| !c.is_empty());
            cells().next().is_some() && cells().all(|cell| number(&cell))
        };
        let right: Vec<bool> = (0..head.len()).map(is_number).collect();
        let heading: Vec<String> = head.iter().map(ToString::to_string).collect();
        let heading = self.paint(Style::Bold, &set(&heading, &widths, &right));
        self.line(&heading)?;
        for row in rows {
            self.line(&set(row, &widths, &right))?;
        }
        Ok(())
    }

    /// Hands everything over; the last act of a command.
    pub(crate) fn finish(&mut self) -> Result<(), CliError> {
        self.out.flush().map_err(CliError::Output)
    }
}

fn set(row: &[String], widths: &[usize], right: &[bool]) -> String {
    let mut line = String::new();
    for (column, cell) in row.iter().enumerate() {
        let width = widths.get(column).copied().unwrap_or(0);
        let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
        let is_right = right.get(column).copied().unwrap_or(false);
        line += &if is_right { format!("{pad}{cell}  ") } else { format!("{cell}{pad}  ") };
    }
    line.trim_end().to_owned()
}

/// `text` on one line and not longer than `chars`, with `…` where it was cut.
pub(crate) fn short(text: &str, chars: usize) -> String {
    // Escapes in payloads must not reach the terminal.
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    if text.chars().count() <= chars {
        clean.collect()
    } else {
        clean.take(chars.saturating_sub(1)).chain(['…']).collect()
    }
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
        assert_eq!(short("ab\ncd\x1b[31m", 20), "ab cd [31m");
        assert_eq!(short("abcdef", 4), "abc…");
        assert_eq!(short("abcd", 4), "abcd");
    }

    #[test]
    fn cells_line_up() {
        let row = |a: &str, b: &str| set(&[a.into(), b.into()], &[4, 3], &[false, true]);
        assert_eq!([row("a", "1"), row("abcd", "123")], ["a       1", "abcd  123"]);
    }
}
