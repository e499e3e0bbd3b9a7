//! Configuration: the kernel's own sections, and how any configuration is read.
//!
//! [`load`] lays a TOML file over the defaults, and the environment over both; flags are the caller's business and come
//! last. An unknown key of the file is an error that names its position and the nearest known key: a typo must not
//! leave a limit at its default. A variable that is not a key is returned with the nearest key, since it may belong to
//! another program: Kubernetes sets `ATRA_PORT` where a service is called atra. What the environment may set follows
//! from the default value itself: the key `limits.inputs_max` is `ATRA_LIMITS_INPUTS_MAX`.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use atra_bus::{InvalidSetting, InvalidSettings, SettingCheck};
use atra_storage::{Keep, Level, REPEATS_WITHIN, Span, SqliteOptions, StorageOptions};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::ClockLimits;

/// The most worker threads. 1,024: above the cores of any machine; more only cost memory.
const THREADS_MAX: usize = 1_024;
/// The largest bound of the clock, in milliseconds. Ten years: more would not be a bound.
const DECADE_MS: u64 = 3_652 * 86_400_000;

/// Section `[runtime]`: the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessConfig {
    /// Worker threads of the agents; 0, the default, is one per core. The storage has a thread of its own.
    pub threads: usize,
    /// How long a stop may take before everything is ended, in milliseconds. 30,000: far above what the default limits
    /// leave under way, and what service managers grant.
    pub stop_deadline_ms: u64,
    /// The largest jump of the machine's clock that is followed at once, in milliseconds. 7,200,000.
    pub clock_step_max_ms: u64,
    /// How long a larger jump must last before it is followed, in milliseconds. 60,000.
    pub clock_hold_ms: u64,
    /// How far ahead of the clock the time of an event may be, in milliseconds. 86,400,000: a caller is refused beyond
    /// it, and no team's wall clock follows.
    pub event_ahead_max_ms: u64,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        let clock = ClockLimits::default();
        Self {
            threads: 0,
            stop_deadline_ms: 30_000,
            clock_step_max_ms: millis(clock.step_max),
            clock_hold_ms: millis(clock.hold),
            event_ahead_max_ms: millis(clock.ahead_max),
        }
    }
}

impl ProcessConfig {
    /// How long a stop may take.
    #[must_use]
    pub fn stop_deadline(&self) -> Duration {
        Duration::from_millis(self.stop_deadline_ms)
    }

    /// Checks every value.
    ///
    /// # Errors
    /// Each value that is out of its range.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        let mut check = SettingCheck::new("runtime");
        check.range("threads", self.threads, 0..=THREADS_MAX);
        check.range("stop_deadline_ms", self.stop_deadline_ms, 1..=86_400_000);
        check.range("clock_step_max_ms", self.clock_step_max_ms, 0..=DECADE_MS);
        check.range("clock_hold_ms", self.clock_hold_ms, 0..=86_400_000);
        check.range("event_ahead_max_ms", self.event_ahead_max_ms, 0..=DECADE_MS);
        check.finish()
    }

    /// The bounds of the wall clock.
    #[must_use]
    pub fn clock(&self) -> ClockLimits {
        ClockLimits {
            step_max: Duration::from_millis(self.clock_step_max_ms),
            hold: Duration::from_millis(self.clock_hold_ms),
            ahead_max: Duration::from_millis(self.event_ahead_max_ms),
        }
    }
}

