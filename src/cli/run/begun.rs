//! What a journal was begun with: settings that must stay as they are, and what it holds besides.
//!
//! Cash, fees, lots and who decides are part of every result in the journal. Taken up half-way they would be applied to
//! some agents and not to others, and totals would mean nothing. So a start with others is refused.

use atra::{
    Filter, Name, Read,
    agents::{candles::check_simulated, market::candle::SeriesKey},
    bus::Interest,
    config::Config,
    storage::FactKind,
};
use serde_json::Value;

use crate::cli::{
    error::CliError,
    output::short,
    run::{SIMULATED_TICKER, TEAM},
    time::Moment,
};

/// Settings that hold for a whole journal, as JSON pointers. Speed, placement, dates, series and limits may differ.
const BINDING: [&str; 13] = [
    "/desk/cash",
    "/desk/fee_ppm",
    "/desk/lot_decimals",
    "/desk/slippage_ppm",
    "/desk/exits",
    "/desk/strategy",
    "/desk/short",
    "/desk/close_at_end",
    "/desk/optimizer/enabled",
    "/desk/optimizer/pairs",
    "/desk/optimizer/train",
    "/desk/optimizer/validation",
    "/desk/optimizer/gates",
];
/// Starts that are looked back on for what else the journal holds. 64: more than anybody narrows a desk by hand.
const STARTS_MAX: usize = 64;
/// The longest value in a message.
const VALUE_CHARS: usize = 80;

/// The configurations of the desk's starts, newest first.
pub(super) struct Begun(Vec<Value>);

impl Begun {
    /// Reads them from the journal.
    pub(super) async fn read(db: &dyn Read) -> Result<Self, CliError> {
        let Ok(filter) = Filter::new("sys.team.started") else { return Ok(Self(Vec::new())) };
        let events = db.journal_tail(&Interest::in_topics(vec![filter]), STARTS_MAX).await?;
        let payloads = events.iter().rev().filter_map(|committed| committed.event.payload.to_value().ok());
        let of_desk = payloads.filter(|started| started["team"] == TEAM);
        Ok(Self(of_desk.map(|mut started| started["config"].take()).filter(Value::is_object).collect()))
    }

    /// Whether the last start was on a simulated market.
    pub(super) fn is_simulated(&self) -> bool {
        self.0.first().is_some_and(is_simulated)
    }

    /// Fails if `config` differs from the last start where it must not.
    pub(super) fn check(&self, config: &Config) -> Result<(), CliError> {
        let Some(old) = self.0.first() else { return Ok(()) };
        let differing = differing(old, &as_stored(config));
        if differing.is_empty() {
            return Ok(());
        }
        let what = format!("this journal was begun with other settings: {}", differing.join("; "));
        let next = "restore the old values, use --fresh to start over (the candles stay), or use another --db FILE";
        Err(CliError::Usage { what, next })
    }

    /// What the journal holds that `config` leaves out, in words.
    pub(super) fn besides(&self, config: &Config) -> Option<String> {
        let desks: Vec<&Value> = self.0.iter().map(|config| &config["desk"]).collect();
        let all = desks.iter().filter_map(|desk| desk["series"].as_array()).flatten().filter_map(Value::as_str);
        let mut other: Vec<&str> = all.filter(|name| config.desk.series.iter().all(|ours| ours != name)).collect();
        other.sort_unstable();
        other.dedup();
        let mut parts = Vec::new();
        if !other.is_empty() {
            parts.push(short(&other.join(", "), VALUE_CHARS));
        }
        let is_before = |from: i64| desks.iter().any(|desk| desk["from"].as_i64().is_none_or(|old| old < from));
        if let Some(from) = config.desk.from.filter(|from| is_before(*from)) {
            parts.push(format!("candles before {}", Moment(from)));
        }
        let is_behind = |to: i64| desks.iter().any(|desk| desk["to"].as_i64().is_none_or(|old| old > to));
        if let Some(to) = config.desk.to.filter(|to| is_behind(*to)) {
            parts.push(format!("candles from {} on", Moment(to)));
        }
        (!parts.is_empty()).then(|| parts.join(" and "))
    }
}

/// Fails if the journal's simulated market was made by another formula than the present one, since new candles would
/// belong to another market.
pub(super) async fn check_formula(db: &dyn Read, config: &Config) -> Result<(), CliError> {
    let feed = Name::new("feed")?;
    for name in &config.desk.series {
        let series: SeriesKey = name.parse()?;
        let Some(json) = db.fact(FactKind::Offset, &feed, name).await?.and_then(|fact| fact.value) else { continue };
        let offset: String = serde_json::from_str(&json).unwrap_or_else(|_| json.to_string());
        if let Err(error) = check_simulated(&series, &offset) {
            let what = format!("this journal cannot be continued: {error}");
            return Err(CliError::Usage { what, next: "use --fresh to start over, or another --db FILE" });
        }
    }
    Ok(())
}

