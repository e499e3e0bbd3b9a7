//! What goes to standard error: notices, progress of a run, errors and the log. With `--json` each line of it is a JSON
//! object too: `{"notice": {"message": …}}`, `{"error": {…}}`, or a log record.
//! If standard error is closed, nothing fails: the messages are dropped.

use std::{
    io::{self, IsTerminal, Write as _},
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::json;
use tracing_subscriber::EnvFilter;

use super::{
    error::CliError,
    escape,
    layout::wrap,
    output::{columns, wants_colours},
};

/// What is logged unless the environment says otherwise. sqlx only warns that something was slow.
const LOG_DEFAULT: &str = "warn,sqlx=error";

/// Whether programs read standard error. Of the process, like standard error itself.
static JSON: AtomicBool = AtomicBool::new(false);

/// Sets whether programs read standard error, and sends the log here.
pub(crate) fn begin(json: bool) {
    // Relaxed: set once, before there is another thread.
    JSON.store(json, Ordering::Relaxed);
    let filter = std::env::var("ATRA_LOG").or_else(|_| std::env::var("RUST_LOG")).unwrap_or_default();
    let filter = if filter.is_empty() { LOG_DEFAULT } else { &filter };
    let filter = EnvFilter::builder().parse_lossy(filter);
    let colours = !json && io::stderr().is_terminal() && wants_colours();
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || LogWriter { colours }).with_ansi(colours);
    if json { log.json().init() } else { log.init() }
}

/// Whether programs read standard error.
pub(crate) fn is_json() -> bool {
    JSON.load(Ordering::Relaxed)
}

/// Prints a notice for the user on its own line.
pub(crate) fn note(text: &str) {
    if is_json() {
        let message = text.strip_prefix("atra: ").unwrap_or(text);
        write_line(&escape::json(&json!({ "notice": { "message": message } }).to_string()));
    } else {
        write_line(&laid_out(text));
    }
}

/// A line of JSON other than a notice.
pub(crate) fn json_line(value: &serde_json::Value) {
    write_line(&escape::json(&value.to_string()));
}

/// Says why a command failed.
pub(crate) fn error(error: &CliError) {
    if is_json() {
        json_line(&json!({ "error": error.to_json() }));
    } else {
        for line in error.text().lines() {
            write_line(&laid_out(line));
        }
    }
}

/// Escaped, and wrapped at words on a terminal.
fn laid_out(text: &str) -> String {
    let clean = escape::escaped(text);
    if !io::stderr().is_terminal() {
        return clean.into_owned();
    }
    wrap(&clean, columns(&console::Term::stderr()), 7).join("\n")
}

fn write_line(text: &str) {
    // There is no other place to report this.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// The log's way to standard error: escaped but for its own colours, and never a failure.
struct LogWriter {
    colours: bool,
}

impl io::Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        // Escape sequences of data were taken out by the log itself, which sets its own.
        let is_kept = |c: char| c == '\n' || (self.colours && c == '\x1b');
        let clean = if is_json() { escape::json(&text) } else { escape::escaped_but(&text, is_kept) };
        let _ = io::stderr().lock().write_all(clean.as_bytes());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
