//! `atra status`: whether a runtime runs on a file, and how far its teams are.

use std::path::Path;

use atra::{
    Filter, Name, Read, Seq, Timestamp,
    agents::halts::Halted,
    bus::Interest,
    config::Config,
    storage::{FactKind, TeamRow, info, owner},
};
use serde_json::{Value, json};

use super::{
    candles,
    error::CliError,
    health::{self, Degraded, Phase},
    hint, open,
    output::{Output, Style, bytes, grouped, shown},
    time::Moment,
};

/// Exit codes of `--check`, worst last; the worst one that applies is used.
const NOT_RUNNING: u8 = 3;
const DEGRADED: u8 = 4;
const TEAM_ENDED: u8 = 5;
const CRASHED: u8 = 6;
/// The same for a person.
pub(crate) const CHECK_HELP: &str = "Exit codes with --check: 0 running and healthy, 1 state unknown, 3 not running \
(or just starting or stopping), 4 running but degraded (disk full, limit of the database reached, suspended, a team \
restarting), 5 a team failed or is poisoned, 6 the last process did not stop cleanly.";

/// What is known of the runtime on a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Running {
    /// None, and the last one stopped cleanly.
    No,
    /// A running process: since when, its phase, and why it is degraded.
    Yes { process: u64, since: Timestamp, phase: Phase, degraded: Option<Degraded> },
    /// None: the last one, of this process number, was killed.
    Killed { process: u64 },
}

impl Running {
    /// Its process, if one is there.
    fn process(&self) -> Option<u64> {
        if let Self::Yes { process, .. } = self { Some(*process) } else { None }
    }

    fn since(&self) -> Option<Timestamp> {
        if let Self::Yes { since, .. } = self { Some(*since) } else { None }
    }

    /// Its phase for a program.
    fn phase(&self) -> &'static str {
        match self {
            Self::No => "stopped",
            Self::Killed { .. } => "crashed",
            Self::Yes { phase: Phase::Starting, .. } => "starting",
            Self::Yes { phase: Phase::Running, .. } => "running",
            Self::Yes { phase: Phase::Stopping, .. } => "stopping",
        }
    }

    /// In one line for a person.
    fn text(&self) -> (Style, String) {
        match self {
            Self::No => (Style::Dim, "not running".into()),
            Self::Killed { process } => (
                Style::Red,
                format!("not running; process {process} did not stop cleanly (nothing acknowledged is lost)"),
            ),
            Self::Yes { process, since, degraded, .. } => {
                let style = if degraded.is_some() { Style::Red } else { Style::Green };
                let since = Moment(since.millis());
                (style, format!("{} (process {process} since {since} UTC)", self.phase()))
            }
        }
    }
}

/// A state in the words of `--check`, worst first, with its exit code.
fn verdict(running: &Running, degraded: &[Degraded], teams: &[Value]) -> (u8, String) {
    let is = |team: &&Value, states: &[&str]| states.iter().any(|state| team["state"]["state"] == *state);
    let of = |team: &Value| {
        let name = team["team"].as_str().unwrap_or_default();
        format!("team {name} is {}", team["state"]["state"].as_str().unwrap_or("unknown"))
    };
    if let Running::Killed { process } = running {
        return (CRASHED, format!("process {process} did not stop cleanly"));
    }
    if let Some(team) = teams.iter().find(|team| is(team, &["failed", "poisoned"])) {
        return (TEAM_ENDED, of(team));
    }
    if let Running::Yes { phase: Phase::Running, .. } = running {
        if let Some(degraded) = degraded.first() {
            return (DEGRADED, degraded.reason.clone());
        }
        if let Some(team) = teams.iter().find(|team| is(team, &["restarting"])) {
            return (DEGRADED, of(team));
        }
        return (0, "running and healthy".into());
    }
    (NOT_RUNNING, format!("the runtime is {}", running.phase()))
}

