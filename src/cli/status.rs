//! `atra status`: whether a runtime runs on a file, and how far its teams are.

use std::{fs::OpenOptions, path::Path};

use atra::{
    Filter, Name, Read, Seq, Timestamp,
    bus::Interest,
    config::Config,
    storage::{FactKind, TeamRow, info},
};
use serde_json::{Value, json};

use super::{
    candles,
    error::CliError,
    open,
    output::{Output, Style, bytes, grouped},
    time::Moment,
};

/// What is known of the runtime on a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Running {
    /// None, and the last one stopped cleanly.
    No,
    /// This process since then.
    Yes { process: u64, since: Timestamp },
    /// None: the last one, of this process number, was killed.
    Killed { process: u64 },
}

/// Says whether a runtime runs, and how far its teams are.
pub(crate) async fn status(config: &Config, out: &mut Output) -> Result<(), CliError> {
    let path = config.db.as_path();
    let db = open(path).await?;
    let running = running(&*db, path).await?;
    let teams = db.teams().await?;
    let mut states = Vec::new();
    for team in &teams {
        let state = db.fact(FactKind::Meta, &team.team, atra::runtime::STATE_KEY).await?;
        states.push(state.and_then(|fact| serde_json::from_str::<Value>(&fact.value?).ok()));
    }
    let topics = db.topic_counts().await?;
    let last = db.journal_tail(&Interest::in_topics(vec![Filter::all()]), 1).await?;
    let last = last.first().map(|committed| committed.event.time);
    let dead_letters = db.count_facts(FactKind::DeadLetter, None).await?;
    let series = candles::series(&*db).await?;
    let info = info(path).await?;
    let limit = config.storage.db_bytes_max;
    // As the storage counts: what the log has above its own bound is held there by somebody who reads.
    let held_bytes = info.wal_bytes.saturating_sub(config.storage.wal_bytes_max);
    let used_bytes = info.used_bytes + held_bytes;
    let is_full = limit.is_some_and(|limit| used_bytes >= limit);
    if out.is_json() {
        let teams: Vec<Value> =
            teams.iter().zip(&states).map(|(team, state)| team_json(team, state.as_ref(), running)).collect();
        let topics: serde_json::Map<String, Value> =
            topics.iter().map(|(topic, n)| (topic.clone(), json!(n))).collect();
        let series: Vec<_> = series.iter().map(|row| json!({ "series": row.key, "candles": row.candles })).collect();
        return out.json(&json!({
            "db": path,
            "running": matches!(running, Running::Yes { .. }),
            "clean": !matches!(running, Running::Killed { .. }),
            "process": if let Running::Yes { process, .. } = running { json!(process) } else { Value::Null },
            "since": if let Running::Yes { since, .. } = running { json!(since) } else { Value::Null },
            "events": info.last_seq,
            "last_event_time": last,
            "teams": teams,
            "topics": topics,
            "dead_letters": dead_letters,
            "series": series,
            "floor": info.floor,
            "used_bytes": used_bytes,
            "db_bytes_max": limit,
            "full": is_full,
            "file_bytes": info.file_bytes,
            "wal_bytes": info.wal_bytes,
        }));
    }
    let runtime = match running {
        Running::Yes { process, since } => {
            out.paint(Style::Green, &format!("running (process {process} since {} UTC)", Moment(since.millis())))
        }
        Running::No => "not running".into(),
        Running::Killed { process } => out.paint(
            Style::Red,
            &format!("not running; process {process} did not stop cleanly (nothing acknowledged is lost)"),
        ),
    };
    out.pairs(&[
        ("database", path.display().to_string()),
        ("runtime", runtime),
        ("events", grouped(info.last_seq.get())),
        ("last event", last.map_or_else(|| "none".into(), |time| format!("{} UTC", Moment(time.millis())))),
        ("dead letters", dead_letters.to_string()),
        ("size", format!("{} and {} of log", bytes(info.file_bytes), bytes(info.wal_bytes))),
    ])?;
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
        let state = state_text(state.as_ref(), running);
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
    if !series.is_empty() {
        let rows: Vec<Vec<String>> = series.iter().map(|row| vec![row.key.to_string(), grouped(row.candles)]).collect();
        out.line("")?;
        out.table(&["series", "candles"], &rows)?;
    }
    Ok(())
}

/// The state that a team's fact tells; without one it does what the runtime does.
fn state_of(state: Option<&Value>, running: Running) -> Value {
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

fn state_text(state: Option<&Value>, running: Running) -> String {
    let state = state_of(state, running);
    let name = state["state"].as_str().unwrap_or("unknown").to_owned();
    match state["reason"].as_str() {
        Some(reason) => format!("{name}: {reason}"),
        None => name,
    }
}

fn team_json(team: &TeamRow, state: Option<&Value>, running: Running) -> Value {
    let mut value = json!(team);
    value["state"] = state_of(state, running);
    value
}

/// Whether a runtime runs on a file.
pub(crate) async fn running(db: &dyn Read, path: &Path) -> Result<Running, CliError> {
    let owner = Name::new("atra").map_err(CliError::Name)?;
    let Some(fact) = db.fact(FactKind::Meta, &owner, "running").await? else { return Ok(Running::No) };
    let value: Value = fact.value.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
    let process = value["process"].as_u64().unwrap_or(0);
    let since = Timestamp(value["since"].as_i64().unwrap_or(0));
    Ok(if is_held(path, process) { Running::Yes { process, since } } else { Running::Killed { process } })
}

/// Whether a process holds the runtime's lock on the file. Only asked when the file says that one runs: a look at the
/// lock takes it for a moment, which must not meet a runtime that is just starting.
fn is_held(path: &Path, process: u64) -> bool {
    let proc = Path::new("/proc");
    if proc.join("self").exists() && !proc.join(process.to_string()).exists() {
        return false;
    }
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    // Read only: a reader may have no right to write.
    let Ok(file) = OpenOptions::new().read(true).open(lock) else { return false };
    matches!(file.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock))
}
