//! `atra replay`: the desk's present code over its recorded inputs, compared with what is recorded.
//!
//! Reads only, and calls nobody. Exit 0: equal. 3: different; the first difference is shown as it was, as it is, and with
//! what led to it.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use atra::{
    Event, Name, Read, Seq, Team,
    agents::{CandleSource, desk::TEAM, market::candle::SeriesKey},
    config::Config,
    runtime::replay::{Difference, Replay, ReplayError, Replayed, Start, starts},
    storage::StoreError,
};
use serde_json::{Value, json};

use super::{
    args::ReplayArgs,
    db_of,
    error::CliError,
    events::{EventJson, line},
    open, open_backup,
    output::{Output, Style, grouped, short, shown},
    progress::events_bar,
    run,
    time::Moment,
    why::causes,
};

/// The exit code of a replay that is not as it is recorded.
const DIFFERENT: u8 = 3;
/// The longest content that a person is shown of one side.
const CONTENT_CHARS: usize = 1_000;

/// Replays what the flags say.
pub(crate) async fn replay(args: &ReplayArgs, out: &mut Output) -> Result<(), CliError> {
    let path = db_of(&args.db)?;
    let db = open(&path).await?;
    let team = args.team.as_deref().unwrap_or(TEAM);
    let all = starts(&*db).await?;
    let agents: BTreeSet<Name> = all.iter().flat_map(|start| start.agents.iter().cloned()).collect();
    let teams = teams(args, &db, team, all).await?;
    let (mut from, mut to) = (Seq::ZERO, None);
    if let Some(event) = &args.from {
        from = event.seq(&*db).await?;
    }
    if let Some(event) = &args.to {
        to = Some(event.seq(&*db).await?);
    }
    if to.is_some_and(|to| to < from) {
        let what = format!("the span is empty: --from {from} is after --to {}", to.unwrap_or_default());
        return Err(CliError::Usage { what, next: "give a --to that is not before --from" });
    }
    let mut replay = Replay::new(db.clone(), teams, agents.clone()).span(from, to);
    if let Some(agent) = &args.agent {
        let agent = Name::new(agent)?;
        if !agents.contains(&agent) {
            let known: Vec<&str> = agents.iter().map(Name::as_str).collect();
            return Err(CliError::NotFound {
                what: format!("no agent {agent} is recorded"),
                next: format!("name one of {}", known.join(", ")),
            });
        }
        replay = replay.agent(agent);
    }
    if let Some(state) = &args.state {
        replay = replay.state(open_backup(state).await?);
    }
    let bar = events_bar("replaying");
    bar.set_length(to.unwrap_or(db.last_seq().await?).get());
    let replayed = replay.run(|at| bar.set_position(at.get())).await;
    bar.finish_and_clear();
    let replayed = replayed.map_err(refused)?;
    tell(&replayed, team, &path, &*db, out).await
}

/// The team as each recorded configuration makes it, or as the one that was named does.
async fn teams(
    args: &ReplayArgs,
    db: &Arc<dyn Read>,
    team: &str,
    all: Vec<Start>,
) -> Result<Vec<(Seq, Team)>, CliError> {
    let of_team: Vec<Start> = all.into_iter().filter(|start| start.team.as_str() == team).collect();
    let Some(newest) = of_team.last().filter(|_| team == TEAM) else {
        return Err(CliError::NotFound {
            what: format!("this program has no team {team:?} that the journal knows"),
            next: format!("it replays {TEAM:?}; a team of your own is replayed with atra::runtime::replay::Replay"),
        });
    };
    if let Some(file) = &args.db.config {
        let mut config = Config::load(Some(file))?;
        if config.desk.series.is_empty() {
            config.desk.series = parse(&newest.config)?.desk.series;
        }
        return Ok(vec![(Seq::ZERO, built(&config, db).await?)]);
    }
    let mut teams = Vec::new();
    let mut before = None;
    for start in &of_team {
        if before != Some(&start.config) {
            teams.push((start.seq, built(&parse(&start.config)?, db).await?));
        }
        before = Some(&start.config);
    }
    Ok(teams)
}

fn parse(config: &Value) -> Result<Config, CliError> {
    serde_json::from_value(config.clone()).map_err(|error| CliError::NotFound {
        what: format!("recorded configuration cannot be read by this build: {error}"),
        next: "give one with --config FILE".into(),
    })
}