/// As it is read back from a journal: numbers by way of their text.
fn as_stored(config: &Config) -> Value {
    let text = serde_json::to_string(config).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Whether a recorded configuration is of a simulated market.
fn is_simulated(config: &Value) -> bool {
    let series = config["desk"]["series"].as_array();
    series.is_some_and(|all| {
        all.iter().all(|name| name.as_str().and_then(|name| name.split('.').next()) == Some(SIMULATED_TICKER))
    })
}

/// Each binding setting that differs, with what it was and is. One that an older build did not know is passed over.
fn differing(old: &Value, new: &Value) -> Vec<String> {
    let mut found = Vec::new();
    // One account cannot hold invented and real candles, and its result would be called by the name of the real ones.
    let market = |config: &Value| if is_simulated(config) { "simulated" } else { "of candles" };
    if market(old) != market(new) {
        found.push(format!("the market was {}, now {}", market(old), market(new)));
    }
    // Another seed is another market under the same name.
    let seed = (is_simulated(old) && is_simulated(new)).then_some("/run/seed");
    for pointer in BINDING.into_iter().chain(seed) {
        let (Some(old), Some(new)) = (old.pointer(pointer), new.pointer(pointer)) else { continue };
        // A strategy is compared as a whole: others have other fields.
        walk(&pointer[1..].replace('/', "."), old, new, pointer != "/desk/strategy", &mut found);
    }
    found
}

fn walk(name: &str, old: &Value, new: &Value, deep: bool, found: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) if deep => {
            for (key, new) in new {
                if let Some(old) = old.get(key) {
                    walk(&format!("{name}.{key}"), old, new, deep, found);
                }
            }
        }
        _ if old == new => {}
        _ => found.push(format!("{name} was {}, now {}", told(old), told(new))),
    }
}

fn told(value: &Value) -> String {
    match value {
        Value::Null => "not set".into(),
        Value::String(text) => short(text, VALUE_CHARS),
        other => short(&other.to_string(), VALUE_CHARS),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_must_stay_is_named_with_both_values() {
        let config = Config::default();
        let mut begun = Begun(vec![as_stored(&config)]);
        assert!(begun.check(&config).is_ok());

        let mut other = config.clone();
        other.desk.fee_ppm = 7;
        other.desk.optimizer.train += 1;
        let text = begun.check(&other).unwrap_err().text();
        assert!(text.contains("desk.fee_ppm was 1000, now 7") && text.contains("desk.optimizer.train was"), "{text}");

        // What an older build did not know, and what may differ.
        begun.0[0]["desk"]["fee_ppm"].take();
        begun.0[0]["desk"].as_object_mut().expect("a section").remove("fee_ppm");
        let mut other = config;
        other.desk.fee_ppm = 7;
        other.desk.speed = Some(3);
        other.desk.risk.drawdown_max_ppm = 3;
        assert!(begun.check(&other).is_ok());
    }

    #[test]
    fn another_seed_is_another_simulated_market() {
        let of = |seed: u64, series: &str| json!({ "run": { "seed": seed }, "desk": { "series": [series] } });
        assert_eq!(differing(&of(5, "SIM.15m"), &of(6, "SIM.15m")), ["run.seed was 5, now 6"]);
        assert!(differing(&of(5, "DOT.15m"), &of(6, "DOT.15m")).is_empty());
        assert_eq!(differing(&of(5, "SIM.15m"), &of(5, "DOT.15m")), ["the market was simulated, now of candles"]);
        assert_eq!(differing(&of(5, "DOT.15m"), &of(5, "SIM.15m")), ["the market was of candles, now simulated"]);
    }

    #[test]
    fn what_is_left_out_is_told() {
        let begun = Begun(vec![json!({ "desk": { "series": ["A.15m", "B.15m"], "from": null, "to": 50 } })]);
        let mut config = Config::default();
        config.desk.series = vec!["A.15m".into(), "B.15m".into()];
        assert_eq!(begun.besides(&config), None);
        config.desk.series.pop();
        config.desk.from = Some(0);
        config.desk.to = Some(60);
        assert_eq!(begun.besides(&config).as_deref(), Some("B.15m and candles before 1970-01-01 00:00:00"));
    }
}