/// Section `[storage]`: what acknowledgements promise, and the bounds of the storage actor as in [`StorageOptions`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageConfig {
    /// `process` survives the process being killed, `power` also power loss. `process`: ten times the throughput.
    pub level: Level,
    /// Reading connections. 4.
    pub readers: u32,
    /// Commands that one lane holds. 4,096.
    pub queue_commands_max: usize,
    /// Bytes that one lane holds. 64 MiB.
    pub queue_bytes_max: usize,
    /// Commands in one transaction. 1,024.
    pub batch_commands_max: usize,
    /// Bytes in one transaction. 8 MiB.
    pub batch_bytes_max: usize,
    /// Retries of a busy store before giving up. 20.
    pub retries_max: u32,
    /// Idle time after which the log is moved into the database, in milliseconds. 1,000.
    pub checkpoint_after_idle_ms: u64,
    /// Size of the write-ahead log from which on it is begun anew under load. 64 MiB.
    pub wal_bytes_max: u64,
    /// How long one read may take before it is cut, in milliseconds. 10,000.
    pub read_deadline_ms: u64,
    /// From how long on a read or a commit is logged with what it waited for, in milliseconds. 1,000.
    pub slow_after_ms: u64,
    /// Bytes of the database from which on callers' publishes are refused. Not set: the disk decides.
    pub db_bytes_max: Option<u64>,
    /// How long after its commit an event is kept, such as `30d`. Not set: for ever.
    pub keep: Option<Span>,
    /// How many events are kept. Not set: all.
    pub keep_events: Option<u64>,
    /// How long after their commit idempotency keys are kept. `7d`; a publish that is repeated later is a new one.
    pub keep_keys: Span,
    /// How long after their commit results of calls to the outside are kept, and in any case while the turn that made
    /// the call may be repeated. `7d`.
    pub keep_results: Span,
}

impl Default for StorageConfig {
    fn default() -> Self {
        let options = StorageOptions::default();
        Self {
            level: Level::default(),
            readers: 4,
            queue_commands_max: options.queue_commands_max,
            queue_bytes_max: options.queue_bytes_max,
            batch_commands_max: options.batch_commands_max,
            batch_bytes_max: options.batch_bytes_max,
            retries_max: options.retries_max,
            checkpoint_after_idle_ms: millis(options.checkpoint_after_idle),
            wal_bytes_max: options.wal_bytes_max,
            read_deadline_ms: 10_000,
            slow_after_ms: millis(options.slow_after),
            db_bytes_max: None,
            keep: None,
            keep_events: None,
            keep_keys: Span(REPEATS_WITHIN),
            keep_results: Span(REPEATS_WITHIN),
        }
    }
}

impl StorageConfig {
    /// The bounds as the storage actor takes them.
    #[must_use]
    pub fn options(&self) -> StorageOptions {
        let mut options = StorageOptions::default();
        options.queue_commands_max = self.queue_commands_max;
        options.queue_bytes_max = self.queue_bytes_max;
        options.batch_commands_max = self.batch_commands_max;
        options.batch_bytes_max = self.batch_bytes_max;
        options.retries_max = self.retries_max;
        options.checkpoint_after_idle = Duration::from_millis(self.checkpoint_after_idle_ms);
        options.wal_bytes_max = self.wal_bytes_max;
        options.slow_after = Duration::from_millis(self.slow_after_ms);
        options.db_bytes_max = self.db_bytes_max;
        options.keep = Keep {
            span: self.keep.map(|span| span.0),
            events: self.keep_events,
            keys: Some(self.keep_keys.0),
            results: Some(self.keep_results.0),
        };
        options
    }

    /// Checks every value, with the same ranges as [`StorageOptions::check`] and [`SqliteOptions::check`]; the errors
    /// name the keys of this section.
    ///
    /// # Errors
    /// Each value that is out of its range or does not fit another.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        let mut check = SettingCheck::new("");
        check.add(self.options().check());
        let mut sqlite = self.sqlite("");
        // It is in both; the options of the actor name it.
        sqlite.slow_after = StorageOptions::default().slow_after;
        check.add(sqlite.check());
        check.finish().map_err(|found| found.map(with_unit))
    }

    /// How `db` is opened.
    #[must_use]
    pub fn sqlite(&self, db: impl Into<PathBuf>) -> SqliteOptions {
        let mut options = SqliteOptions::new(db);
        options.readers = self.readers;
        options.read_deadline = Duration::from_millis(self.read_deadline_ms);
        options.slow_after = Duration::from_millis(self.slow_after_ms);
        options
    }
}

