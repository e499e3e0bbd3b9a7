//! Simulated runs of what ships: the desk of seven and a crowd, from one seed, checked, repeated and made smaller.
//!
//! A [`Case`] is everything that a run depends on, as data: the command line makes one of its flags, `tests/seeds/` keeps
//! those that once failed. [`run`] gives a [`Verdict`]; [`shrink`] looks for a smaller case that fails in the same way.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use atra_agents::{CandleSource, DeskConfig, desk};
use atra_bus::{Committed, Draft, Event, EventId, Filter, Interest, Name, Seq, Topic, topic::SYSTEM_ROOT};
use atra_runtime::{
    Limits, Team,
    sim::{
        EngineError, Fault, FaultClass, FaultPlan, InputAt, Policy, SimReport, Swarm, TraceRecord, Violation, crowd,
        earlier, fewer, weaker,
    },
};
use atra_storage::{Read, StoreError, digest_of_publisher};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Runs that a search for a smaller case may take. 300: minutes, and few cases get smaller after that.
pub const TRIALS_MAX: usize = 300;
/// How often a caller publishes, in virtual time.
const CALL_EVERY: Duration = Duration::from_secs(37);
/// Folders of simulated files that this process has made.
static N_FOLDERS: AtomicU64 = AtomicU64::new(0);
/// The check that compares the desk with a desk in peace.
pub const SAME_AS_IN_PEACE: &str = "deterministic";

/// Everything that a run depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What everything random follows from.
    pub seed: u64,
    /// Members of the crowd.
    pub agents: usize,
    /// Virtual time between two beats of a member, in milliseconds.
    pub beat_ms: u64,
    /// Whether the desk of seven trades beside them, a candle a virtual second.
    pub desk: bool,
    /// How long the run is in virtual time before it is left in peace, in milliseconds.
    pub virtual_ms: u64,
    /// Which ready task runs next.
    pub policy: Policy,
    /// What goes wrong.
    pub faults: FaultPlan,
    /// Whether limits, queues, levels and placement are drawn from the seed too.
    pub varied: bool,
    /// Which store it runs on; the history is the same.
    #[serde(default)]
    pub store: StoreKind,
    /// Which task comes next, poll by poll, as a traced run of the same seed had it; empty: the policy alone says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub order: Vec<u64>,
    /// Exactly these of the callers' publishes and of the desk's candles come in; `None`: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Vec<InputAt>>,
    /// For people: what it once found.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub story: String,
}

/// A store under a simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// In memory.
    #[default]
    Model,
    /// SQLite, in a folder for temporary files.
    Sqlite,
}

/// What a run showed.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// The seed.
    pub seed: u64,
    /// The first thing that did not hold.
    pub failure: Option<String>,
    /// The checks that failed.
    pub violations: Vec<Violation>,
    /// The rolling hash of the trace, in hexadecimal.
    pub hash: String,
    /// Polls of tasks.
    pub polls: u64,
    /// Durable events.
    pub events: u64,
    /// Virtual time that passed, in milliseconds.
    pub virtual_ms: u64,
    /// The faults that fired.
    pub faults: Vec<Fault>,
    /// The classes that the seed drew of those asked for.
    pub classes: Vec<FaultClass>,
    /// How often each invariant was evaluated.
    pub checks: BTreeMap<String, u64>,
    /// The stock invariants that the run had nothing for, and why.
    pub not_applicable: BTreeMap<String, String>,
    /// How often something that is meant to happen did.
    pub sometimes: BTreeMap<String, u64>,
    /// The last events.
    pub recent: Vec<String>,
    /// What came in from outside, in order.
    #[serde(skip)]
    pub inputs: Vec<InputAt>,
    /// What was drawn for this seed, for people.
    pub options: String,
    /// Every record, if asked for.
    #[serde(skip)]
    pub trace: Option<Vec<TraceRecord>>,
    /// The order of all polls, with the records.
    #[serde(skip)]
    pub order: Option<Vec<u64>>,
}

/// Why a case cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaseError {
    /// The desk's settings are refused.
    #[error("desk of the simulation could not be set up")]
    Desk(#[from] atra_agents::DeskError),
    /// The executor that reads the result could not be made.
    #[error("result could not be read: {0}")]
    Read(String),
}

impl Case {
    /// The hash of everything that it says but its story: two cases with one hash are one case.
    #[must_use]
    pub fn hash(&self) -> String {
        let plain = Self { story: String::new(), ..self.clone() };
        // A case always has a JSON form: it came out of one, or goes into one.
        let text = serde_json::to_string(&plain).unwrap_or_default();
        Name::new("case").map(|name| EventId::of(&name, &text).to_string()).unwrap_or_default()
    }
}

