//! The allowed values of a configuration: one table for every command and every source of a value.
//!
//! Each number has a range; those of the kernel's sections are the kernel's. The upper ends are far above any real use.
//! They exist so that a typing error (a unit, a sign, an extra digit) is refused at the start with its key, instead of
//! causing a panic or a hang.

use atra_bus::SettingCheck;
use atra_runtime::config::ConfigError;
use serde_json::Value;

use super::Config;

/// Milliseconds of a day and of ten years.
const DAY: i128 = 86_400_000;
const YEARS: i128 = 3_653 * DAY;
/// Milliseconds since 1970 of the years 1 and 9999.
const TIME: (i128, i128) = (-62_135_596_800_000, 253_402_300_799_999);
/// More candles than any machine holds.
const MANY: i128 = 1_000_000_000_000;
const U32: i128 = u32::MAX as i128;
/// Below the whole, in parts per million.
const SHARE: i128 = 999_999;
/// A hundred times the whole, in parts per million.
const SHARE_MAX: i128 = 100_000_000;

/// Whole numbers of the sections that the kernel does not know: key, least, greatest.
const WHOLE: &[(&str, i128, i128)] = &[
    ("run.seed", 0, u64::MAX as i128),
    ("run.simulated_candles", 1, MANY),
    ("run.simulated_speed", 1, U32),
    ("run.simulated_past", 0, MANY),
    ("desk.from", TIME.0, TIME.1),
    ("desk.to", TIME.0, TIME.1),
    ("desk.speed", 1, U32),
    ("desk.speed_from", TIME.0, TIME.1),
    ("desk.fee_ppm", 0, SHARE),
    ("desk.lot_decimals", 0, atra_agents::market::money::LOT_DECIMALS_MAX as i128),
    ("desk.slippage_ppm", 0, SHARE),
    ("desk.exits.stop_loss_ppm", 0, SHARE),
    ("desk.exits.take_profit_ppm", 0, SHARE_MAX),
    ("desk.risk.position_max_ppm", 0, U32),
    ("desk.risk.gross_max_ppm", 0, U32),
    ("desk.risk.drawdown_max_ppm", 0, 1_000_000),
    ("desk.risk.series_drawdown_max_ppm", 0, 1_000_000),
    ("desk.risk.daily_loss_max_ppm", 0, 1_000_000),
    ("desk.risk.orders_per_hour_max", 0, U32),
    ("desk.risk.cool_down_ms", 0, YEARS),
    ("desk.risk.price_band_ppm", 1, U32),
    ("desk.risk.volume_max_ppm", 1, U32),
    ("desk.risk.stale_after_ms", 1, YEARS),
    ("desk.optimizer.train", 1, 1_000_000_000),
    ("desk.optimizer.validation", 0, 1_000_000_000),
    ("desk.optimizer.gates.trades_min", 0, 1_000_000_000),
    ("desk.optimizer.gates.shadow_ms", 0, YEARS),
    ("desk.optimizer.gates.expiry_ms", 1, 10 * YEARS),
    ("desk.optimizer.gates.penalty_ms", 0, 10 * YEARS),
];

/// Numbers with decimals: key, least, greatest.
const REAL: &[(&str, f64, f64)] = &[
    ("desk.optimizer.gates.plateau_min", -1_000.0, 1_000.0),
    ("desk.optimizer.gates.margin", -1_000.0, 1_000.0),
    ("desk.optimizer.gates.drawdown_max", 0.0, 1.0),
];

/// The value of a key, `null` if it is not set.
fn at<'a>(config: &'a Value, key: &str) -> &'a Value {
    static NONE: Value = Value::Null;
    config.pointer(&format!("/{}", key.replace('.', "/"))).unwrap_or(&NONE)
}

fn whole(value: &Value) -> Option<i128> {
    value.as_i64().map(i128::from).or(value.as_u64().map(i128::from))
}

