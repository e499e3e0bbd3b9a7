//! `atra config`: shows and checks the configuration in force.

use std::fmt::Write as _;

use atra::{agents::market::money::Money, config::Config};
use serde_json::{Value, json};

use super::{
    args::DbArgs,
    config_of,
    error::CliError,
    output::{Output, Style},
};

/// What keys without a value mean.
const UNSET: [(&str, &str); 12] = [
    ("storage.db_bytes_max", "no limit but the disk"),
    ("storage.keep", "events are kept for ever"),
    ("storage.keep_events", "all events are kept"),
    ("run.simulated_candles", "the simulated market has no end"),
    ("desk.from", "from the first candle on"),
    ("desk.to", "to the last candle"),
    ("desk.speed", "as fast as possible; in the simulated market run.simulated_speed"),
    ("desk.speed_from", "from the first candle on"),
    ("desk.strategy", "two averages with the optimizer's parameters"),
    ("desk.risk.notional_max", "no limit"),
    ("desk.risk.volume_max_ppm", "no limit; in the simulated market a tenth of the candle's volume"),
    ("desk.risk.stale_after_ms", "two hours, or four candles if that is longer"),
];

/// Prints the configuration in force: TOML that can be read back, with a comment for each key that is not set.
pub(crate) fn show(args: &DbArgs, out: &mut Output) -> Result<(), CliError> {
    let config = config_of(args)?;
    let is_unlimited = config.desk.risk.notional_max == Money::MAX;
    if out.is_json() {
        let mut value = json!(config);
        if is_unlimited {
            value["desk"]["risk"]["notional_max"] = Value::Null;
        }
        return out.json(&value);
    }
    let text = toml::to_string(&config).map_err(|error| CliError::Output(std::io::Error::other(error)))?;
    out.text(&with_unset(&config, &text, is_unlimited))
}

/// Reports that the configuration is valid. Every command returns an error for an invalid one.
pub(crate) fn check(args: &DbArgs, out: &mut Output) -> Result<(), CliError> {
    let config = config_of(args)?;
    if out.is_json() {
        return out.json(&json!({ "valid": true, "db": super::output::shown(&config.db) }));
    }
    let text = out.paint(Style::Green, "the configuration is valid");
    out.line(&text)
}

/// The text with a comment at the head of its section for each key that has no value.
fn with_unset(config: &Config, text: &str, is_unlimited: bool) -> String {
    let values = json!(config);
    let is_unset = |key: &str| match values.pointer(&format!("/{}", key.replace('.', "/"))) {
        // The greatest amount stands for "no limit"; a person would read it as a number.
        Some(_) if key == "desk.risk.notional_max" => is_unlimited,
        Some(value) => value.is_null(),
        None => true,
    };
    let unlimited = format!("notional_max = \"{}\"", Money::MAX);
    let mut shown = String::new();
    for line in text.lines().filter(|line| *line != unlimited) {
        // Writing to a text cannot fail.
        let _ = writeln!(shown, "{line}");
        let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) else { continue };
        for (key, meaning) in UNSET.iter().filter(|(key, _)| is_unset(key)) {
            if let Some((_, name)) = key.rsplit_once('.').filter(|(of, _)| *of == section) {
                let _ = writeln!(shown, "# {name}: not set: {meaning}");
            }
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key of the defaults that is null must say what that means.
    #[test]
    fn every_key_that_is_not_set_is_shown_with_its_meaning() {
        fn nulls(path: &str, value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(fields) => {
                    for (name, value) in fields {
                        nulls(&if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, value, found);
                    }
                }
                Value::Null => found.push(path.to_owned()),
                _ => {}
            }
        }
        let config = Config::default();
        let mut found = Vec::new();
        nulls("", &json!(config), &mut found);
        let unknown: Vec<&String> = found.iter().filter(|key| UNSET.iter().all(|(name, _)| name != key)).collect();
        assert!(unknown.is_empty(), "without a meaning: {unknown:?}");

        let text = with_unset(&config, &toml::to_string(&config).expect("TOML"), true);
        for key in &found {
            let name = key.rsplit('.').next().expect("a name");
            assert!(text.contains(&format!("# {name}: not set: ")), "{key} is not in {text}");
        }
        assert_eq!(toml::from_str::<Config>(&text).expect("read back"), config);
    }
}