/// Runs a case. Blocks; call it outside of any tokio runtime.
///
/// # Errors
/// [`CaseError`] when it cannot be set up. What does not hold is in the verdict.
pub fn run(case: &Case, traced: bool) -> Result<Verdict, CaseError> {
    let mut report = simulate(case, traced)?;
    if case.desk && report.failure().is_none() {
        compare_with_peace(case, &mut report)?;
    }
    let failure = report.failure();
    let classes: Vec<_> = report.classes.iter().map(|class| class.name()).collect();
    Ok(Verdict {
        seed: case.seed,
        failure,
        violations: report.violations,
        hash: format!("{:016x}", report.hash),
        polls: report.polls,
        events: report.events,
        virtual_ms: report.virtual_time.as_millis() as u64,
        faults: report.faults,
        classes: report.classes,
        checks: report.checks,
        not_applicable: report.not_applicable,
        sometimes: report.sometimes,
        recent: report.recent,
        options: format!("{}; faults drawn: {}", report.options, classes.join(" ")),
        inputs: report.inputs,
        trace: report.trace,
        order: report.order,
    })
}

fn simulate(case: &Case, traced: bool) -> Result<SimReport<()>, CaseError> {
    let long = Duration::from_millis(case.virtual_ms);
    let beat = Duration::from_millis(case.beat_ms);
    let mut swarm = Swarm::new(case.seed)
        .policy(case.policy)
        .faults(case.faults.clone())
        .sometimes("a team is being restarted", |look| look.status.iter().any(|team| team.restarts > 0));
    if case.store == StoreKind::Sqlite {
        // Relaxed: only that no two are the same counts.
        let n = N_FOLDERS.fetch_add(1, Ordering::Relaxed);
        swarm = swarm.on_sqlite(std::env::temp_dir().join(format!("atra-sim-{}-{n}", std::process::id())));
    }
    if traced {
        swarm = swarm.traced();
    }
    if case.varied {
        swarm = swarm.varied();
    }
    if let Some(inputs) = &case.inputs {
        swarm = swarm.only(inputs.clone());
    }
    if !case.order.is_empty() {
        swarm = swarm.order(case.order.clone());
    }
    if case.desk {
        swarm = swarm.team(desk_of(case)?);
    }
    swarm = crowd::teams(case.agents, beat, &Limits::default()).fold(swarm, Swarm::team);
    let has_crowd = case.agents > 0;
    // The pace of the candles begins anew at each start: every death may cost the desk its downtime.
    let patience = long.saturating_mul(3).saturating_add(Duration::from_secs(4 * 3_600));
    Ok(swarm.simulate(|sim| async move {
        let caller = sim.clone();
        let calls = async move {
            let Ok(from) = Name::new("caller") else { return };
            let Ok(to) = Topic::new("to.crowd-0.crowd.told") else { return };
            for n in 0_u64.. {
                caller.run_for(CALL_EVERY).await;
                let draft = Draft::new(to.clone(), crowd::Told { left: 2 });
                // Refused for good only if there is no such agent.
                let _ = caller.publish(&from, &n.to_string(), draft).await;
            }
        };
        let calls = has_crowd.then(|| sim.spawn("caller", calls));
        sim.run_for(long).await;
        drop(calls);
        sim.heal_and_settle(patience).await;
    }))
}

/// The seven: on simulated candles, a candle a virtual second, with a strategy of the seed's.
fn desk_of(case: &Case) -> Result<Team, CaseError> {
    let mut config = DeskConfig { speed: Some(1), ..DeskConfig::default() };
    let text = match case.seed % 4 {
        0 => r#"{"optimizer": {"pairs": [[4, 8], [8, 16], [8, 32]], "train": 240}}"#,
        1 => r#"{"strategy": {"name": "ema-cross", "fast": 5, "slow": 20}}"#,
        _ => r#"{"strategy": {"name": "sma-cross", "fast": 5, "slow": 12}}"#,
    };
    if let Ok(DeskConfig { strategy, optimizer, .. }) = serde_json::from_str(text) {
        config.strategy = strategy;
        config.optimizer = optimizer;
    }
    let series = "SIM.15m".parse().map_err(|error| CaseError::Read(format!("{error}")))?;
    let candles = Some((case.virtual_ms / 1_000).max(1));
    let source = CandleSource::Simulator { seed: case.seed, series: vec![series], candles };
    Ok(block_on(desk(config, source))??)
}

fn block_on<T>(future: impl Future<Output = T>) -> Result<T, CaseError> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build();
    Ok(tokio.map_err(|error| CaseError::Read(error.to_string()))?.block_on(future))
}

