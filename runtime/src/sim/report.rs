//! What a simulated run amounted to, and how that is told to whoever was not there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use atra_bus::Name;
use atra_storage::{MemoryDisk, Read};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Fault, FaultClass, InputAt, TraceRecord, Violation,
    driven::Disk,
    engine::{EngineError, Figures, Traced, hash_text},
    invariant::Outcome,
    world::World,
};

/// Faults that a text names.
const FAULTS_TOLD_MAX: usize = 20;

/// What a simulated run with faults and checks amounted to.
#[must_use = "what did not hold stands in the report: look at its failure"]
pub struct SimReport<T> {
    /// What the scenario returned; `None` if the run could not go on.
    pub output: Option<T>,
    /// Why it could not go on.
    pub error: Option<EngineError>,
    /// Checks that failed; the first one first.
    pub violations: Vec<Violation>,
    /// How often each invariant was evaluated. One that could have been and never was makes the run fail.
    pub checks: BTreeMap<String, u64>,
    /// The stock invariants that this run had nothing for, and why.
    pub not_applicable: BTreeMap<String, String>,
    /// The faults that fired, in order.
    pub faults: Vec<Fault>,
    /// What came in from outside, in order: callers' publishes and what sources gave.
    pub inputs: Vec<InputAt>,
    /// The teams.
    pub teams: Vec<Name>,
    /// The classes that were asked for.
    pub asked: Vec<FaultClass>,
    /// The classes that the seed drew.
    pub classes: Vec<FaultClass>,
    /// What the swarm was set to, for people.
    pub options: String,
    /// How often each `sometimes` held.
    pub sometimes: BTreeMap<String, u64>,
    /// What was collected.
    pub series: BTreeMap<String, Vec<(u64, f64)>>,
    /// The last events before the end.
    pub recent: Vec<String>,
    /// The rolling hash over the whole trace.
    pub hash: u64,
    /// Polls of tasks.
    pub polls: u64,
    /// Durable events.
    pub events: u64,
    /// Virtual time that passed.
    pub virtual_time: Duration,
    /// Starts after a death.
    pub crashes: u64,
    /// Reads of everything that was committed, while the report is there.
    pub reader: Arc<dyn Read>,
    /// A file is removed with it.
    _disk: Disk,
    /// Every record, if asked for.
    pub trace: Option<Vec<TraceRecord>>,
    /// The tasks in the order in which they were polled, if asked for: see [`Swarm::order`](super::Swarm::order).
    pub order: Option<Vec<u64>>,
}

impl<T> SimReport<T> {
    /// What failed, in one sentence.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        if let Some(violation) = self.violations.first() {
            let Violation { invariant, key, at_ms, text } = violation;
            return Some(format!("{invariant} broken for {key:?} after {at_ms} ms: {text}"));
        }
        if let Some(error) = &self.error {
            return Some(error.to_string());
        }
        let never = self.checks.iter().find(|(_, n)| **n == 0).map(|(name, _)| name);
        never.map(|name| format!("{name} was never evaluated: the run shows nothing about it"))
    }

    /// What makes two failures the same: the invariant, or the engine's word for it, and not what it says in detail.
    pub(super) fn kind(&self) -> Option<String> {
        let invariant = self.violations.first().map(|violation| violation.invariant.clone());
        invariant.or_else(|| Some(self.failure()?.split(':').next()?.to_owned()))
    }

    /// All failures, without their numbers: two runs with the same bug have the same symptoms.
    pub(super) fn symptoms(&self) -> BTreeSet<String> {
        let violations = self.violations.iter().map(|violation| (violation.invariant.as_str(), violation.text.clone()));
        let error = self.error.iter().map(|error| ("error", error.to_string()));
        let without_digits = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
        violations.chain(error).map(|(what, text)| format!("{what}: {}", without_digits(&text))).collect()
    }

    pub(super) fn told(&self) -> Told {
        Told {
            failure: self.failure().unwrap_or_else(|| "all invariants held".into()),
            options: self.options.clone(),
            hash: self.hash,
            faults: self.faults.clone(),
            recent: self.recent.clone(),
        }
    }

    /// What a finished run left.
    pub(super) fn of(output: Option<T>, ended: Ended, world: Option<&World>, disk: Disk, options: String) -> Self {
        let Outcome { checks, not_applicable, violations, recent } =
            world.map(|world| world.audit.outcome()).unwrap_or_default();
        let seen = world.map(|world| std::mem::take(&mut *world.seen())).unwrap_or_default();
        let (error, figures, traced) = match ended {
            Ok((figures, traced)) => (None, figures, traced),
            Err(error) => (Some(error), Figures { polls: 0, hash: 0, virtual_ms: 0 }, None),
        };
        let (trace, order) = traced.map(|traced| (traced.records, traced.order)).unzip();
        // Where nothing was ever written there is no file.
        let reader = disk.reader().unwrap_or_else(|_| Arc::new(MemoryDisk::new()));
        Self {
            output,
            error,
            violations,
            checks,
            not_applicable,
            faults: world.map(|world| world.faults.fired()).unwrap_or_default(),
            inputs: world.map(|world| world.faults.given()).unwrap_or_default(),
            teams: world.map(World::teams).unwrap_or_default(),
            asked: world.map(|world| world.faults.asked()).unwrap_or_default(),
            classes: world.map(|world| world.faults.classes()).unwrap_or_default(),
            options,
            sometimes: seen.sometimes,
            series: seen.series,
            recent,
            hash: figures.hash,
            polls: figures.polls,
            events: world.map_or(0, |world| world.audit.n_events()),
            virtual_time: Duration::from_millis(figures.virtual_ms),
            crashes: seen.crashes,
            reader,
            _disk: disk,
            trace,
            order,
        }
    }
}

impl<T> fmt::Display for SimReport<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.told().fmt(f)
    }
}

/// How a run has ended.
pub(super) type Ended = Result<(Figures, Option<Traced>), EngineError>;

/// What a person reads of a run.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    pub(super) failure: String,
    options: String,
    hash: u64,
    pub(super) faults: Vec<Fault>,
    recent: Vec<String>,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { failure, options, hash, faults, recent } = self;
        writeln!(f, "{failure}")?;
        writeln!(f, "options: {options}")?;
        writeln!(f, "of {}, config {:016x}, trace {hash:016x}", build(), hash_text(options))?;
        writeln!(f, "{} faults:", faults.len())?;
        for fault in faults.iter().take(FAULTS_TOLD_MAX) {
            writeln!(f, "  {} at {:?}", fault.class.name(), fault.at)?;
        }
        writeln!(f, "last events:")?;
        recent.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// What this program was made of: its revision, if the build was told (`ATRA_SIM_REVISION`), and else a hash of the program
/// itself.
#[must_use]
pub fn build() -> String {
    let version = env!("CARGO_PKG_VERSION");
    if let Some(revision) = option_env!("ATRA_SIM_REVISION") {
        return format!("atra {version}, revision {revision}");
    }
    // Who cannot read himself says what he knows.
    match std::env::current_exe().and_then(std::fs::read) {
        Ok(bytes) => format!("atra {version}, program {:016x}", xxh3_64(&bytes)),
        Err(_) => format!("atra {version}"),
    }
}
