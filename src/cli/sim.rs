//! `atra sim`: the desk and a crowd in a deterministic simulation, with faults; repeats and shrinks what failed.
//!
//! Exit 0: all invariants held. 1: one failed. 2: not deterministic (or usage).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    fs,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use atra::{
    runtime::sim::{FaultClass, FaultPlan, Policy, TraceRecord, Violation, build},
    simulation::{Case, StoreKind, TRIALS_MAX, Verdict, is_undetermined, plan_of, run, shrink},
};
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    error::CliError,
    files::{ForceArgs, Outputs},
    interrupted,
    output::{Output, grouped, shown},
    stderr::note,
    stop,
};

/// Failures that are told in full.
const TOLD_MAX: usize = 5;
/// Faults of a failure that are told.
const FAULTS_TOLD_MAX: usize = 20;
const ORDER_NEXT: &str = "give a file that atra sim --order wrote, with the same --seed";
/// How long a search for a smaller case may take. A minute: what a person waits for.
const SHRINK_SECONDS: u64 = 60;
/// The longest. A day.
const SHRINK_SECONDS_MAX: u64 = 86_400;
/// A year.
const MINUTES_MAX: u64 = 525_600;
/// Virtual hours of ten years.
const HOURS_MAX: f64 = 87_660.0;
/// Members of a crowd: more than a machine simulates.
const AGENTS_MAX: usize = 1_000_000;

#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct SimArgs {
    #[command(subcommand)]
    pub(crate) what: Option<SimCommand>,
    #[command(flatten)]
    pub(crate) run: SimRun,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum SimCommand {
    /// Runs a case that was kept in a file.
    Replay {
        /// The case, as `--shrink` writes it.
        file: PathBuf,
    },
    /// Looks for a smaller case that fails in the same way; writes it over the file.
    Shrink {
        /// The case.
        file: PathBuf,
        /// How long to look, in seconds.
        #[arg(long, default_value_t = SHRINK_SECONDS, value_name = "SECONDS",
              value_parser = clap::value_parser!(u64).range(0..=SHRINK_SECONDS_MAX))]
        within: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PolicyArg {
    Random,
    Fifo,
    /// As in the file that `--order` wrote.
    List(PathBuf),
}

impl FromStr for PolicyArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("list:")) {
            ("random", _) => Ok(Self::Random),
            ("fifo", _) => Ok(Self::Fifo),
            (_, Some(file)) if !file.is_empty() => Ok(Self::List(file.into())),
            _ => Err("is none of random, fifo, list:FILE".into()),
        }
    }
}

