//! The whole configuration of the `atra` binary: kernel and desk, from a file, the environment and flags.
//!
//! ```
//! let config = atra::config::Config::default();
//! assert_eq!(config.limits.inputs_max, 256);
//! ```

mod validate;

use std::path::{Path, PathBuf};

use atra_agents::DeskConfig;
pub use atra_runtime::config::{ConfigError, ProcessConfig, StorageConfig, UnknownVariable};
use atra_runtime::config::{Loaded, load};
use atra_runtime::{Limits, Placement};
use serde::{Deserialize, Serialize};

/// What every variable of the configuration begins with.
pub const ENV_PREFIX: &str = "ATRA_";
/// Variables with the prefix that are not keys: the log filter, the name of the configuration file, and whatever tests
/// are told by (a process under test has their environment). No section may be called like one of these.
const ENV_IGNORED: [&str; 6] = ["ATRA_LOG", ENV_CONFIG, "ATRA_KILL_", "ATRA_RIG_", "ATRA_SIM_", "ATRA_TEST_"];
/// The variable that names the configuration file.
const ENV_CONFIG: &str = "ATRA_CONFIG";

/// Everything that can be set. Flags of the command line win over the environment, that over the file, that over the
/// defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The database file.
    pub db: PathBuf,
    /// The process.
    pub runtime: ProcessConfig,
    /// Durability and bounds of the storage.
    pub storage: StorageConfig,
    /// Bounds of the desk's team.
    pub limits: Limits,
    /// How the desk runs.
    pub run: RunConfig,
    /// What the desk trades, with what, and within which limits.
    pub desk: DeskConfig,
}

/// Section `[run]`: how the desk runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Where the agents run; the result is the same. `together`: one task, a hop is a function call.
    pub placement: Placement,
    /// What the simulated market is made of. 5: any number is as good; this one soon gives the desk something to do.
    pub seed: u64,
    /// Candles that the simulated market has. Not set: without end.
    pub simulated_candles: Option<u64>,
    /// Candles a second in the simulated market, unless `desk.speed` says another. 1,000: ten days pass in a
    /// second, so that a person sees the desk learn and trade.
    pub simulated_speed: u32,
    /// Candles of the simulated market's past, which go as fast as they can before `simulated_speed` holds. 10,000: the
    /// optimizer has its 90 days and a choice to make, so the first fills are seconds away and not minutes.
    pub simulated_past: u64,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            placement: Placement::default(),
            seed: 5,
            simulated_candles: None,
            simulated_speed: 1_000,
            simulated_past: 10_000,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            db: PathBuf::from("./atra-data/atra.db"),
            runtime: ProcessConfig::default(),
            storage: StorageConfig::default(),
            limits: Limits::default(),
            run: RunConfig::default(),
            desk: DeskConfig::default(),
        }
    }
}

impl Config {
    /// Reads the configuration: defaults, then `file` (or the one that `ATRA_CONFIG` names), then the environment; and
    /// checks it. A variable with the prefix that is not a key is logged as a warning, since it may belong to another
    /// program, as the service links of Kubernetes do.
    ///
    /// # Errors
    /// [`ConfigError`] with the place of what is wrong, or the key whose value is out of its range.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let named = std::env::var_os(ENV_CONFIG).map(PathBuf::from);
        // A variable that is no text cannot be one of ours: all our names and values are.
        let variables =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let Loaded { config, unknown } = load::<Self>(file.or(named.as_deref()), variables, ENV_PREFIX, &ENV_IGNORED)?;
        warn(&unknown);
        config.validate()?;
        Ok(config)
    }

    /// Checks every value. [`load`](Self::load) does so; a program does it again after it has changed some.
    ///
    /// # Errors
    /// [`ConfigError::Settings`] or [`ConfigError::Invalid`].
    pub fn validate(&self) -> Result<(), ConfigError> {
        validate::validate(self)
    }
}

/// Logs the variables that are not keys: each variable similar to a key with that key, all others in one line.
fn warn(unknown: &[UnknownVariable]) {
    for UnknownVariable { name, nearest } in unknown {
        if let Some(nearest) = nearest {
            tracing::warn!("environment variable {name} is no key and has no effect; did you mean {nearest}?");
        }
    }
    let others: Vec<&str> =
        unknown.iter().filter(|variable| variable.nearest.is_none()).map(|variable| variable.name.as_str()).collect();
    if !others.is_empty() {
        tracing::warn!("environment variables without effect, since they are not keys: {}", others.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_read_back() {
        let text = toml::to_string(&Config::default()).expect("TOML");
        assert_eq!(toml::from_str::<Config>(&text).expect("a configuration"), Config::default());
    }
}
