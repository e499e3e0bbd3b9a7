//! How a strategy is written in a configuration or a journal: its name, or a table of its name and parameters.

use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::StrategySpec;

/// What can be written, with an example that works.
const EXPECTED: &str =
    "a strategy such as \"donchian\", or with parameters such as { name = \"donchian\", entry = 20, exit = 10 }";

impl Serialize for StrategySpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for StrategySpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Spec;

        impl<'de> Visitor<'de> for Spec {
            type Value = StrategySpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<StrategySpec, E> {
                with(name, Map::new()).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StrategySpec, A::Error> {
                let (mut name, mut given) = (None, Map::new());
                while let Some(key) = map.next_key::<String>()? {
                    if key == "name" {
                        name = Some(map.next_value::<String>()?);
                    } else {
                        given.insert(key, map.next_value()?);
                    }
                }
                let name = name.ok_or_else(|| A::Error::custom(format!("its name is missing; write {EXPECTED}")))?;
                with(&name, given).map_err(A::Error::custom)
            }
        }

        deserializer.deserialize_any(Spec)
    }
}

/// A strategy with its usual parameters, except for those given.
fn with(name: &str, given: Map<String, Value>) -> Result<StrategySpec, String> {
    let usual = if name == "own" { Some(StrategySpec::Own) } else { StrategySpec::usual(name) };
    let Some(Ok(Value::Object(mut parameters))) = usual.map(serde_json::to_value) else {
        let name: String = name.chars().take(40).collect();
        return Err(format!("there is no strategy {name:?}; there are {}", StrategySpec::NAMES.join(", ")));
    };
    for (key, value) in given {
        if !parameters.contains_key(&key) {
            let known: Vec<&str> = parameters.keys().map(String::as_str).filter(|key| *key != "name").collect();
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            let key: String = key.chars().take(40).collect();
            return Err(format!("strategy {name} has no parameter {key:?}; it has {known}"));
        }
        let wrong = format!("strategy {name}, parameter {key}: {value} is not allowed");
        let mut alone = parameters.clone();
        alone.insert(key.clone(), value);
        // One at a time, so that the error names the parameter.
        StrategySpec::deserialize(Value::Object(alone.clone())).map_err(|error| format!("{wrong}: {error}"))?;
        parameters = alone;
    }
    StrategySpec::deserialize(Value::Object(parameters)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::Side;
    use super::*;

    fn read(json: &str) -> Result<StrategySpec, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn every_strategy_is_read_from_its_name_and_from_what_was_written() {
        for name in StrategySpec::NAMES {
            let usual = StrategySpec::usual(name).unwrap();
            assert_eq!(read(&format!("{name:?}")), Ok(usual));
            assert_eq!(read(&format!("{{\"name\":{name:?}}}")), Ok(usual));
            let short = usual.with_side(Side::LongShort);
            assert_eq!(read(&serde_json::to_string(&short).unwrap()), Ok(short));
        }
        assert_eq!(read("{\"name\":\"own\"}"), Ok(StrategySpec::Own));
        let partial = read("{\"exit\":5,\"name\":\"donchian\"}").unwrap();
        assert_eq!(partial, StrategySpec::Donchian { entry: 20, exit: 5, side: Side::LongOnly });
    }

    /// `strategy = "donchian"` said: expected internally tagged enum StrategySpec.
    #[test]
    fn what_is_no_strategy_is_told_with_what_is_allowed() {
        for (json, told) in [
            ("5", "expected a strategy such as \"donchian\", or with parameters such as { name = \"donchian\""),
            ("[\"donchian\"]", "expected a strategy such as"),
            ("\"dochian\"", "there is no strategy \"dochian\"; there are sma-cross, ema-cross"),
            ("{\"entry\":5}", "its name is missing; write a strategy such as"),
            (
                "{\"name\":\"donchian\",\"fast\":5}",
                "strategy donchian has no parameter \"fast\"; it has entry, exit, side",
            ),
            ("{\"name\":\"buy-and-hold\",\"fast\":5}", "it has none"),
            ("{\"name\":\"donchian\",\"entry\":\"x\"}", "parameter entry: \"x\" is not allowed"),
            ("{\"name\":\"donchian\",\"side\":\"up\"}", "expected `long-only` or `long-short`"),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains(told) && !error.contains("enum"), "{json}: {error}");
        }
    }
}
