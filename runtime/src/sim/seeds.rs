//! A test of many seeds: the first that fails is made smaller, told, and kept for the runs to come.
//!
//! The test is a closure that makes a swarm from a seed and simulates it. It is run again and again with less: what a
//! [`Kept`] case leaves out is left out of the next simulation on this thread, whatever its swarm says.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    fs,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::Once,
    time::Duration,
};

use atra_bus::Name;
use atra_storage::OutputFile;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    Fault, FaultClass, InputAt, Invariant, Policy, SimReport,
    report::Told,
    shrink::{earlier, fewer, weaker},
};
use crate::team::panic_text;

/// The variable that says which one seed a test runs.
const SEED_VARIABLE: &str = "ATRA_SIM_SEED";
/// Runs that a search for a smaller case may take.
const TRIES_MAX: usize = 300;
/// How long a search may take. Half a minute: what somebody waits for who runs a test.
const SEARCH_MAX: Duration = Duration::from_secs(30);

/// A case of a test, made smaller: what is left of the run of a seed. `None` everywhere: all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kept {
    /// The seed.
    pub seed: u64,
    /// Exactly these faults.
    pub faults: Option<Vec<Fault>>,
    /// Exactly these of the callers' publishes and of what sources give.
    pub inputs: Option<Vec<InputAt>>,
    /// Teams that are not there.
    pub without: BTreeSet<Name>,
    /// Which ready task runs next.
    pub policy: Option<Policy>,
    /// The scenario is cut off after so many virtual milliseconds.
    pub until_ms: Option<u64>,
    /// For people: what it once found.
    pub story: String,
}

thread_local! {
    /// What the next simulation on this thread leaves out.
    static INSTEAD: RefCell<Option<Kept>> = const { RefCell::new(None) };
    /// Whether a test of many seeds runs on this thread; with what its last simulation showed.
    static WATCHED: RefCell<Option<Seen>> = const { RefCell::new(None) };
    /// Whether the panics on this thread have been told already.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// What the next simulation leaves out.
pub(super) fn instead() -> Option<Kept> {
    INSTEAD.with_borrow(Clone::clone)
}

/// Whether somebody makes something of this report.
pub(super) fn is_watching<T>(report: &SimReport<T>) -> bool {
    WATCHED.with_borrow_mut(|watched| {
        if let Some(seen) = watched {
            *seen = Seen::of(report);
        }
        watched.is_some()
    })
}

/// What a run showed, as far as a search needs it.
#[derive(Clone, Default)]
struct Seen {
    kind: Option<String>,
    symptoms: BTreeSet<String>,
    told: Told,
    faults: Vec<Fault>,
    inputs: Vec<InputAt>,
    teams: Vec<Name>,
    at_ms: Option<u64>,
    hash: u64,
}

impl Seen {
    fn of<T>(report: &SimReport<T>) -> Self {
        Self {
            kind: report.kind(),
            symptoms: report.symptoms(),
            told: report.told(),
            faults: report.faults.clone(),
            inputs: report.inputs.clone(),
            teams: report.teams.clone(),
            at_ms: report.violations.first().map(|violation| violation.at_ms),
            hash: report.hash,
        }
    }
}

/// Runs a test with seeds 0 .. `n`, or with the one that `ATRA_SIM_SEED` says. The first failure ends it, be it a check's or
/// a panic of the test: it is made smaller, and the text says what failed, what it needs for it, and the line that repeats
/// it. Of all seeds together, each `sometimes` must have held once; classes of faults that were asked for and never fired
/// are printed. With [`sim_test!`](crate::sim_test) the smaller case is kept too.
///
/// # Panics
/// When a seed fails, or panics itself, or something that is meant to happen sometimes never did.
///
/// # Examples
/// ```
/// use atra_runtime::sim::{FaultPlan, crowd, seeds};
/// use std::time::Duration;
///
/// seeds(3, |seed| {
///     crowd::swarm(seed, 3, Duration::from_secs(10))
///         .faults(FaultPlan::survivable())
///         .simulate(|sim| async move {
///             sim.run_for(Duration::from_secs(60)).await;
///             sim.heal_and_settle(Duration::from_secs(3_600)).await;
///         })
/// });
/// ```
pub fn seeds<T>(n: u64, run: impl Fn(u64) -> SimReport<T>) {
    // The harness names its threads by their tests.
    let thread = std::thread::current();
    let name = thread.name().filter(|name| *name != "main").unwrap_or_default();
    SimTest { name, seeds: n, folder: None }.run(run);
}

/// A test of many seeds, as [`sim_test!`](crate::sim_test) makes it: with a name, and a folder for what once failed.
#[derive(Debug, Clone)]
pub struct SimTest<'a> {
    /// The test's name, which the harness knows it by.
    pub name: &'a str,
    /// How many seeds.
    pub seeds: u64,
    /// Where cases that failed are kept, in a folder of the test's own: each is run before any seed.
    pub folder: Option<&'a Path>,
}