/// Shows whether a runtime is running and each team's progress; with `check` the exit code says how it is.
pub(crate) async fn status(config: &Config, check: bool, out: &mut Output) -> Result<(), CliError> {
    let path = config.db.as_path();
    let db = open(path).await?;
    let running = running(&*db, path).await?;
    let teams = db.teams().await?;
    let mut states = Vec::new();
    for team in &teams {
        let state = db.fact(FactKind::Meta, &team.team, atra::runtime::STATE_KEY).await?;
        states.push(state.and_then(|fact| serde_json::from_str::<Value>(&fact.value?).ok()));
    }
    let counts = db.topic_counts().await?;
    let topics = counts.topics;
    let last = db.journal_tail(&Interest::in_topics(vec![Filter::all()]), 1).await?;
    let last = last.first().map(|committed| committed.event.time);
    let dead_letters = db.count_facts(FactKind::DeadLetter, None).await?;
    let series = candles::series(&*db).await?;
    let halted = Halted::read(&*db).await?;
    let info = info(path).await?;
    let limit = config.storage.db_bytes_max;
    // As the storage counts: what the log has above its own bound is held there by somebody who reads.
    let held_bytes = info.wal_bytes.saturating_sub(config.storage.wal_bytes_max);
    let used_bytes = info.used_bytes + held_bytes;
    let is_full = limit.is_some_and(|limit| used_bytes >= limit);
    let team_values: Vec<Value> =
        teams.iter().zip(&states).map(|(team, state)| team_json(team, state.as_ref(), &running)).collect();
    let mut degraded = Vec::new();
    if let Running::Yes { degraded: Some(found), .. } = &running {
        degraded.push(found.clone());
    }
    if is_full && degraded.iter().all(|found| found.kind != "db_full") {
        let reason = "storage.db_bytes_max is reached: callers are refused".into();
        degraded.push(Degraded { kind: "db_full".into(), reason, since: None });
    }
    let (code, verdict) = verdict(&running, &degraded, &team_values);
    if out.is_json() {
        let topics: serde_json::Map<String, Value> =
            topics.iter().map(|(topic, n)| (topic.clone(), json!(n))).collect();
        let series: Vec<_> = series.iter().map(|row| json!({ "series": row.key, "candles": row.candles })).collect();
        out.json(&json!({
            "db": shown(path),
            "running": matches!(running, Running::Yes { .. }),
            "phase": running.phase(),
            "clean": !matches!(running, Running::Killed { .. }),
            "healthy": code == 0,
            "degraded": degraded,
            "process": running.process(),
            "since": running.since(),
            "events": info.last_seq,
            "last_event_time": last,
            "teams": team_values,
            "risk": halted,
            "topics": topics,
            "topics_counted_after": counts.after,
            "dead_letters": dead_letters,
            "series": series,
            "floor": info.floor,
            "used_bytes": used_bytes,
            "db_bytes_max": limit,
            "full": is_full,
            "file_bytes": info.file_bytes,
            "wal_bytes": info.wal_bytes,
        }))?;
        return checked(check, code, &verdict, out);
    }
    let (style, runtime) = running.text();
    let runtime = out.paint(style, &runtime);
    out.pairs(&[
        ("database", path.display().to_string()),
        ("runtime", runtime),
        ("events", grouped(info.last_seq.get())),
        ("last event", last.map_or_else(|| "none".into(), |time| format!("{} UTC", Moment(time.millis())))),
        ("dead letters", dead_letters.to_string()),
        ("size", format!("{} and {} of log", bytes(info.file_bytes), bytes(info.wal_bytes))),
    ])?;
    for Degraded { reason, since, .. } in degraded.iter().filter(|found| found.kind != "db_full") {
        let since = since.map_or_else(String::new, |since| format!(", since {} UTC", Moment(since.millis())));
        out.line(&out.paint(Style::Red, &format!("degraded      {reason}{since}")))?;
    }
    for line in halted.lines() {
        out.line(&out.paint(Style::Red, &format!("risk          {line}")))?;
    }
    if let Some(limit) = limit {
        let used = format!("{} of {} are in use", bytes(used_bytes), bytes(limit));
        let slowest = info.teams.iter().min_by_key(|team| team.cursor).filter(|team| team.cursor < info.last_seq);
        let pins = slowest.map_or_else(String::new, |team| {
            format!("; team {} pins the journal at {}", team.team, grouped(team.cursor.get()))
        });
        let reader = info.log.readers.first().map(|reader| reader.process);
        let holds = match (held_bytes, reader) {
            (0, _) => String::new(),
            (_, Some(process)) => format!("; process {process} reads from the log and holds {}", bytes(held_bytes)),
            (_, None) => format!("; somebody reads from the log and holds {}", bytes(held_bytes)),
        };
        let text = if is_full {
            out.paint(Style::Red, &format!("limit         full: {used}, callers are refused{pins}{holds}"))
        } else {
            format!("limit         {used}")
        };
        out.line(&text)?;
    }
    if info.floor > Seq::ZERO {
        out.line(&format!("pruned        up to {}, but for what is needed", grouped(info.floor.get())))?;
    }
    let rows = |(team, state): (&TeamRow, &Option<Value>)| {
        let state = state_text(state.as_ref(), &running);
        vec![team.team.to_string(), team.epoch.to_string(), team.number.to_string(), team.cursor.to_string(), state]
    };
    let rows: Vec<Vec<String>> = teams.iter().zip(&states).map(rows).collect();
    out.line("")?;
    out.table(&["team", "epoch", "step", "cursor", "state"], &rows)?;
    if !topics.is_empty() {
        let rows: Vec<Vec<String>> = topics.iter().map(|(topic, n)| vec![topic.clone(), grouped(*n)]).collect();
        out.line("")?;
        out.table(&["topic", "events"], &rows)?;
    }
    if counts.after > Seq::ZERO {
        let last = info.last_seq;
        out.line(&match counts.after {
            after if after >= last => "topics are counted when a runtime of this version opens the file".into(),
            after => format!(
                "topics are counted from event {} on: earlier ones had been pruned",
                grouped(after.next().get())
            ),
        })?;
    }
    if !series.is_empty() {
        let rows: Vec<Vec<String>> = series.iter().map(|row| vec![row.key.to_string(), grouped(row.candles)]).collect();
        out.line("")?;
        out.table(&["series", "candles"], &rows)?;
    }
    checked(check, code, &verdict, out)
}