impl fmt::Display for PolicyArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Random => f.write_str("random"),
            Self::Fifo => f.write_str("fifo"),
            Self::List(file) => write!(f, "list:{}", file.display()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StoreArg {
    /// In memory.
    Model,
    /// SQLite, in a folder for temporary files.
    Sqlite,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct SimRun {
    /// The seed.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Seeds A..B, B not included.
    #[arg(long, value_name = "A..B", conflicts_with = "seed")]
    pub(crate) seeds: Option<String>,
    /// Continue with further seeds for this many minutes; Ctrl-C ends it with the results so far.
    #[arg(long, conflicts_with_all = ["seeds"], value_parser = clap::value_parser!(u64).range(1..=MINUTES_MAX))]
    pub(crate) minutes: Option<u64>,
    /// Members of the crowd.
    #[arg(long, default_value_t = 20)]
    pub(crate) agents: usize,
    /// Leaves the desk of seven away.
    #[arg(long)]
    pub(crate) no_desk: bool,
    /// Virtual seconds between two beats of a member.
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub(crate) every: f64,
    /// Virtual hours.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) hours: f64,
    /// Seeds at a time; one per core if not given.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    pub(crate) jobs: Option<u16>,
    /// Which ready task runs next: random (every seed is another order; with faults, one in eight is fifo), fifo (first
    /// woken, first polled), or list:FILE as --order wrote it.
    #[arg(long, default_value = "random", value_name = "random|fifo|list:FILE")]
    pub(crate) policy: PolicyArg,
    /// Writes the order in which tasks were polled to this file, for --policy list:FILE; one seed only.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "minutes"])]
    pub(crate) order: Option<PathBuf>,
    /// What it runs on; the history is the same on both.
    #[arg(long, value_enum, default_value = "model")]
    pub(crate) store: StoreArg,
    #[command(flatten)]
    pub(crate) force: ForceArgs,
    /// all, none, or names with commas between, such as crash,disk_full.
    #[arg(long, default_value = "all", value_name = "LIST")]
    pub(crate) faults: String,
    /// Runs every seed in a second process too; the hashes of both must be equal.
    #[arg(long)]
    pub(crate) check_determinism: bool,
    /// Makes what fails smaller and writes it to tests/seeds/.
    #[arg(long)]
    pub(crate) shrink: bool,
    /// How long to look for a smaller case of a failure, in seconds: of the first one, with --shrink of each.
    #[arg(long, default_value_t = SHRINK_SECONDS, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(0..=SHRINK_SECONDS_MAX))]
    pub(crate) shrink_within: u64,
    /// Writes every record of the trace to this file; one seed only.
    #[arg(long, value_name = "FILE", hide = true, conflicts_with_all = ["seeds", "minutes"])]
    pub(crate) trace: Option<PathBuf>,
}

impl SimRun {
    /// How its files are written.
    fn outputs(&self) -> Outputs {
        Outputs::new(self.force, None)
    }

    fn case(&self, seed: u64) -> Result<Case, CliError> {
        let faults = plan_of(&self.faults).map_err(|name| CliError::Usage {
            what: format!("there is no fault class {name:?}"),
            next: "name classes as docs/simulation.md lists them, or all, or none",
        })?;
        let is_time = |value: f64, most: f64| value > 0.0 && value <= most;
        if !is_time(self.hours, HOURS_MAX) || !is_time(self.every, HOURS_MAX * 3_600.0) {
            return Err(CliError::Usage {
                what: format!("--hours {} or --every {} is not above 0 and at most ten years", self.hours, self.every),
                next: "give numbers such as --hours 1 --every 10",
            });
        }
        if self.agents > AGENTS_MAX {
            let what = format!("--agents {} is more than {AGENTS_MAX}", self.agents);
            return Err(CliError::Usage { what, next: "give fewer" });
        }
        if self.no_desk && self.agents == 0 {
            return Err(CliError::Usage { what: "nobody is left".into(), next: "give --agents, or keep the desk" });
        }
        let policy = if self.policy == PolicyArg::Fifo { Policy::Fifo } else { Policy::Random };
        let order = match &self.policy {
            PolicyArg::List(file) => read_order(file, seed)?,
            _ => Vec::new(),
        };
        Ok(Case {
            seed,
            agents: self.agents,
            beat_ms: ((self.every * 1_000.0) as u64).max(1),
            desk: !self.no_desk,
            virtual_ms: ((self.hours * 3_600_000.0) as u64).max(1),
            policy,
            varied: faults != FaultPlan::None,
            faults,
            store: if self.store == StoreArg::Sqlite { StoreKind::Sqlite } else { StoreKind::Model },
            order,
            inputs: None,
            story: String::new(),
        })
    }

    fn range(&self) -> Result<(u64, u64), CliError> {
        let Some(text) = &self.seeds else {
            return Ok((self.seed, if self.minutes.is_some() { u64::MAX } else { self.seed.saturating_add(1) }));
        };
        let ends = text.split_once("..").and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        ends.filter(|(a, b): &(u64, u64)| a < b).ok_or_else(|| CliError::Usage {
            what: format!("{text:?} is no range of seeds"),
            next: "write it as 0..100; the last is not included",
        })
    }
}

/// How long a stop may take: as long as a seed, at most.
const STOP: Duration = Duration::from_secs(30);

/// Does what `atra sim` says.
pub(crate) fn sim(args: &SimArgs, out: &mut Output) -> Result<(), CliError> {
    stop::set_deadline(STOP);
    match &args.what {
        Some(SimCommand::Replay { file }) => replay(file, out),
        Some(SimCommand::Shrink { file, within }) => shrink_file(file, Duration::from_secs(*within), out),
        None => seeds(&args.run, out),
    }
}

/// What all runs together amounted to.
#[derive(Default)]
struct Sum {
    seeds: u64,
    cpu: Duration,
    virtual_ms: u64,
    polls: u64,
    events: u64,
    faults: BTreeMap<String, u64>,
    /// Classes that some seed drew.
    drawn: BTreeSet<String>,
    checks: BTreeMap<String, u64>,
    not_applicable: BTreeMap<String, String>,
    sometimes: BTreeMap<String, u64>,
    hashes: BTreeMap<u64, String>,
    failures: Vec<Verdict>,
}

impl Sum {
    fn add(&mut self, verdict: Verdict, cpu: Duration) {
        self.seeds += 1;
        self.cpu += cpu;
        self.virtual_ms += verdict.virtual_ms;
        self.polls += verdict.polls;
        self.events += verdict.events;
        for fault in &verdict.faults {
            *self.faults.entry(fault.class.name()).or_insert(0) += 1;
        }
        self.drawn.extend(verdict.classes.iter().map(|class| class.name()));
        self.not_applicable.extend(verdict.not_applicable.clone());
        for (name, n) in &verdict.checks {
            *self.checks.entry(name.clone()).or_insert(0) += n;
        }
        for (name, n) in &verdict.sometimes {
            *self.sometimes.entry(name.clone()).or_insert(0) += n;
        }
        self.hashes.insert(verdict.seed, verdict.hash.clone());
        if verdict.failure.is_some() {
            self.failures.push(verdict);
        }
    }

    /// The stock invariants that no seed had anything for, and why. One that some seed should have evaluated and did not is
    /// that seed's failure.
    fn not_applicable(&self) -> BTreeMap<String, String> {
        let never = self.not_applicable.iter().filter(|(name, _)| !self.checks.contains_key(*name));
        never.map(|(name, reason)| (name.clone(), reason.clone())).collect()
    }

    /// The classes that were asked for and never fired, and why.
    fn not_fired(&self, asked: &FaultPlan) -> BTreeMap<String, &'static str> {
        let is_list = matches!(asked, FaultPlan::Exactly(_));
        let never = asked.classes().into_iter().map(FaultClass::name).filter(|name| !self.faults.contains_key(name));
        never
            .map(|name| {
                let met = is_list || self.drawn.contains(&name);
                let reason = if met { "drawn, and nothing was hit" } else { "no seed drew it" };
                (name, reason)
            })
            .collect()
    }

    /// One hash over those of all seeds, in their order.
    fn hash(&self) -> String {
        let all: Vec<&str> = self.hashes.values().map(String::as_str).collect();
        match all.as_slice() {
            [one] => (*one).to_owned(),
            all => atra::EventId::of(&fixed_name(), &all.join(" ")).to_string(),
        }
    }

    fn json(&self, asked: &FaultPlan) -> Value {
        let hours = self.virtual_ms as f64 / 3_600_000.0;
        let cpu_s = self.cpu.as_secs_f64();
        let failures: Vec<Value> = self
            .failures
            .iter()
            .map(|verdict| json!({ "seed": verdict.seed, "failure": verdict.failure, "faults": verdict.faults.len() }))
            .collect();
        json!({
            "seeds": self.seeds, "virtual_hours": hours, "cpu_s": cpu_s, "speedup": hours * 3_600.0 / cpu_s.max(1e-9),
            "polls": self.polls, "events": self.events, "faults": self.faults, "faults_not_fired": self.not_fired(asked),
            "invariant_checks": self.checks, "not_applicable": self.not_applicable(),
            "sometimes": self.sometimes, "hash": self.hash(), "failures": failures,
        })
    }
}

fn fixed_name() -> atra::Name {
    atra::Name::new("simulation").unwrap_or_else(|error| panic!("{error}"))
}

fn seeds(args: &SimRun, out: &mut Output) -> Result<(), CliError> {
    args.outputs().check(args.order.iter().chain(&args.trace))?;
    let (from, to) = args.range()?;
    let asked = args.case(from)?.faults;
    let sum = run_all(args, from, to)?;
    for (n, verdict) in sum.failures.iter().take(TOLD_MAX).enumerate() {
        let case = args.case(verdict.seed)?;
        // The first is always made smaller: it is the one that somebody will look at.
        let within = Duration::from_secs(args.shrink_within);
        let smaller = if (args.shrink || n == 0) && !stop::is_asked() { smaller(&case, within)? } else { None };
        tell(verdict, &case, smaller.as_ref(), args);
        if args.shrink && !stop::is_asked() {
            keep(verdict.seed, smaller)?;
        }
    }
    if out.is_json() {
        for (seed, hash) in &sum.hashes {
            out.json(&json!({ "seed": seed, "hash": hash }))?;
        }
    }
    let differing = if args.check_determinism && !stop::is_asked() { differing(args, &sum)? } else { Vec::new() };
    if out.is_json() {
        out.json(&sum.json(&asked))?;
    } else {
        summary(&sum, &asked, out)?;
    }
    if let Some((seed, what)) = differing.first() {
        let what = format!("seed {seed} is not deterministic: {what}");
        return Err(CliError::Verdict { what, next: "look at what that record does differently".into(), code: 2 });
    }
    match sum.failures.first() {
        // Without an end of its own, a signal is how it ends.
        None if stop::is_asked() && args.minutes.is_none() => Err(interrupted()),
        None => Ok(()),
        Some(verdict) => Err(CliError::Verdict {
            what: format!("{} of {} seeds failed, the first is {}", sum.failures.len(), sum.seeds, verdict.seed),
            next: repeat_line(verdict.seed, args),
            code: if is_undetermined(verdict) { 2 } else { 1 },
        }),
    }
}

/// Runs the seeds on as many threads as asked for.
fn run_all(args: &SimRun, from: u64, to: u64) -> Result<Sum, CliError> {
    let jobs = args.jobs.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
    let bar = ProgressBar::new(to.saturating_sub(from));
    let style =
        if args.minutes.is_some() { "{pos} seeds {elapsed} {msg}" } else { "{bar:30} {pos}/{len} seeds {eta} {msg}" };
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    let (next, sum, began) = (AtomicU64::new(from), Mutex::new(Sum::default()), Instant::now());
    let limit = args.minutes.map(|minutes| Duration::from_secs(minutes.saturating_mul(60)));
    let failed: Mutex<Option<CliError>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(usize::try_from(to - from).unwrap_or(usize::MAX)) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= to || stop::is_asked() || limit.is_some_and(|limit| began.elapsed() > limit) {
                        return;
                    }
                    let before = cpu(began);
                    match one(args, seed) {
                        Ok(verdict) => {
                            let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                            sum.add(verdict, cpu(began).saturating_sub(before));
                            bar.set_message(if sum.failures.is_empty() {
                                String::new()
                            } else {
                                format!("{} failed", sum.failures.len())
                            });
                        }
                        Err(error) => {
                            *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                            return;
                        }
                    }
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(sum.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

fn one(args: &SimRun, seed: u64) -> Result<Verdict, CliError> {
    let case = args.case(seed)?;
    let mut verdict = quietly(|| run(&case, args.trace.is_some() || args.order.is_some()))?;
    if let (Some(file), Some(order)) = (&args.order, verdict.order.take()) {
        write_order(file, seed, &order, &args.outputs())?;
    }
    if let (Some(file), Some(trace)) = (&args.trace, &verdict.trace) {
        let lines: Vec<String> = trace.iter().filter_map(|record| serde_json::to_string(record).ok()).collect();
        args.outputs().write(file, lines.join("\n").as_bytes())?;
    }
    Ok(verdict)
}

/// Without the log of all the failures that are planned, unless somebody wants it.
fn quietly<T>(work: impl FnOnce() -> T) -> T {
    if std::env::var_os("ATRA_LOG").or_else(|| std::env::var_os("RUST_LOG")).is_some() {
        return work();
    }
    tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::default(), work)
}

/// What this thread has used of a core; the time that passed where the system does not tell.
fn cpu(began: Instant) -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    nanos.map_or_else(|| began.elapsed(), Duration::from_nanos)
}

/// The one line that repeats a seed.
fn repeat_line(seed: u64, args: &SimRun) -> String {
    let desk = if args.no_desk { " --no-desk" } else { "" };
    let policy = if args.policy == PolicyArg::Random { String::new() } else { format!(" --policy {}", args.policy) };
    let store = if args.store == StoreArg::Sqlite { " --store sqlite" } else { "" };
    let SimRun { agents, every, hours, faults, .. } = args;
    format!(
        "repeat it: atra sim --seed {seed} --agents {agents}{desk} --every {every} --hours {hours}{policy}{store} --faults {faults}"
    )
}

/// Everything about a failure that somebody needs who was not there.
fn tell(verdict: &Verdict, case: &Case, smaller: Option<&Case>, args: &SimRun) {
    note(&format!("seed {}: {}", verdict.seed, verdict.failure.as_deref().unwrap_or_default()));
    for Violation { invariant, key, at_ms, text } in verdict.violations.iter().skip(1) {
        note(&format!("  then: {invariant} broken for {key:?} after {at_ms} ms: {text}"));
    }
    note(&format!("  options: {}", verdict.options));
    note(&format!("  of {}, case {}", build(), case.hash()));
    let n_faults = verdict.faults.len();
    let listed = match smaller.map(|case| (&case.faults, case)) {
        Some((FaultPlan::Exactly(list), case)) => {
            note(&format!("  {} of {n_faults} faults are enough, {}:", list.len(), told_case(case)));
            list.clone()
        }
        Some((_, case)) => {
            note(&format!("  none of {n_faults} faults is needed, {}", told_case(case)));
            Vec::new()
        }
        None => {
            let last = n_faults.saturating_sub(FAULTS_TOLD_MAX);
            note(&format!("  {n_faults} faults, the last of them:"));
            verdict.faults[last..].to_vec()
        }
    };
    for fault in listed.iter().take(FAULTS_TOLD_MAX) {
        note(&format!("    {} {}", fault.class.name(), serde_json::to_string(&fault.at).unwrap_or_default()));
    }
    note("  last events:");
    verdict.recent.iter().for_each(|line| note(&format!("    {line}")));
    note(&format!("  {}", repeat_line(verdict.seed, args)));
}

fn told_case(case: &Case) -> String {
    let desk = if case.desk { "the desk, " } else { "" };
    let inputs = case.inputs.as_ref().map_or(String::new(), |inputs| format!("{} inputs, ", inputs.len()));
    let Case { agents, virtual_ms, policy, .. } = case;
    format!("with {desk}{agents} agents, {inputs}{virtual_ms} ms, {policy:?} order").to_lowercase()
}

fn summary(sum: &Sum, asked: &FaultPlan, out: &mut Output) -> Result<(), CliError> {
    let hours = sum.virtual_ms as f64 / 3_600_000.0;
    let cpu_s = sum.cpu.as_secs_f64();
    let list =
        |map: &BTreeMap<String, u64>| map.iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ");
    let not_fired = sum.not_fired(asked).into_iter().map(|(name, reason)| format!("{name}: {reason}"));
    let not_applicable = sum.not_applicable().into_iter().map(|(name, reason)| format!("{name}: {reason}"));
    let joined = |told: Vec<String>| if told.is_empty() { "none".into() } else { told.join("; ") };
    out.pairs(&[
        ("seeds", grouped(sum.seeds)),
        (
            "virtual time",
            format!(
                "{hours:.1} h in {cpu_s:.1} s of one core, {:.0} times real time",
                hours * 3_600.0 / cpu_s.max(1e-9)
            ),
        ),
        ("events", grouped(sum.events)),
        ("polls", grouped(sum.polls)),
        ("faults", list(&sum.faults)),
        ("asked for, not fired", joined(not_fired.collect())),
        ("checks", list(&sum.checks)),
        ("nothing to check", joined(not_applicable.collect())),
        ("hash", sum.hash()),
        ("failed", sum.failures.len().to_string()),
    ])
}

// === determinism ===

/// Runs the same in another process; the seeds whose hashes differ, with the first record that does.
fn differing(args: &SimRun, sum: &Sum) -> Result<Vec<(u64, String)>, CliError> {
    let (Some(first), Some(last)) = (sum.hashes.keys().next(), sum.hashes.keys().next_back()) else {
        return Ok(Vec::new());
    };
    let text = child(args, &["--json".into(), "--seeds".into(), format!("{first}..{}", last + 1)])?;
    let mut theirs = BTreeMap::new();
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_default();
        if let (Some(seed), Some(hash)) = (value["seed"].as_u64(), value["hash"].as_str()) {
            theirs.insert(seed, hash.to_owned());
        }
    }
    let mut found = Vec::new();
    for (seed, hash) in &sum.hashes {
        if theirs.get(seed) != Some(hash) {
            found.push((*seed, first_difference(args, *seed)?));
        }
    }
    Ok(found)
}