impl SimTest<'_> {
    /// Runs the kept cases and then the seeds, as [`seeds`] does.
    ///
    /// # Panics
    /// As [`seeds`], and when a kept case fails again or cannot be read.
    pub fn run<T>(&self, run: impl Fn(u64) -> SimReport<T>) {
        let one = std::env::var(SEED_VARIABLE).ok().map(|text| {
            text.parse::<u64>().unwrap_or_else(|error| panic!("{SEED_VARIABLE} is {text:?}, which is no seed: {error}"))
        });
        let range = one.map_or(0..self.seeds, |seed| seed..seed.saturating_add(1));
        if one.is_none() {
            self.kept_cases_hold(&run);
        }
        let (mut sometimes, mut not_fired) = (BTreeMap::<String, u64>::new(), None::<Vec<FaultClass>>);
        for seed in range {
            let (seen, report) = attempt(&run, Kept { seed, ..Kept::default() }, false);
            if seen.kind.is_some() {
                self.fail(&run, seed, &seen);
            }
            let Some(report) = report else { continue };
            for (name, n) in &report.sometimes {
                *sometimes.entry(name.clone()).or_default() += n;
            }
            let left = not_fired.get_or_insert_with(|| report.asked.clone());
            left.retain(|class| !report.faults.iter().any(|fault| fault.class == *class));
        }
        if one.is_some() {
            return;
        }
        let n = self.seeds;
        if let Some((name, _)) = sometimes.iter().find(|(_, n)| **n == 0) {
            panic!("{name:?} never held in {n} seeds: the test does not go where it is meant to");
        }
        let names: Vec<_> = not_fired.unwrap_or_default().into_iter().map(FaultClass::name).collect();
        if !names.is_empty() {
            eprintln!("asked for and never fired in {n} seeds: {}", names.join(", "));
        }
    }

    fn kept(&self) -> Option<PathBuf> {
        self.folder.map(|folder| folder.join(self.name))
    }

    fn kept_cases_hold<T>(&self, run: &impl Fn(u64) -> SimReport<T>) {
        let Some(Ok(entries)) = self.kept().map(fs::read_dir) else { return };
        let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
        files.sort();
        for file in files {
            let text = fs::read_to_string(&file).map_err(|error| error.to_string());
            let kept = text.and_then(|text| serde_json::from_str::<Kept>(&text).map_err(|error| error.to_string()));
            let kept = kept.unwrap_or_else(|error| panic!("kept case {} cannot be read: {error}", file.display()));
            let seed = kept.seed;
            let (seen, _) = attempt(run, kept, false);
            if seen.kind.is_some() {
                let Self { name, .. } = self;
                panic!("kept case {}, seed {seed}: {}repeat it: cargo test {name}", file.display(), seen.told);
            }
        }
    }

    /// Makes it smaller, tells it, keeps it.
    fn fail<T>(&self, run: &impl Fn(u64) -> SimReport<T>, seed: u64, first: &Seen) -> ! {
        let (n_faults, n_inputs, n_teams) = (first.faults.len(), first.inputs.len(), first.teams.len());
        let mut told = first.told.clone();
        let mut less = String::new();
        if let Some((kept, inputs)) = smaller(run, seed, first) {
            told.faults = kept.faults.clone().unwrap_or_default();
            less = format!("{} of its {n_faults} faults are enough, with ", told.faults.len());
            less.push_str(&format!(
                "{} of {n_teams} teams, {inputs} of {n_inputs} inputs",
                n_teams - kept.without.len()
            ));
            less.push_str(&kept.until_ms.map_or(String::new(), |ms| format!(", cut after {ms} ms")));
            less.push_str(if kept.policy.is_some() { ", in the plain order\n" } else { "\n" });
            if let Some(folder) = self.kept() {
                let file = folder.join(format!("seed-{seed}.json"));
                less.push_str(&match keep(&kept, &folder, &file) {
                    Ok(()) => format!("kept as {}, which every run of this test repeats first\n", file.display()),
                    Err(error) => format!("{} could not be written: {error}\n", file.display()),
                });
            }
        }
        panic!(
            "seed {seed}: {told}{less}repeat it: {}",
            format!("{SEED_VARIABLE}={seed} cargo test {}", self.name).trim_end()
        );
    }
}