/// The desk's inputs do not depend on timing: what it decided must be what it decides in peace.
fn compare_with_peace(case: &Case, report: &mut SimReport<()>) -> Result<(), CaseError> {
    let peace = Case {
        faults: FaultPlan::None,
        agents: 0,
        varied: false,
        policy: Policy::Fifo,
        order: Vec::new(),
        store: StoreKind::Model,
        ..case.clone()
    };
    let in_peace = simulate(&peace, false)?;
    let mut n = 0;
    for spec in desk_of(&peace)?.specs() {
        n += 1;
        let at_ms = report.virtual_time.as_millis() as u64;
        let difference = block_on(difference(&*report.reader, &*in_peace.reader, &spec.name))?;
        let difference = difference.map_err(|error| CaseError::Read(error.to_string()))?;
        report.violations.extend(difference.map(|text| Violation {
            invariant: SAME_AS_IN_PEACE.into(),
            key: spec.name.to_string(),
            at_ms,
            text,
        }));
    }
    report.not_applicable.remove(SAME_AS_IN_PEACE);
    *report.checks.entry(SAME_AS_IN_PEACE.into()).or_insert(0) += n;
    Ok(())
}

/// What an agent decided otherwise than in peace: the first event that differs, as both have it.
async fn difference(found: &dyn Read, peace: &dyn Read, name: &Name) -> Result<Option<String>, StoreError> {
    let (digest, expected) = (digest_of_publisher(found, name).await?, digest_of_publisher(peace, name).await?);
    if digest == expected {
        return Ok(None);
    }
    let (found, peace) = (published_by(found, name).await?, published_by(peace, name).await?);
    let differs = |n: &usize| found.get(*n).map(|(_, event)| event) != peace.get(*n).map(|(_, event)| event);
    let first = (0..found.len().max(peace.len())).find(differs).unwrap_or(0);
    let told = |events: &[(Seq, String)]| {
        events.get(first).map_or("nothing".into(), |(seq, event)| format!("seq {seq}: {event}"))
    };
    Ok(Some(format!(
        "its event {} of {} is {}; in peace ({} events) it is {}",
        first + 1,
        found.len(),
        told(&found),
        peace.len(),
        told(&peace)
    )))
}

/// What an agent published, in order, as text: all that the digest is made of.
async fn published_by(disk: &dyn Read, name: &Name) -> Result<Vec<(Seq, String)>, StoreError> {
    let everything = Interest::in_topics(Filter::new(">").into_iter().collect());
    let events = disk.journal_tail(&everything, usize::MAX).await?;
    let own = events.into_iter().filter(|committed| {
        committed.event.source == *name && !committed.event.topic.as_str().starts_with(SYSTEM_ROOT)
    });
    let text = |committed: Committed| {
        let Event { id, topic, version, time, cause, payload, .. } = &*committed.event;
        let json = payload.json().unwrap_or("null");
        (committed.seq, format!("{topic} v{version} {id} at {time} caused by {cause:?}: {json}"))
    };
    Ok(own.map(text).collect())
}

// === smaller cases ===

/// What makes two failures the same: the invariant, not its words.
fn kind_of(verdict: &Verdict) -> Option<String> {
    let text = verdict.failure.as_ref()?;
    Some(
        verdict.violations.first().map_or_else(
            || text.split(':').next().unwrap_or_default().to_owned(),
            |violation| violation.invariant.clone(),
        ),
    )
}