/// This program again, with the same options.
fn child(args: &SimRun, more: &[String]) -> Result<String, CliError> {
    let process = |source| CliError::Process { what: "the second process", source };
    let mut command = Command::new(std::env::current_exe().map_err(process)?);
    command.arg("sim").args(more);
    command.args(["--agents", &args.agents.to_string(), "--every", &args.every.to_string()]);
    command.args(["--hours", &args.hours.to_string(), "--faults", &args.faults]);
    command.args(["--policy", &args.policy.to_string()]);
    command.args(["--store", if args.store == StoreArg::Sqlite { "sqlite" } else { "model" }]);
    if args.no_desk {
        command.arg("--no-desk");
    }
    if let Some(jobs) = args.jobs {
        command.args(["--jobs", &jobs.to_string()]);
    }
    // Its exit code says the same as ours; what counts here is what it printed.
    let output = command.stderr(std::process::Stdio::null()).output().map_err(process)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn first_difference(args: &SimRun, seed: u64) -> Result<String, CliError> {
    let case = args.case(seed)?;
    let ours = quietly(|| run(&case, true))?.trace.unwrap_or_default();
    let file = std::env::temp_dir().join(format!("atra-trace-{}-{seed}", std::process::id()));
    // Left by a process of the same number; a file that cannot be removed is refused by the one that writes it.
    let _ = fs::remove_file(&file);
    child(args, &["--trace".into(), file.display().to_string(), "--seed".into(), seed.to_string()])?;
    let text = fs::read_to_string(&file).map_err(|source| CliError::File { path: file.clone(), source })?;
    let _ = fs::remove_file(&file);
    let theirs: Vec<TraceRecord> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    Ok(told_difference(&ours, &theirs))
}

/// The first record that is not the same in both; where one is the other's beginning, the first one after its end.
fn told_difference(ours: &[TraceRecord], theirs: &[TraceRecord]) -> String {
    let differs = ours.iter().zip(theirs).position(|(ours, theirs)| ours != theirs);
    let at = differs.unwrap_or(ours.len().min(theirs.len()));
    let told = |records: &[TraceRecord]| {
        records.get(at).map_or("nothing".into(), |TraceRecord { at_ms, what, value, .. }| {
            format!("{what} {value} after {at_ms} ms")
        })
    };
    format!("record {} differs: here {}, there {}", at + 1, told(ours), told(theirs))
}

// === orders in files ===

/// The seed, which the tasks' keys follow from, and a key a line.
fn write_order(file: &Path, seed: u64, order: &[u64], outputs: &Outputs) -> Result<(), CliError> {
    let mut text = format!("seed {seed}\n");
    for key in order {
        // A string takes everything.
        let _ = writeln!(text, "{key:016x}");
    }
    outputs.write(file, text.as_bytes())
}

fn read_order(file: &Path, seed: u64) -> Result<Vec<u64>, CliError> {
    let text = fs::read_to_string(file).map_err(|source| CliError::File { path: file.to_owned(), source })?;
    let refused = |what: String| CliError::Usage { what: format!("{} {what}", file.display()), next: ORDER_NEXT };
    let mut lines = text.lines();
    match lines.next().and_then(|line| line.strip_prefix("seed ")) {
        Some(found) if found == seed.to_string() => {}
        Some(found) => return Err(refused(format!("is the order of seed {found}, not of seed {seed}"))),
        None => return Err(refused("is no order of a simulation: its first line names no seed".into())),
    }
    let key = |(n, line)| {
        u64::from_str_radix(line, 16).map_err(|error| refused(format!("line {}: {line:?}: {error}", n + 2)))
    };
    lines.enumerate().map(key).collect()
}

// === cases in files ===

fn read(file: &Path) -> Result<Case, CliError> {
    // Its own code says that nothing was run: 1 is for an invariant that failed.
    let text = fs::read_to_string(file).map_err(|error| CliError::Usage {
        what: format!("{} could not be read: {error}", file.display()),
        next: "give a file that --shrink wrote",
    })?;
    serde_json::from_str(&text).map_err(|error| CliError::Usage {
        what: format!("{} is no case of a simulation: {error}", file.display()),
        next: "give a file that --shrink wrote",
    })
}

fn write(file: &Path, case: &Case) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(case).map_err(|error| CliError::Output(error.into()))?;
    // The file was named to be replaced, or is ours.
    Outputs::new(ForceArgs { force: true }, None).write(file, (text + "\n").as_bytes())
}

