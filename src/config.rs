//! The whole configuration of the `atra` binary: kernel and desk, from a file, the environment and flags.
//!
//! ```
//! let config = atra::config::Config::default();
//! assert_eq!(config.limits.inputs_max, 256);
//! ```

use std::path::{Path, PathBuf};

use atra_runtime::config::load;
pub use atra_runtime::config::{ConfigError, ProcessConfig, StorageConfig};
use atra_runtime::{Limits, Placement};
use serde::{Deserialize, Serialize};

/// What every variable of the configuration begins with.
pub const ENV_PREFIX: &str = "ATRA_";
/// Variables with the prefix that are not keys: the log filter, and the name of the configuration file.
const ENV_IGNORED: [&str; 2] = ["ATRA_LOG", ENV_CONFIG];
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
    /// What `atra run` runs on.
    pub run: RunConfig,
}

/// Section `[run]`: what the desk runs on, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Tickers of the database to run on; all if empty.
    pub tickers: Vec<String>,
    /// Only series of this interval, such as `15m`.
    pub interval: Option<String>,
    /// Only candles that open at this time or later: a date or milliseconds since 1970, UTC.
    pub from: Option<String>,
    /// Only candles that open before this time.
    pub to: Option<String>,
    /// Where the agents run; the result is the same.
    pub placement: Placement,
    /// Candles a second; 0 is as many as it can. Not set: 0, and 100 in the simulated market, so that a person sees
    /// things happen.
    pub speed: Option<u32>,
    /// What the simulated market is made of. 7: any number is as good.
    pub seed: u64,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            tickers: Vec::new(),
            interval: None,
            from: None,
            to: None,
            placement: Placement::default(),
            speed: None,
            seed: 7,
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
        }
    }
}

impl Config {
    /// Reads the configuration: defaults, then `file` (or the one that `ATRA_CONFIG` names), then the environment.
    ///
    /// # Errors
    /// [`ConfigError`] with the place of what is wrong.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let named = std::env::var_os(ENV_CONFIG).map(PathBuf::from);
        // A variable that is no text cannot be one of ours: all our names and values are.
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        load(file.or(named.as_deref()), variables, ENV_PREFIX, &ENV_IGNORED)
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