/// Checks a whole configuration.
pub(super) fn validate(config: &Config) -> Result<(), ConfigError> {
    let mut check = SettingCheck::new("");
    if config.db.as_os_str().is_empty() {
        check.refuse("db", "\"\"", "the name of a file");
    }
    check.add(config.runtime.check());
    check.add(config.storage.check());
    check.add(config.limits.check());
    // The file's numbers. A value such as nan becomes null here.
    let values = serde_json::to_value(config).unwrap_or_default();
    for (key, least, greatest) in WHOLE {
        let value = at(&values, key);
        // Not set.
        if value.is_null() {
            continue;
        }
        match whole(value) {
            Some(value) => drop(check.range(key, value, *least..=*greatest)),
            None => check.refuse(key, value, format!("from {least} to {greatest}")),
        }
    }
    for (key, least, greatest) in REAL {
        match at(&values, key).as_f64() {
            Some(value) => drop(check.range(key, value, *least..=*greatest)),
            None => check.refuse(key, "not a number", format!("from {least} to {greatest}")),
        }
    }
    check.finish()?;
    config.desk.check().map_err(|error| {
        let mut cause = error.to_string();
        if let Some(source) = std::error::Error::source(&error) {
            cause += &format!(": {source}");
        }
        ConfigError::Invalid { place: "section [desk]".into(), cause }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(path: &str, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    numbers(&if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, value, found);
                }
            }
            Value::Number(_) => found.push(path.to_owned()),
            _ => {}
        }
    }

    /// A key that is added without a range would accept anything.
    #[test]
    fn every_number_of_the_configuration_has_a_range_and_every_default_is_within_it() {
        let config = Config::default();
        validate(&config).expect("the defaults are valid");
        let mut found = Vec::new();
        numbers("", &serde_json::to_value(&config).expect("JSON"), &mut found);
        found.retain(|key| !["runtime.", "storage.", "limits."].iter().any(|section| key.starts_with(section)));
        let known: Vec<&str> = WHOLE.iter().map(|row| row.0).chain(REAL.iter().map(|row| row.0)).collect();
        let unknown: Vec<&String> = found.iter().filter(|key| !known.contains(&key.as_str())).collect();
        assert!(unknown.is_empty(), "without a range: {unknown:?}");
    }

    #[test]
    fn values_at_the_ends_are_accepted_and_those_beyond_are_refused_with_key_value_and_range() {
        for (key, least, greatest) in WHOLE {
            for (value, is_good) in [(*least, true), (*greatest, true), (least - 1, false), (greatest + 1, false)] {
                let (section, name) = key.rsplit_once('.').expect("a section");
                let text = format!("[{section}]\n{name} = {value}\n");
                // Values that the type itself refuses do not reach this point.
                let Ok(config) = toml::from_str::<Config>(&text) else { continue };
                let refused = match validate(&config) {
                    Err(ConfigError::Settings(found)) => found.settings().iter().any(|setting| setting.field == *key),
                    // Keys that do not go together are another matter.
                    _ => false,
                };
                assert_eq!(!refused, is_good, "{text}: {:?}", validate(&config));
            }
        }
    }

    #[test]
    fn what_is_no_number_or_out_of_order_is_refused() {
        for (text, part) in [
            ("[desk.optimizer.gates]\nmargin = nan", "margin"),
            ("[desk.optimizer.gates]\nplateau_min = inf", "plateau_min"),
            ("[limits]\nbackoff_first_ms = 20000", "limits.backoff_first_ms = 20000 is not allowed: at most 10000"),
            ("[storage]\nreaders = 0\n[desk]\nfee_ppm = 1000000", "storage.readers = 0"),
            ("[storage]\nreaders = 0\n[desk]\nfee_ppm = 1000000", "desk.fee_ppm = 1000000"),
            ("[runtime]\nthreads = 3000", "runtime.threads = 3000 is not allowed: from 0 to 1024"),
            ("[desk]\ncash = \"-3\"", "cash is -3"),
            ("[desk]\nfrom = 10\nto = 5", "from (10) is not before to (5)"),
            ("[desk]\nstrategy = { name = \"sma-cross\", fast = 20, slow = 5 }", "20"),
            ("db = \"\"", "db"),
        ] {
            let error = validate(&toml::from_str(text).expect("a configuration")).expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