fn replay(file: &Path, out: &mut Output) -> Result<(), CliError> {
    let case = read(file)?;
    let began = Instant::now();
    let before = cpu(began);
    let mut sum = Sum::default();
    let verdict = quietly(|| run(&case, false))?;
    let used = cpu(began).saturating_sub(before);
    // The system counts in ticks, and a small case is shorter than one.
    sum.add(verdict, if used.is_zero() { began.elapsed() } else { used });
    if out.is_json() {
        out.json(&sum.json(&case.faults))?;
    } else {
        summary(&sum, &case.faults, out)?;
    }
    match sum.failures.first() {
        None => Ok(()),
        Some(verdict) => {
            verdict.recent.iter().for_each(|line| note(&format!("  {line}")));
            let what = verdict.failure.clone().unwrap_or_default();
            Err(CliError::Verdict { what, next: format!("repeat it: atra sim replay {}", file.display()), code: 1 })
        }
    }
}

fn shrink_file(file: &Path, within: Duration, out: &mut Output) -> Result<(), CliError> {
    let case = read(file)?;
    match smaller(&case, within)? {
        Some(case) => {
            write(file, &case)?;
            if out.is_json() {
                return out
                    .json(&json!({ "file": shown(file), "holds": false, "faults": n_faults(&case), "case": case }));
            }
            out.line(&format!("{}: {} faults, {}", file.display(), n_faults(&case), told_case(&case)))
        }
        None if out.is_json() => out.json(&json!({ "file": shown(file), "holds": true })),
        None => out.line("it holds: there is nothing to make smaller"),
    }
}