/// Durations have their unit in the key's name.
fn with_unit(setting: InvalidSetting) -> InvalidSetting {
    const DURATIONS: [&str; 3] = ["storage.checkpoint_after_idle", "storage.read_deadline", "storage.slow_after"];
    match DURATIONS.contains(&setting.field.as_str()) {
        true => InvalidSetting { field: setting.field + "_ms", ..setting },
        false => setting,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Why a configuration cannot be used. Nothing was started or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {} could not be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody knows the key.
    #[error("{place}: there is no key {key:?}; did you mean {nearest:?}?")]
    Unknown {
        /// File and line, or the environment variable.
        place: String,
        /// The key.
        key: String,
        /// The known key that is most like it.
        nearest: String,
    },
    /// Keys with values that are not allowed.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// The value does not suit its key, or the text is not TOML.
    #[error("{place}: {cause}")]
    Invalid {
        /// File and line, or the environment variable.
        place: String,
        /// What is wrong.
        cause: String,
    },
}

/// A configuration that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded<T> {
    /// It.
    pub config: T,
    /// Variables with the prefix that are not keys, sorted.
    pub unknown: Vec<UnknownVariable>,
}

/// An environment variable that is not a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownVariable {
    /// Its name.
    pub name: String,
    /// The variable of the most similar key; `None` if none is similar.
    pub nearest: Option<String>,
}

/// Reads a configuration: defaults, then `file`, then the variables of `environment` that begin with `prefix`.
/// Variables in `ignored` are somebody else's; one that ends in `_` stands for all that begin so.
///
/// # Errors
/// [`ConfigError`], with the place of what is wrong.
///
/// # Examples
/// ```
/// # use atra_runtime::{Limits, config::load};
/// let environment = [("APP_INPUTS_MAX".to_owned(), "64".to_owned())];
/// let limits = load::<Limits>(None, environment, "APP_", &[])?.config;
/// assert_eq!(limits.inputs_max, 64);
/// # Ok::<(), atra_runtime::config::ConfigError>(())
/// ```
pub fn load<T: Default + Serialize + DeserializeOwned>(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    prefix: &str,
    ignored: &[&str],
) -> Result<Loaded<T>, ConfigError> {
    let known = known_keys(&T::default());
    let mut unknown = Vec::new();
    let mut table = toml::Table::new();
    let mut config = T::default();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        config = parse(path, &text, &known)?;
        // It was parsed as a T, so it is a table.
        table = text.parse().unwrap_or_default();
    }
    let mut variables: Vec<_> = environment.into_iter().filter(|(name, _)| name.starts_with(prefix)).collect();
    variables.sort();
    for (name, value) in variables {
        let is_ignored = |ignored: &&str| name == *ignored || (ignored.ends_with('_') && name.starts_with(*ignored));
        if ignored.iter().any(is_ignored) {
            continue;
        }
        let place = format!("environment variable {name}");
        let Some((path, kind)) = known.iter().find(|(path, _)| variable(prefix, path) == name) else {
            let names: Vec<String> = known.iter().map(|(path, _)| variable(prefix, path)).collect();
            let nearest = nearest(&name, names.iter().map(String::as_str));
            unknown.push(UnknownVariable { name, nearest });
            continue;
        };
        set(&mut table, path, to_toml(&value, kind));
        config = toml::Value::Table(table.clone())
            .try_into()
            .map_err(|error: toml::de::Error| ConfigError::Invalid { place, cause: plain(error.message()) })?;
    }
    Ok(Loaded { config, unknown })
}

/// `limits.inputs_max` as `ATRA_LIMITS_INPUTS_MAX`.
fn variable(prefix: &str, path: &str) -> String {
    format!("{prefix}{}", path.replace('.', "_").to_ascii_uppercase())
}