/// The state that a team's fact tells; without one it does what the runtime does.
fn state_of(state: Option<&Value>, running: &Running) -> Value {
    match (state, running) {
        (Some(state), _) if state["state"].is_object() => state["state"].clone(),
        (Some(state), _) => state.clone(),
        (None, Running::Yes { .. }) => json!({ "state": "running" }),
        (None, Running::No) => json!({ "state": "stopped" }),
        (None, Running::Killed { process }) => {
            json!({ "state": "killed", "reason": format!("process {process} did not stop cleanly") })
        }
    }
}

fn state_text(state: Option<&Value>, running: &Running) -> String {
    let state = state_of(state, running);
    let name = state["state"].as_str().unwrap_or("unknown").to_owned();
    match state["reason"].as_str() {
        Some(reason) => format!("{name}: {reason}"),
        None => name,
    }
}

fn team_json(team: &TeamRow, state: Option<&Value>, running: &Running) -> Value {
    let mut value = json!(team);
    value["state"] = state_of(state, running);
    value
}

/// The end of the command: with `--check` the exit code says how it is.
fn checked(check: bool, code: u8, verdict: &str, out: &mut Output) -> Result<(), CliError> {
    out.finish()?;
    if !check || code == 0 {
        return Ok(());
    }
    let next = match code {
        NOT_RUNNING | CRASHED => "start it with 'atra run'".into(),
        TEAM_ENDED => {
            "see its reason in 'atra status' and the event in 'atra dead-letters ls'; restart when fixed".into()
        }
        _ => "see 'atra status'".into(),
    };
    Err(CliError::Verdict { what: format!("not healthy: {verdict}"), next, code })
}

/// Whether a runtime runs on a file, and its health.
pub(crate) async fn running(db: &dyn Read, path: &Path) -> Result<Running, CliError> {
    let (mark, health) = (mark(db).await?, health::read(path));
    // The lock is tested only if a file or mark indicates a running process: the test holds the lock for a moment,
    // which could disturb a runtime that is starting. The status file belongs to the present process; the mark may
    // belong to an earlier one.
    let known = [health.as_ref().map(|health| health.process), mark.map(|(process, _)| process)];
    let Some(process) = known.iter().flatten().copied().find(|process| is_held(path, *process)) else {
        // A status file without a mark was left by a process that was killed before it changed the database.
        return Ok(mark.map_or(Running::No, |(process, _)| Running::Killed { process }));
    };
    let mark = mark.filter(|(marked, _)| *marked == process);
    let health = health.filter(|health| health.process == process);
    let since = mark.map(|(_, since)| since).or(health.as_ref().map(|health| health.since)).unwrap_or_default();
    let (phase, mut degraded) = health.map_or((Phase::Running, None), |health| (health.phase, health.degraded));
    if hint::is_suspended(process) {
        degraded = Some(Degraded { kind: "suspended".into(), reason: hint::of_suspended(process), since: None });
    }
    Ok(Running::Yes { process, since, phase, degraded })
}

/// The mark of a runtime that runs, or did not stop cleanly: its process, and since when.
pub(crate) async fn mark(db: &dyn Read) -> Result<Option<(u64, Timestamp)>, CliError> {
    let owner = Name::new("atra").map_err(CliError::Name)?;
    let Some(fact) = db.fact(FactKind::Meta, &owner, "running").await? else { return Ok(None) };
    let value: Value = fact.value.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
    Ok(Some((value["process"].as_u64().unwrap_or(0), Timestamp(value["since"].as_i64().unwrap_or(0)))))
}

/// The process that holds the lock of a database, if one does and its number is known.
pub(crate) fn owner_process(path: &Path) -> Option<u64> {
    owner(path).and_then(|owner| owner.process).map(u64::from)
}

/// Whether a process holds the runtime's lock on the file.
fn is_held(path: &Path, process: u64) -> bool {
    let proc = Path::new("/proc");
    if proc.join("self").exists() && !proc.join(process.to_string()).exists() {
        return false;
    }
    owner(path).is_some()
}