fn n_faults(case: &Case) -> usize {
    if let FaultPlan::Exactly(list) = &case.faults { list.len() } else { 0 }
}

fn smaller(case: &Case, within: Duration) -> Result<Option<Case>, CliError> {
    let bar = ProgressBar::new(TRIALS_MAX as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} tries {elapsed} {msg}") {
        bar.set_style(style);
    }
    let told = |trial: usize, best: &Case| {
        bar.set_message(format!("{} faults, {}", n_faults(best), told_case(best)));
        bar.set_position(trial as u64);
        !stop::is_asked()
    };
    let found = quietly(|| shrink(case, within, told))?;
    bar.finish_and_clear();
    Ok(found.map(|(case, _)| case))
}

/// Keeps a smaller case where CI repeats it.
fn keep(seed: u64, smaller: Option<Case>) -> Result<(), CliError> {
    let Some(case) = smaller else {
        note(&format!("  seed {seed} did not fail twice in the same way"));
        return Ok(());
    };
    let folder = Path::new("tests/seeds");
    fs::create_dir_all(folder).map_err(|source| CliError::File { path: folder.into(), source })?;
    let file = folder.join(format!("seed-{seed}.json"));
    write(&file, &case)?;
    note(&format!("  or, smaller: atra sim replay {}", file.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `--check-determinism` shows of two histories: where they part, and not where they end.
    #[test]
    fn the_first_record_that_differs_is_told() {
        let record = |n: u64, what: &str| TraceRecord { n, at_ms: 10 * n, what: what.into(), value: n };
        let ours: Vec<_> = (1..=5).map(|n| record(n, "team a")).collect();
        let mut theirs = ours.clone();
        (theirs[2], theirs[4]) = (record(3, "storage"), record(5, "team b"));
        let text = told_difference(&ours, &theirs);
        assert_eq!(text, "record 3 differs: here team a 3 after 30 ms, there storage 3 after 30 ms");
        let text = told_difference(&ours[..4], &ours);
        assert_eq!(text, "record 5 differs: here nothing, there team a 5 after 50 ms");
    }
}