/// The desk that a configuration makes. Its source is never asked: what it gave is recorded.
async fn built(config: &Config, db: &Arc<dyn Read>) -> Result<Team, CliError> {
    let series: Vec<SeriesKey> = config.desk.series.iter().filter_map(|name| name.parse().ok()).collect();
    let is_simulated = series.iter().all(|series| series.ticker() == run::SIMULATED_TICKER);
    let source = if is_simulated {
        CandleSource::Simulator { seed: config.run.seed, series, candles: config.run.simulated_candles }
    } else {
        CandleSource::Store(db.clone())
    };
    run::team(config, source).await
}

fn refused(error: ReplayError) -> CliError {
    match error {
        ReplayError::Store(error @ StoreError::Pruned { .. }) => CliError::NotFound {
            what: error.to_string(),
            next: "give a backup that was made after that, with --state FILE".into(),
        },
        ReplayError::Store(error) => error.into(),
        error => CliError::NotFound { what: error.to_string(), next: "fix the agent, or its state".into() },
    }
}

// === what is told ===

async fn tell(replayed: &Replayed, team: &str, path: &Path, db: &dyn Read, out: &mut Output) -> Result<(), CliError> {
    let Replayed { inputs, turns, events, upto, difference } = replayed;
    let mut answer = json!({
        "db": shown(path), "team": team, "upto": upto, "inputs": inputs, "turns": turns, "events": events, "equal": difference.is_none(),
    });
    let Some(difference) = difference else {
        if out.is_json() {
            return out.json(&answer);
        }
        let (inputs, turns, events) = (grouped(*inputs), grouped(*turns), grouped(*events));
        return out.line(&format!("equal: {inputs} inputs, {turns} turns, {events} events up to #{upto} as recorded"));
    };
    let Difference { input, recorded, present, what } = difference;
    // What led to it, as recorded: from the root down to what was handled.
    let chain = match (recorded, input) {
        (Some(event), _) => causes(db, event).await?.0,
        (None, Some(input)) => {
            let mut chain = causes(db, input).await?.0;
            chain.push(input.clone());
            chain
        }
        (None, None) => Vec::new(),
    };
    if out.is_json() {
        let (input, recorded) = (input.as_ref().map(EventJson::new), recorded.as_ref().map(EventJson::new));
        let (input, recorded) = (input.transpose()?, recorded.transpose()?);
        let chain: Vec<EventJson<'_>> = chain.iter().map(EventJson::new).collect::<Result<_, _>>()?;
        answer["difference"] = json!({
            "what": what, "input": input, "recorded": recorded, "present": present.as_deref().map(to_json),
            "causes": chain,
        });
        out.json(&answer)?;
    } else {
        let none = || "nothing".to_owned();
        let recorded = recorded.as_ref().map_or_else(none, |row| format!("#{} {}", row.seq, told(&row.event)));
        let present = present.as_deref().map_or_else(none, told);
        out.line(&out.paint(Style::Red, &format!("different: {what}")))?;
        out.pairs(&[("recorded", recorded), ("present", present)])?;
        out.line("what led to it:")?;
        for (depth, cause) in chain.iter().enumerate() {
            let text = format!("{}{}", "  ".repeat(depth + 1), line(cause, out));
            out.row(&text)?;
        }
        out.line(&format!("{} events before it are as recorded", grouped(*events)))?;
    }
    let next = "see 'atra why SEQ' for all around it; --from and --to narrow the replay".into();
    Err(CliError::Verdict { what: format!("replay is not as recorded: {what}"), next, code: DIFFERENT })
}

fn told(event: &Event) -> String {
    let content = short(event.payload.json().unwrap_or("(no JSON)"), CONTENT_CHARS);
    format!("{}  {}  {}  {}  {content}", Moment(event.time.millis()), event.topic, event.source, event.id)
}

fn to_json(event: &Event) -> Value {
    json!({
        "id": event.id, "topic": event.topic, "version": event.version, "time": event.time, "source": event.source,
        "cause": event.cause, "root": event.root, "hops": event.hops, "payload": event.payload.to_value().unwrap_or_default(),
    })
}
