//! What tests of several crates share: data outside of the repository, candles to use without them, and a record of
//! the tests that were skipped.
//!
//! A test that needs something which is not there calls [`skip`] and returns. The reason is printed at once, also
//! where the harness captures output, and counted at the end of `cargo test` by the test target `skipped`.

use std::{
    fmt::Write as _,
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
};

/// The folder of data beside the repository.
const SHARED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
/// Rows of the file of real candles: four years and two months of quarter hours.
const REAL_CANDLES: usize = 145_920;
/// Generated candles in its place. 100,000: some seconds of a debug build, long enough for fifty kills.
const GENERATED_CANDLES: usize = 100_000;
/// The time of the first generated candle: 1 January 2022, in milliseconds.
const FIRST_MS: i64 = 1_640_995_200_000;
/// The interval of generated candles: 15 minutes, in milliseconds.
const INTERVAL_MS: i64 = 900_000;

/// A file or folder beside the repository, or `None` when it is absent; then the calling test counts as skipped.
#[track_caller]
pub fn shared(name: &str) -> Option<PathBuf> {
    let found = shared_if_present(name);
    if found.is_none() {
        skip(&format!("{name} is not beside the repository"));
    }
    found
}

/// The same for a test that has another way to go on: an absent file is not counted.
pub fn shared_if_present(name: &str) -> Option<PathBuf> {
    let path = Path::new(SHARED).join(name);
    path.exists().then_some(path)
}

/// A file with candles of 15 minutes and how many there are: real ones (DOTUSDT, January 2022 to February 2026), or
/// generated ones in `folder` where the real ones are absent.
///
/// # Panics
/// When the generated file cannot be written.
pub fn candles_file(folder: &Path) -> (PathBuf, usize) {
    if let Some(real) = shared_if_present("data/DOTUSDT-15m-usdm-2022-01_2026-02.csv.gz") {
        return (real, REAL_CANDLES);
    }
    let path = folder.join("generated.csv");
    let written = std::fs::write(&path, candles_csv(GENERATED_CANDLES, 1));
    written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (path, GENERATED_CANDLES)
}

/// Records that the calling test does not run, and why.
#[track_caller]
pub fn skip(reason: &str) {
    let caller = std::panic::Location::caller();
    let line = format!("{}:{}: {reason}\n", caller.file(), caller.line());
    // Written directly: the harness captures what the print macros write.
    let _ = write!(std::io::stderr(), "skipped: {line}");
    let log = record().and_then(|path| OpenOptions::new().create(true).append(true).open(path).ok());
    if let Some(mut log) = log {
        // One write of a short line: test processes append to the same file.
        let _ = log.write_all(line.as_bytes());
    }
}

/// The tests that this run of `cargo test` skipped so far, one line each. The record is removed.
#[must_use]
pub fn take_skipped() -> Vec<String> {
    let Some(path) = record() else { return Vec::new() };
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let _ = std::fs::remove_file(path);
    text.lines().map(str::to_owned).collect()
}

/// The record is in the folder of the test programs. Its name has the number of the process that started them, which is one
/// for all programs of one `cargo test`.
fn record() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    Some(program.parent()?.join(format!("skipped-{}.txt", std::os::unix::process::parent_id())))
}

/// `n` generated candles of 15 minutes as CSV with a header: a random walk with trends, the same for the same `seed`.
#[must_use]
pub fn candles_csv(n: usize, seed: u64) -> String {
    let mut state = seed;
    let mut random = |below: i64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as i64 % below
    };
    let (mut close, mut trend) = (100_000_i64, 0);
    let mut text = String::from("time,open,high,low,close,volume\n");
    for index in 0..n as i64 {
        if index % 200 == 0 {
            // Away from the ends, so that prices stay positive and of four digits.
            trend = random(81) - if close > 100_000 { 50 } else { 30 };
        }
        let open = close;
        close = (open + trend + random(401) - 200).clamp(20_000, 900_000);
        let (high, low) = (open.max(close) + random(80), open.min(close) - random(80));
        let price = |ticks: i64| format!("{}.{:03}", ticks / 1000, ticks % 1000);
        let (open, high, low, close) = (price(open), price(high), price(low), price(close));
        let time = FIRST_MS + index * INTERVAL_MS;
        let _ = writeln!(text, "{time},{open},{high},{low},{close},{}", 100 + random(900));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_candles_are_the_same_for_the_same_seed_and_stay_positive() {
        let text = candles_csv(5_000, 7);
        assert_eq!(text, candles_csv(5_000, 7));
        assert_ne!(text, candles_csv(5_000, 8));
        assert_eq!(text.lines().count(), 5_001);
        assert!(!text.contains('-'), "a negative price");
    }
}