/// Every key that has a value of its own, with its default.
fn known_keys<T: Serialize>(config: &T) -> Vec<(String, Value)> {
    fn walk(path: &str, value: Value, known: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (name, value) in fields {
                    walk(&if path.is_empty() { name } else { format!("{path}.{name}") }, value, known);
                }
            }
            leaf => known.push((path.to_owned(), leaf)),
        }
    }
    let mut known = Vec::new();
    // A configuration that cannot be written as JSON has no keys to name; its own errors still tell.
    walk("", serde_json::to_value(config).unwrap_or_default(), &mut known);
    known
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str, known: &[(String, Value)]) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let number = text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
        let place = format!("{}, line {number}", path.display());
        let message = error.message().trim();
        let line = text.lines().nth(number - 1).unwrap_or_default().trim();
        let section = section_of(text, number);
        if let Some(key) = unknown_key(message) {
            let key = if line.starts_with('[') || section.is_empty() { key.into() } else { format!("{section}.{key}") };
            let nearest = nearest_path(&key, known);
            return ConfigError::Unknown { place, key, nearest };
        }
        let key = line.split_once('=').map_or("", |(key, _)| key.trim());
        let path = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
        let names = if message == NO_NAME { names_of::<T>(text, &path) } else { None };
        let message = names.as_deref().unwrap_or(message);
        let cause = if key.is_empty() { message.into() } else { format!("key {key:?}: {message}") };
        ConfigError::Invalid { place, cause: plain(&cause.replace('\n', "; ")) }
    })
}

/// toml's message for a value that is not a string where one of a few names is expected.
const NO_NAME: &str = "wanted string or table";

/// The names that a key accepts as its value, found by trying an unknown name.
fn names_of<T: DeserializeOwned>(text: &str, path: &str) -> Option<String> {
    let mut table: toml::Table = text.parse().ok()?;
    set(&mut table, path, toml::Value::String("?".into()));
    let tried: Result<T, toml::de::Error> = toml::Value::Table(table).try_into();
    let error = tried.err()?;
    let (_, names) = error.message().split_once("unknown variant `?`, ")?;
    Some(names.to_owned())
}

/// What serde says, with the names of Rust's types in the words of people.
pub fn plain(message: &str) -> String {
    const NUMBERS: [(&str, &str); 10] = [
        ("u8", "a whole number up to 255"),
        ("u16", "a whole number up to 65535"),
        ("u32", "a whole number"),
        ("u64", "a whole number"),
        ("usize", "a whole number"),
        ("i32", "a whole number"),
        ("i64", "a whole number"),
        ("isize", "a whole number"),
        ("f32", "a number"),
        ("f64", "a number"),
    ];
    let found = NUMBERS.iter().find_map(|(name, words)| {
        let (before, behind) = message.split_once(&format!("expected {name}"))?;
        // Not the beginning of a longer name.
        (!behind.starts_with(|c: char| c.is_alphanumeric())).then(|| format!("{before}expected {words}{behind}"))
    });
    found.or_else(|| plain_shape(message)).unwrap_or_else(|| message.to_owned())
}

/// The same for shapes. In toml's message a type name follows them, which a reader of the configuration does not know.
fn plain_shape(message: &str) -> Option<String> {
    const SHAPES: [(&str, &str); 8] = [
        ("internally tagged enum ", "one of its names, or a section with its name and keys"),
        ("adjacently tagged enum ", "one of its names, or a section with its name and keys"),
        ("enum ", "one of its names"),
        ("struct ", "a section of keys, such as { key = value }"),
        ("tuple struct ", "a list of values"),
        ("a tuple of size ", "a list of as many values as "),
        ("a sequence", "a list in brackets"),
        ("path string", "the name of a file"),
    ];
    SHAPES.iter().find_map(|(name, words)| {
        let (before, behind) = message.split_once(&format!("expected {name}"))?;
        let is_type = name.ends_with(' ') && !name.starts_with("a ");
        let behind =
            if is_type { behind.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_') } else { behind };
        Some(format!("{before}expected {words}{behind}"))
    })
}

/// The key in serde's `unknown field ‘key’, expected …`.
fn unknown_key(message: &str) -> Option<&str> {
    message.strip_prefix("unknown field `")?.split('`').next()
}

/// The `[section]` that a line (from 1) belongs to; empty at the top.
fn section_of(text: &str, number: usize) -> String {
    let heads = text.lines().take(number).filter_map(|line| line.trim().strip_prefix('[')?.split(']').next());
    heads.last().unwrap_or_default().trim_matches(['[', ' ']).to_owned()
}

/// From this likeness on a key of the same section is what was meant. 0.8: a letter or two, or a missing unit.
const LIKE: f64 = 0.8;

/// The known key or section most like `key`: one beside it if any is like it, or else anywhere; its last part decides,
/// then the whole.
fn nearest_path(key: &str, known: &[(String, Value)]) -> String {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let mut paths: Vec<&str> = Vec::new();
    for (path, _) in known {
        // Sections are keys too: `[limit]` is meant to be `[limits]`.
        paths.extend(path.match_indices('.').map(|(at, _)| &path[..at]).chain([path.as_str()]));
    }
    let likeness = |path: &str| strsim::jaro_winkler(&last(path), &last(key));
    let section = |path: &str| path.rsplit_once('.').map_or("", |(section, _)| section).to_owned();
    let beside = paths.iter().filter(|path| section(path) == section(key) && likeness(path) >= LIKE);
    if let Some(best) = beside.max_by(|a, b| likeness(a).total_cmp(&likeness(b))) {
        return (*best).to_owned();
    }
    let score = |path: &str| likeness(path) + 0.1 * strsim::jaro_winkler(path, key);
    let best = paths.into_iter().max_by(|a, b| score(a).total_cmp(&score(b)));
    best.unwrap_or_default().to_owned()
}

/// The most similar name, if any.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    // A name that lacks its end, such as a unit, comes before one that is as long.
    let score = |candidate: &str| {
        let likeness = strsim::normalized_damerau_levenshtein(candidate, name);
        if candidate.starts_with(name) { 1.0 + likeness } else { likeness }
    };
    let best = known.map(|candidate| (score(candidate), candidate)).max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(score, _)| *score >= LIKE).map(|(_, candidate)| candidate.to_owned())
}