fn keep(kept: &Kept, folder: &Path, file: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    let text = serde_json::to_string_pretty(kept)? + "\n";
    Ok(OutputFile::new(file).overwrite(true).write(text.as_bytes())?)
}

/// Runs the test with what is left of a case. `quiet`: what panics in it has been told before.
fn attempt<T>(run: &impl Fn(u64) -> SimReport<T>, kept: Kept, quiet: bool) -> (Seen, Option<SimReport<T>>) {
    let seed = kept.seed;
    let is_whole = kept == Kept { seed, ..Kept::default() };
    INSTEAD.set((!is_whole).then_some(kept));
    WATCHED.set(Some(Seen::default()));
    QUIET.set(quiet);
    if quiet {
        hush_panics();
    }
    // What it is made of is made anew for the next run.
    let ended = std::panic::catch_unwind(AssertUnwindSafe(|| run(seed)));
    QUIET.set(false);
    INSTEAD.set(None);
    let last = WATCHED.take();
    match ended {
        Ok(report) => (Seen::of(&report), Some(report)),
        Err(panic) => {
            let mut seen = last.unwrap_or_default();
            seen.symptoms.insert("test panicked".into());
            // What the simulation itself found goes before what the test made of it.
            if seen.kind.is_none() {
                seen.kind = Some("test panicked".into());
                seen.told.failure = format!("test panicked: {}", panic_text(&*panic));
            }
            (seen, None)
        }
    }
}

/// Keeps the panics of a thread that is [`QUIET`] from being printed.
fn hush_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                before(info);
            }
        }));
    });
}

type Sure<T> = Result<T, std::convert::Infallible>;

/// A search for less that fails in the same way.
struct Search<'a, T, F: Fn(u64) -> SimReport<T>> {
    run: &'a F,
    kind: &'a str,
    best: Kept,
    /// What the best case showed.
    seen: Seen,
    /// What fails without any fault in the full case. Empty for a test's own check, whose text does not show whether
    /// teams and inputs are missing.
    baseline: BTreeSet<String>,
    tries: usize,
    until: Instant,
}

impl<T, F: Fn(u64) -> SimReport<T>> Search<'_, T, F> {
    /// The result of a case, if it fails in the same way. Also `None` when the search is over.
    fn try_case(&mut self, less: &Kept) -> Option<Seen> {
        self.tries += 1;
        if self.tries > TRIES_MAX || Instant::now() >= self.until {
            return None;
        }
        let (seen, _) = attempt(self.run, less.clone(), true);
        (seen.kind.as_deref() == Some(self.kind)).then_some(seen)
    }

    /// Accepts a smaller case, if it fails in the same way.
    fn takes(&mut self, less: Kept) -> bool {
        let Some(seen) = self.try_case(&less) else { return false };
        (self.best, self.seen) = (less, seen);
        true
    }

    /// Accepts a case with fewer teams or inputs. A case may need the removed ones: an agent sends to another by name,
    /// or a check counts inputs. Then the smaller case fails although the program is correct. So the smaller case must
    /// hold without faults, unless a built-in invariant fails in the same way without faults in the full case.
    fn takes_without(&mut self, less: Kept) -> Sure<bool> {
        let Some(seen) = self.try_case(&less) else { return Ok(false) };
        let (without_faults, _) = attempt(self.run, Kept { faults: Some(Vec::new()), ..less.clone() }, true);
        if !without_faults.symptoms.is_subset(&self.baseline) {
            return Ok(false);
        }
        (self.best, self.seen) = (less, seen);
        Ok(true)
    }

    fn with_faults(&mut self, faults: &[Fault]) -> Sure<bool> {
        Ok(self.takes(Kept { faults: Some(faults.to_vec()), ..self.best.clone() }))
    }

    fn faults(&self) -> Vec<Fault> {
        self.best.faults.clone().unwrap_or_default()
    }

    /// Ends the run soon after the failure.
    fn cut(&mut self) {
        if let Some(at_ms) = self.seen.at_ms {
            self.takes(Kept { until_ms: Some(at_ms + 1_000), ..self.best.clone() });
        }
    }

    fn fewer_teams(&mut self) {
        let all = self.seen.teams.clone();
        let Ok(_) = fewer(all.clone(), |teams| -> Sure<bool> {
            let gone = all.iter().filter(|team| !teams.contains(team)).cloned();
            let without: BTreeSet<Name> = gone.chain(self.best.without.iter().cloned()).collect();
            if teams.is_empty() {
                return Ok(false);
            }
            let less = Kept { without, ..self.best.clone() };
            // Without them there are fewer commits and polls: what came at the tenth may have to come at the fifth.
            let sooner = less.faults.as_ref().map(|faults| faults.iter().map(Fault::sooner).collect());
            Ok(self.takes_without(less.clone())? || self.takes_without(Kept { faults: sooner, ..less })?)
        });
    }

    fn fewer_inputs(&mut self) {
        let Ok(_) = fewer(self.seen.inputs.clone(), |inputs| {
            self.takes_without(Kept { inputs: Some(inputs.to_vec()), ..self.best.clone() })
        });
    }
}

