//! What a benchmark says: one line per case, as a table or as JSON.

use serde::Serialize;

/// Which way is better.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    /// Higher is better.
    EventsPerSecond,
    /// Lower is better.
    NanosecondsPerEvent,
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
        let (unit, ratio) = match self.unit {
            Unit::EventsPerSecond => ("events/s", value / reference_value),
            Unit::NanosecondsPerEvent => ("ns/event", reference_value / value),
        };
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
                "{:<8} {:<44} {:>12} {:<9} {:<30} {:>12} {:>6}",
                "bench", "case", "atra", "unit", "reference", "its value", "ratio"
            );
            self.headed = true;
        }
        let Report { bench, case, value, unit, reference, reference_value, ratio } = report;
        println!("{bench:<8} {case:<44} {value:>12.0} {unit:<9} {reference:<30} {reference_value:>12.0} {ratio:>6.2}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_above_one_means_that_atra_is_better() {
        let case = |unit| Case { bench: "b", name: "c", unit };
        assert_eq!(case(Unit::EventsPerSecond).report(3.0, "r", 2.0).ratio, 1.5);
        assert_eq!(case(Unit::NanosecondsPerEvent).report(2.0, "r", 3.0).ratio, 1.5);
        let json = serde_json::to_string(&case(Unit::EventsPerSecond).report(3.0, "r", 2.0)).expect("JSON");
        let expected = r#"{"bench":"b","case":"c","value":3.0,"unit":"events/s","reference":"r","reference_value":2.0,"ratio":1.5}"#;
        assert_eq!(json, expected);
    }
}
