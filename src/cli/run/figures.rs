//! The live figures, told when somebody asks with SIGUSR1, and at the end of a run that logs at level info.
//!
//! On standard error, since standard output is the report's: a table on a terminal, one line of JSON for programs.

use std::{fmt::Write as _, io::IsTerminal};

use atra::runtime::Metric;
use serde_json::{Map, Value, json};

use crate::cli::stderr::{json_line, note};

/// Tells them.
pub(super) fn tell(figures: &[Metric], json: bool) {
    if json || !std::io::stderr().is_terminal() {
        json_line(&as_json(figures));
    } else {
        // On lines of their own: the one that renews itself has no end.
        note("");
        as_table(figures).lines().for_each(note);
    }
}

/// One object: a figure with a label is an object of its values.
fn as_json(figures: &[Metric]) -> Value {
    let mut whole = Map::new();
    for figure in figures {
        match &figure.label {
            None => drop(whole.insert(figure.name.into(), json!(figure.value))),
            Some((_, of)) => {
                let place = whole.entry(figure.name).or_insert_with(|| Value::Object(Map::new()));
                place[of] = json!(figure.value);
            }
        }
    }
    Value::Object(whole)
}

fn as_table(figures: &[Metric]) -> String {
    let name = |figure: &Metric| match &figure.label {
        None => figure.name.to_owned(),
        Some((label, of)) => format!("{}{{{label}={of:?}}}", figure.name),
    };
    let width = figures.iter().map(|figure| name(figure).len()).max().unwrap_or(0);
    figures.iter().fold(String::new(), |mut text, figure| {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{:width$}  {:>14}", name(figure), crate::cli::output::grouped(figure.value));
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_one_object_and_one_table() {
        let figure =
            |name, label: Option<&str>, value| Metric { name, label: label.map(|of| ("team", of.to_owned())), value };
        let figures =
            [figure("atra_a_total", None, 1_234), figure("atra_b", Some("x"), 2), figure("atra_b", Some("y"), 3)];
        assert_eq!(as_json(&figures).to_string(), r#"{"atra_a_total":1234,"atra_b":{"x":2,"y":3}}"#);
        let table = as_table(&figures);
        assert!(table.contains("atra_b{team=\"x\"}") && table.contains("1,234"), "{table}");
    }
}
