//! What a benchmark says: one line per case, as a table or as JSON.

use serde::Serialize;

/// What a value counts, and which way is better.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    /// Higher is better.
    EventsPerSecond,
    /// Higher is better.
    CandlesPerSecond,
    /// Higher is better.
    ReadsPerSecond,
    /// Lower is better.
    NanosecondsPerEvent,
    /// Lower is better.
    Microseconds,
    /// Lower is better.
    Milliseconds,
    /// Lower is better.
    RowsPerCandle,
    /// Lower is better.
    MebibytesAtPeak,
    /// 0 to 1, lower is better. Compared by what remains, so that a share of 0 has a ratio too.
    ShareFailed,
}

impl Unit {
    fn text(self) -> &'static str {
        match self {
            Self::EventsPerSecond => "events/s",
            Self::CandlesPerSecond => "candles/s",
            Self::ReadsPerSecond => "reads/s",
            Self::NanosecondsPerEvent => "ns/event",
            Self::Microseconds => "us",
            Self::Milliseconds => "ms",
            Self::RowsPerCandle => "rows/candle",
            Self::MebibytesAtPeak => "MiB at peak",
            Self::ShareFailed => "share of transactions failed",
        }
    }

    fn ratio(self, value: f64, reference: f64) -> f64 {
        match self {
            Self::EventsPerSecond | Self::CandlesPerSecond | Self::ReadsPerSecond => value / reference,
            Self::NanosecondsPerEvent
            | Self::Microseconds
            | Self::Milliseconds
            | Self::RowsPerCandle
            | Self::MebibytesAtPeak => reference / value,
            Self::ShareFailed => (1.0 - value) / (1.0 - reference),
        }
    }
}

/// The result of one case.
#[derive(Serialize)]
pub(crate) struct Report<'a> {
    bench: &'a str,
    case: &'a str,
    value: f64,
    unit: &'a str,
    reference: &'a str,
    reference_value: f64,
    /// How atra compares; above 1 it is better, whichever way the unit goes.
    ratio: f64,
}

/// One case, before it is measured.
pub(crate) struct Case<'a> {
    pub(crate) bench: &'a str,
    pub(crate) name: &'a str,
    pub(crate) unit: Unit,
}

impl<'a> Case<'a> {
    /// The case with atra's value and the reference's.
    pub(crate) fn report(&self, value: f64, reference: &'a str, reference_value: f64) -> Report<'a> {
        let (unit, ratio) = (self.unit.text(), self.unit.ratio(value, reference_value));
        Report { bench: self.bench, case: self.name, value, unit, reference, reference_value, ratio }
    }
}

/// Prints reports as they come.
pub(crate) struct Reporter {
    json: bool,
    headed: bool,
}

impl Reporter {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, headed: false }
    }

    /// Prints one line.
    pub(crate) fn print(&mut self, report: &Report<'_>) {
        if self.json {
            // A report is strings and numbers; it always has a JSON form.
            println!("{}", serde_json::to_string(report).unwrap_or_default());
            return;
        }
        if !self.headed {
            println!(
                "{:<8} {:<44} {:>12} {:<12} {:<36} {:>12} {:>6}",
                "bench", "case", "atra", "unit", "reference", "its value", "ratio"
            );
            self.headed = true;
        }
        let Report { bench, case, value, unit, reference, reference_value, ratio } = report;
        let (value, reference_value) = (figure(*value), figure(*reference_value));
        println!("{bench:<8} {case:<44} {value:>12} {unit:<12} {reference:<36} {reference_value:>12} {ratio:>6.2}");
    }
}

/// Whole for large figures, with decimals for small ones.
fn figure(value: f64) -> String {
    if value.abs() < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_above_one_means_that_atra_is_better() {
        let case = |unit| Case { bench: "b", name: "c", unit };
        assert_eq!(case(Unit::EventsPerSecond).report(3.0, "r", 2.0).ratio, 1.5);
        assert_eq!(case(Unit::NanosecondsPerEvent).report(2.0, "r", 3.0).ratio, 1.5);
        assert_eq!(case(Unit::ShareFailed).report(0.0, "r", 0.75).ratio, 4.0);
        let json = serde_json::to_string(&case(Unit::EventsPerSecond).report(3.0, "r", 2.0)).expect("JSON");
        let expected = r#"{"bench":"b","case":"c","value":3.0,"unit":"events/s","reference":"r","reference_value":2.0,"ratio":1.5}"#;
        assert_eq!(json, expected);
    }
}