/// A variable's text as the type that its key has by default; `a,b` is a list.
fn to_toml(text: &str, kind: &Value) -> toml::Value {
    let string = || toml::Value::String(text.to_owned());
    let value = |text: &str| format!("v = {text}").parse::<toml::Table>().ok()?.remove("v");
    match kind {
        Value::String(_) => string(),
        Value::Array(_) if !text.trim_start().starts_with('[') => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            toml::Value::Array(parts.map(|part| value(part).unwrap_or_else(|| part.into())).collect())
        }
        _ => value(text).unwrap_or_else(string),
    }
}

fn set(table: &mut toml::Table, path: &str, value: toml::Value) {
    match path.split_once('.') {
        None => drop(table.insert(path.to_owned(), value)),
        Some((section, rest)) => {
            let inner = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            // Anything else was refused when the file was read.
            if let toml::Value::Table(inner) = inner {
                set(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Whole {
        names: Vec<String>,
        until: Option<i64>,
        storage: StorageConfig,
        limits: Limits,
    }

    fn read(text: &str) -> Result<Whole, ConfigError> {
        parse(Path::new("atra.toml"), text, &known_keys(&Whole::default()))
    }

    fn loaded(variables: &[(&str, &str)]) -> Result<Loaded<Whole>, ConfigError> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        load(None, variables, "ATRA_", &["ATRA_LOG", "ATRA_SIM_"])
    }

    fn with(variables: &[(&str, &str)]) -> Result<Whole, ConfigError> {
        loaded(variables).map(|loaded| loaded.config)
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
        for (text, expected) in [
            ("[storage]\nlevl = \"power\"", ("atra.toml, line 2", "storage.levl", "storage.level")),
            ("\n[limit]\ninputs_max = 1", ("atra.toml, line 2", "limit", "limits")),
            ("[storage]\ninput_max = 1", ("atra.toml, line 2", "storage.input_max", "limits.inputs_max")),
            ("nmaes = []", ("atra.toml, line 1", "nmaes", "names")),
        ] {
            let Err(ConfigError::Unknown { place, key, nearest }) = read(text) else { panic!("{text}") };
            assert_eq!((place.as_str(), key.as_str(), nearest.as_str()), expected);
        }
    }

    #[test]
    fn a_key_beside_the_unknown_one_is_nearer_than_the_same_word_elsewhere() {
        let known = ["desk.risk.drawdown_max_ppm", "desk.risk.cool_down_ms", "desk.optimizer.gates.drawdown_max"];
        let known = known.map(|path| (path.to_owned(), Value::Null));
        assert_eq!(nearest_path("desk.risk.drawdown_max", &known), "desk.risk.drawdown_max_ppm");
        assert_eq!(nearest_path("desk.drawdown_max", &known), "desk.optimizer.gates.drawdown_max");
    }

    #[test]
    fn a_variable_without_its_unit_is_nearer_than_another_of_its_length() {
        let known = ["ATRA_RUN_FEED", "ATRA_RUN_FEW_PPM", "ATRA_RUN_SPEED"];
        assert_eq!(nearest("ATRA_RUN_FEW", known.into_iter()).as_deref(), Some("ATRA_RUN_FEW_PPM"));
        assert_eq!(nearest("ATRA_RUN_SPED", known.into_iter()).as_deref(), Some("ATRA_RUN_SPEED"));
        assert_eq!(nearest("ATRA_PORT_80_TCP", known.into_iter()), None);
    }

    #[test]
    fn a_wrong_value_is_named_with_its_line_and_key() {
        for (text, place, part) in [
            ("[limits]\n\ninputs_max = \"many\"", "atra.toml, line 3", "inputs_max"),
            ("[storage]\nlevel = \"paper\"", "atra.toml, line 2", "process"),
            ("[storage\n", "atra.toml, line 1", ""),
            ("[limits]\ninputs_max = \"many\"", "atra.toml, line 2", "expected a whole number"),
            ("names = 3", "atra.toml, line 1", "expected a list in brackets"),
            ("[storage]\nlevel = 3", "atra.toml, line 2", "expected `process` or `power`"),
            ("storage.level = 3", "atra.toml, line 1", "expected `process` or `power`"),
            ("limits = 3", "atra.toml, line 1", "expected a section of keys"),
            ("[storage]\nkeep = \"30 days\"", "atra.toml, line 2", "such as 30d"),
        ] {
            let text = read(text).unwrap_err().to_string();
            assert!(text.starts_with(place) && text.contains(part), "{text}");
        }
    }

    #[test]
    fn the_environment_sets_what_the_file_may() {
        let whole = with(&[
            ("ATRA_LIMITS_INPUTS_MAX", "8"),
            ("ATRA_STORAGE_LEVEL", "power"),
            ("ATRA_NAMES", "a, b"),
            ("ATRA_UNTIL", "7"),
            ("ATRA_LOG", "debug"),
            ("PATH", "/"),
        ]);
        let whole = whole.unwrap();
        assert_eq!((whole.limits.inputs_max, whole.storage.level, whole.until), (8, Level::Power, Some(7)));
        assert_eq!(whole.names, ["a", "b"]);
    }

    #[test]
    fn variables_of_others_are_left_alone_and_those_that_only_look_alike_are_not() {
        assert_eq!(with(&[("ATRA_SIM_SEED", "7"), ("ATRA_LOG", "info")]).unwrap(), Whole::default());
        for name in ["ATRA_SIM", "ATRA_SIMSEED", "ATRA_LOGS", "ATRA_PORT", "ATRA_SERVICE_HOST"] {
            let Loaded { config, unknown } = loaded(&[(name, "tcp://10.0.0.1:80")]).unwrap();
            assert_eq!((config, unknown[0].name.as_str()), (Whole::default(), name));
        }
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let unknown = loaded(&[("ATRA_LIMIT_INPUTS_MAX", "8")]).unwrap().unknown;
        assert_eq!(unknown[0].nearest.as_deref(), Some("ATRA_LIMITS_INPUTS_MAX"));
        let error = with(&[("ATRA_LIMITS_INPUTS_MAX", "lots")]).unwrap_err().to_string();
        assert!(error.starts_with("environment variable ATRA_LIMITS_INPUTS_MAX: "), "{error}");
    }

    #[test]
    fn storage_defaults_are_those_of_the_storage_actor() {
        let (ours, theirs) = (StorageConfig::default().options(), StorageOptions::default());
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
        let (ours, theirs) = (StorageConfig::default().sqlite("a.db"), SqliteOptions::new("a.db"));
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
    }
}