/// Looks for a smaller case that breaks the same invariant: cuts the run, drops the desk and agents, moves towards the
/// plain order, takes faults away (delta debugging) and what comes in, and puts milder faults in their place. It tries 300
/// cases at most, and begins none after `within` or after `told` gave `false`; that is called before each try with its
/// number and the best case so far. What it gives has been run twice with equal hashes.
///
/// # Errors
/// [`CaseError`] when the case cannot be run. `Ok(None)`: it does not fail, or not twice.
pub fn shrink(
    case: &Case,
    within: Duration,
    mut told: impl FnMut(usize, &Case) -> bool,
) -> Result<Option<(Case, Verdict)>, CaseError> {
    let (began, mut is_ended) = (Instant::now(), false);
    let first = run(case, false)?;
    let Some(kind) = kind_of(&first) else { return Ok(None) };
    let mut best = Case { faults: FaultPlan::Exactly(first.faults.clone()), ..case.clone() };
    let mut trials = 0;
    let mut smallest = case.clone();
    let mut fails = |candidate: &Case| -> Result<Option<Verdict>, CaseError> {
        if is_ended || trials == TRIALS_MAX || began.elapsed() >= within {
            return Ok(None);
        }
        trials += 1;
        is_ended = !told(trials, &smallest);
        if is_ended {
            return Ok(None);
        }
        let verdict = run(candidate, false)?;
        let same = kind_of(&verdict).as_ref() == Some(&kind);
        if same {
            smallest.clone_from(candidate);
        }
        Ok(same.then_some(verdict))
    };
    if fails(&best)?.is_none() {
        // The list does not bring it back: the drawn case is as small as it gets.
        best = case.clone();
    }
    // Candidates that change one thing; a change that keeps the failure is kept.
    let cut = |ms: u64| move |case: &Case| Case { virtual_ms: ms, ..case.clone() };
    if let Some(at_ms) = first.violations.first().map(|violation| violation.at_ms) {
        let candidate = cut((at_ms + 1_000).min(best.virtual_ms))(&best);
        if fails(&candidate)?.is_some() {
            best = candidate;
        }
    }
    let changes: [fn(&Case) -> Case; 7] = [
        |case| Case { order: Vec::new(), ..case.clone() },
        |case| Case { store: StoreKind::Model, ..case.clone() },
        |case| Case { desk: false, ..case.clone() },
        |case| Case { agents: 0, ..case.clone() },
        |case| Case { policy: Policy::Fifo, ..case.clone() },
        |case| Case { varied: false, ..case.clone() },
        |case| Case { agents: case.agents / 2, ..case.clone() },
    ];
    for change in changes {
        let candidate = change(&best);
        if (candidate.desk || candidate.agents > 0) && candidate != best && fails(&candidate)?.is_some() {
            best = candidate;
        }
    }
    if let FaultPlan::Exactly(list) = best.faults.clone() {
        let of = |list: &[Fault]| if list.is_empty() { FaultPlan::None } else { FaultPlan::Exactly(list.to_vec()) };
        let left =
            fewer(list, |list| fails(&Case { faults: of(list), ..best.clone() }).map(|verdict| verdict.is_some()))?;
        best.faults = of(&left);
        let left =
            earlier(left, |list| fails(&Case { faults: of(list), ..best.clone() }).map(|verdict| verdict.is_some()))?;
        best.faults = of(&left);
    }
    // Of what comes in, all that can be; first whether any of it is needed.
    if best.desk || best.agents > 0 {
        fewer(first.inputs, |inputs| {
            let candidate = Case { inputs: Some(inputs.to_vec()), ..best.clone() };
            let found = fails(&candidate)?.is_some();
            if found {
                best = candidate;
            }
            Ok::<_, CaseError>(found)
        })?;
    }
    if let FaultPlan::Exactly(list) = best.faults.clone() {
        let milder = weaker(list, |list| {
            let candidate = Case { faults: FaultPlan::Exactly(list.to_vec()), ..best.clone() };
            fails(&candidate).map(|verdict| verdict.is_some())
        })?;
        best.faults = FaultPlan::Exactly(milder);
    }
    // Of an order that is needed, as little as is.
    while !best.order.is_empty() {
        let mut candidate = best.clone();
        candidate.order.truncate(best.order.len() / 2);
        if fails(&candidate)?.is_none() {
            break;
        }
        best = candidate;
    }
    while best.virtual_ms > 2_000 {
        let candidate = cut(best.virtual_ms / 2)(&best);
        if fails(&candidate)?.is_none() {
            break;
        }
        best = candidate;
    }
    let (one, two) = (run(&best, false)?, run(&best, false)?);
    let same = kind_of(&one).as_ref() == Some(&kind) && one.hash == two.hash;
    Ok(same.then(|| (Case { story: one.failure.clone().unwrap_or_default(), ..best }, one)))
}

/// The classes that a list on the command line names: `all`, `none`, `lies`, or names with commas between.
///
/// # Errors
/// The name that is none.
pub fn plan_of(text: &str) -> Result<FaultPlan, String> {
    match text {
        "all" => Ok(FaultPlan::survivable()),
        "none" => Ok(FaultPlan::None),
        list => {
            let of = |name: &str| FaultClass::from_name(name).ok_or_else(|| name.to_owned());
            Ok(FaultPlan::Each(list.split(',').map(of).collect::<Result<_, _>>()?))
        }
    }
}

/// Whether a run ended because it left the simulation, and not because something did not hold.
#[must_use]
pub fn is_undetermined(report: &Verdict) -> bool {
    let foreign = EngineError::Foreign(String::new()).to_string();
    report.failure.as_ref().is_some_and(|text| text.starts_with(foreign.trim_end()))
}