/// Looks for less that fails in the same way: the plain order, fewer faults, earlier ones, fewer teams, a shorter run, fewer
/// inputs, milder faults. `None`: the list of what fired does not bring the failure back, or what was found is not the same
/// twice.
fn smaller<T>(run: &impl Fn(u64) -> SimReport<T>, seed: u64, first: &Seen) -> Option<(Kept, usize)> {
    let kind = first.kind.as_ref()?;
    let story = first.told.failure.clone();
    let best = Kept { seed, faults: Some(first.faults.clone()), story, ..Kept::default() };
    let until = Instant::now() + SEARCH_MAX;
    let baseline = match Invariant::ALL.iter().any(|invariant| invariant.name() == kind) {
        true => attempt(run, Kept { seed, faults: Some(Vec::new()), ..Kept::default() }, true).0.symptoms,
        false => BTreeSet::new(),
    };
    let mut search = Search { run, kind, best: best.clone(), seen: first.clone(), baseline, tries: 0, until };
    if !search.takes(best) {
        return None;
    }
    // Twice: what is left out makes room for leaving out more.
    for _ in 0..2 {
        search.takes(Kept { policy: Some(Policy::Fifo), ..search.best.clone() });
        search.takes(Kept { until_ms: None, ..search.best.clone() });
        let Ok(_) = fewer(search.faults(), |faults| search.with_faults(faults));
        let Ok(_) = earlier(search.faults(), |faults| search.with_faults(faults));
        search.fewer_teams();
        let Ok(_) = earlier(search.faults(), |faults| search.with_faults(faults));
        search.cut();
        search.fewer_inputs();
        let Ok(_) = weaker(search.faults(), |faults| search.with_faults(faults));
    }
    search.cut();
    let best = search.best;
    let (one, two) = (attempt(run, best.clone(), true).0, attempt(run, best.clone(), true).0);
    let n_inputs = one.inputs.len();
    (one.kind.as_ref() == Some(kind) && (one.kind, one.hash) == (two.kind, two.hash)).then_some((best, n_inputs))
}

/// A test of many seeds: [`seeds`](crate::sim::seeds) as a `#[test]`. A case that fails is made smaller and kept in
/// `tests/seeds/` of the crate, in a folder with the test's name; every later run repeats what is there before any seed.
///
/// # Examples
/// ```
/// use atra_runtime::sim::{FaultPlan, crowd};
/// use std::time::Duration;
///
/// atra_runtime::sim_test! {
///     /// Repeat one seed with `ATRA_SIM_SEED=7 cargo test a_crowd_survives`.
///     fn a_crowd_survives(seed in 100) {
///         crowd::swarm(seed, 3, Duration::from_secs(10)).faults(FaultPlan::survivable()).simulate(|sim| async move {
///             sim.run_for(Duration::from_secs(60)).await;
///             sim.heal_and_settle(Duration::from_secs(3_600)).await;
///         })
///     }
/// }
/// ```
#[macro_export]
macro_rules! sim_test {
    ($(#[$attribute:meta])* fn $name:ident($seed:ident in $n:expr) $run:block) => {
        $(#[$attribute])*
        #[test]
        fn $name() {
            let folder = ::std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/seeds");
            let test = $crate::sim::SimTest { name: stringify!($name), seeds: $n, folder: Some(folder.as_path()) };
            test.run(|$seed| $run);
        }
    };
}
