//! Progress bars on standard error, if a person looks at it.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

use super::escape::escaped;

/// A bar that counts bytes.
pub(crate) fn bytes_bar(message: &str) -> ProgressBar {
    bar(message, "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}")
}

/// A bar that counts events.
pub(crate) fn events_bar(message: &str) -> ProgressBar {
    bar(message, "{msg} {wide_bar} {human_pos}/{human_len} events")
}

/// A bar that counts runs of work.
pub(crate) fn runs_bar(message: &str, n: usize) -> ProgressBar {
    let bar = bar(message, "{msg} {wide_bar} {pos}/{len} {eta}");
    bar.set_length(n as u64);
    bar
}

/// Says that something is going on whose end is not known.
pub(crate) fn spinner(message: &'static str) -> ProgressBar {
    let bar = bar(message, "{spinner} {msg} {elapsed}");
    // Ten times a second: it turns smoothly.
    bar.enable_steady_tick(std::time::Duration::from_millis(100));
    bar
}

fn bar(message: &str, template: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    // The templates are literals; without one the bar is plain.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    // A length of 0 would be drawn as done.
    let bar = ProgressBar::no_length().with_style(style);
    bar.set_message(escaped(message).into_owned());
    bar
}
