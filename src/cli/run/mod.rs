//! `atra run`: a runtime with the desk on one file, until the candles are used up or somebody stops it.
//!
//! A file with candles is replayed and gone on with; one without gets a simulated market. Standard error shows what
//! happens, standard output gets the report. The first signal drains: sources stop, the team finishes what it began,
//! storage flushes and checkpoints, and the report is made if the deadline leaves time for it.
//! [`stop`](crate::cli::stop) describes the signals; no end of a process loses acknowledged events.

mod begun;
mod figures;
mod live;
mod phrase;
mod report;

use std::{path::Path, sync::Arc, time::Duration};

use atra::{
    Clock, MemoryStore, Query, Read, Runtime, RuntimeBuilder, RuntimeError, Seq, SqliteStore, Team, TeamState,
    agents::{
        CandleSource, DeskConfig, OptimizerConfig, SIMULATED_FROM, desk,
        desk::limits_for,
        market::candle::{Interval, SeriesKey},
    },
    config::Config,
    storage::Store,
};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use self::{
    begun::Begun,
    live::Live,
    report::{Figures, Finished},
};
use super::{
    args::{RunArgs, Speed},
    candles, config_of,
    error::CliError,
    health::{HealthFile, Phase},
    hint,
    import::prepare_folder,
    interrupted, look,
    output::{Output, shown},
    status::mark,
    stderr::note,
    stop,
    time::Moment,
    words,
};

/// The name of the desk's team, and of the agent that knows what it amounts to.
const TEAM: &str = "desk";
const PORTFOLIO: &str = "portfolio";
/// The ticker of the simulated market, so that nobody takes it for a real one.
pub(super) const SIMULATED_TICKER: &str = "SIM";
const SIMULATED_INTERVAL_MS: i64 = 900_000;
/// The most of a simulated candle's volume that an order may open, unless `desk.risk.volume_max_ppm` says another: a tenth.
/// Without it the demo would buy more than its market sells, and its wealth would grow without bound.
const SIMULATED_VOLUME_MAX_PPM: u32 = 100_000;
/// Events that the journal of an endless simulated market keeps, unless `storage.keep` or `keep_events` says another. Five
/// million are about 800 MB and over an hour of the usual speed; without a bound the demo would fill the disk in weeks.
const SIMULATED_KEEP_EVENTS: u64 = 5_000_000;
/// How long the last report is waited for. 5 s: it is there in milliseconds, or something is in its way that the stop
/// should have its time for.
const REPORT_MAX: Duration = Duration::from_secs(5);

/// Runs the desk.
pub(crate) fn run(args: &RunArgs, json: bool) -> Result<(), CliError> {
    let mut config = config_of(&args.db)?;
    merge(&mut config, args);
    check_span(&config)?;
    config.validate()?;
    let mut tokio = tokio::runtime::Builder::new_multi_thread();
    if config.runtime.threads > 0 {
        tokio.worker_threads(config.runtime.threads);
    }
    let tokio = tokio.enable_all().build().map_err(|source| CliError::Process { what: "tokio", source })?;
    let done = tokio.block_on(desk_on_file(config, args, json));
    // What still runs on a thread of its own is of no use any more.
    tokio.shutdown_background();
    done
}

/// Flags win over everything else.
fn merge(config: &mut Config, args: &RunArgs) {
    if !args.ticker.is_empty() {
        config.desk.series.clone_from(&args.ticker);
    }
    config.desk.from = args.from.map(|moment| moment.0).or(config.desk.from);
    config.desk.to = args.to.map(|moment| moment.0).or(config.desk.to);
    if let Some(placement) = args.placement {
        config.run.placement = placement.into();
    }
    match args.speed {
        Some(Speed::PerSecond(n)) => config.desk.speed = Some(n),
        Some(Speed::Max) => config.desk.speed = None,
        None => {}
    }
}

fn check_span(config: &Config) -> Result<(), CliError> {
    match (config.desk.from, config.desk.to) {
        (Some(from), Some(to)) if from >= to => {
            let what = format!("the span is empty: from {} is not before to {}", Moment(from), Moment(to));
            Err(CliError::Usage { what, next: "give a --to that is later than --from" })
        }
        _ => Ok(()),
    }
}

/// What the desk runs on.
struct Market {
    source: CandleSource,
    /// For a person.
    what: String,
    /// For a program: the series, or `simulated`.
    name: String,
    /// What the simulated market is made of; `None` for candles of the file.
    seed: Option<u64>,
}

/// A desk that was started.
struct Started {
    runtime: Runtime,
    config: Config,
    health: HealthFile,
    market: Market,
    /// The last seq before.
    before: Seq,
    is_killed: bool,
    besides: Option<String>,
}

async fn desk_on_file(config: Config, args: &RunArgs, json: bool) -> Result<(), CliError> {
    let began = Instant::now();
    stop::set_deadline(config.runtime.stop_deadline());
    let path = config.db.clone();
    let Started { runtime, config, mut health, market: Market { what, name, seed, .. }, before, is_killed, besides } =
        match start(config, args).await {
            Ok(started) => started,
            Err(CliError::Interrupted { .. }) => return stopped_before_start(&path, json),
            Err(error) => return Err(error),
        };
    if let Some(besides) = besides {
        note(&format!("atra: the journal also holds {besides}; totals cover the whole file; --fresh starts over"));
    }
    if let Some(seed) = seed.filter(|_| json || args.db.db.is_some()) {
        note(&format!("atra: {} has no candles: this is a simulated market, seed {seed}", config.db.display()));
    }
    let live = Live::start(&runtime, &what, &config, before, json, is_killed);
    let mut ended = tokio::select! {
        // Biased: the end first.
        biased;
        ended = until_end(&runtime, args.until_idle, json) => ended,
        () = words::listen(&runtime, &config.db) => Ended::Signal,
        () = health.follow(&runtime) => Ended::Signal,
    };
    health.enter(Phase::Stopping);
    let (figures, turns) = stop(&runtime, live, &config, &mut health, json).await?;
    // It may have given up while it drained.
    let gave_up = |state: &TeamState| matches!(state, TeamState::Failed { .. } | TeamState::Poisoned { .. });
    if let Some(team) = runtime.status().into_iter().find(|team| gave_up(&team.state)) {
        ended = Ended::Team(team.state);
    }
    drop(runtime);
    // The database is free from here on; the report only reads.
    drop(health);
    let chooses_after = chooses_after(&config.desk);
    let finished = Finished { figures, turns, before, began, ended: &ended, market: &name, seed, chooses_after };
    let is_told = tokio::select! {
        // Biased: a report that is done is printed.
        biased;
        told = finished.tell(&config.db, json) => told.map(|()| true),
        () = stop::time_is_up() => Ok(false),
    };
    if let Ok(false) = is_told {
        note("atra: stopped cleanly; the report was left out: it would take longer than runtime.stop_deadline_ms");
        if json {
            let mut out = Output::new(json);
            out.json(&json!({ "db": shown(&config.db), "ended": ended.name(), "turns": turns, "report": null }))?;
            out.finish()?;
        }
    }
    // The exit code reports a team that gave up, even if the report could not be printed.
    ended.into_result()?;
    is_told.map(drop)
}

/// Opens the database and starts the desk. A signal cancels this at the next wait. But a runtime that has begun to
/// start may finish starting within the deadline, so that it can be stopped cleanly.
async fn start(config: Config, args: &RunArgs) -> Result<Started, CliError> {
    let prepared = tokio::select! {
        // Biased: the signal is checked first, so that fast work cannot delay it.
        biased;
        () = stop::asked() => return Err(interrupted()),
        prepared = prepare(config, args) => prepared?,
    };
    let Prepared { store, team, config, mut health, market, before, is_killed, besides } = prepared;
    let in_force = serde_json::to_value(&config).unwrap_or_default();
    let builder = RuntimeBuilder::new(store).storage(config.storage.options()).level(config.storage.level);
    let builder = builder.clock(config.runtime.clock());
    let runtime = tokio::select! {
        // Biased: what has started is stopped the usual way.
        biased;
        runtime = builder.config(in_force).team(team).start() => runtime?,
        () = stop::time_is_up() => return Err(interrupted()),
    };
    health.enter(Phase::Running);
    Ok(Started { runtime, config, health, market, before, is_killed, besides })
}

/// What a start needs.
struct Prepared {
    store: SqliteStore,
    team: Team,
    config: Config,
    health: HealthFile,
    market: Market,
    before: Seq,
    is_killed: bool,
    besides: Option<String>,
}

async fn prepare(mut config: Config, args: &RunArgs) -> Result<Prepared, CliError> {
    let besides = check(&config, args).await?;
    prepare_folder(&config)?;
    let mut store = SqliteStore::open(config.storage.sqlite(&config.db)).await?;
    let health = HealthFile::create(&config.db);
    let reader = store.reader();
    let market = market(&mut config, args, &reader).await?;
    let team = team(&config, market.source.clone()).await?;
    if args.fresh {
        store.forget_runs().await?;
    }
    let before = reader.last_seq().await?;
    // This process holds the lock now: an existing mark was left by a process that died.
    let is_killed = mark(&*reader).await?.is_some();
    Ok(Prepared { store, team, config, health, market, before, is_killed, besides })
}

/// The end of a run that a signal ended before it began.
fn stopped_before_start(db: &Path, json: bool) -> Result<(), CliError> {
    if json {
        let mut out = Output::new(json);
        out.json(&json!({ "db": shown(db), "ended": "signal", "started": false }))?;
        return out.finish();
    }
    note("atra: stopped before the desk had started");
    Ok(())
}

/// Candles of a series that the optimizer needs before it can choose; `None` if the strategy is fixed.
fn chooses_after(desk: &DeskConfig) -> Option<usize> {
    let OptimizerConfig { enabled, pairs, train, validation, .. } = &desk.optimizer;
    let slowest = pairs.iter().map(|pair| pair.slow).max().unwrap_or(0);
    (*enabled && desk.strategy.is_none()).then_some(slowest + train + validation)
}

/// Tries everything that can be wrong while nothing is opened for writing: a refused start leaves no file that was not
/// there. Gives what the journal holds besides what is wanted now.
async fn check(config: &Config, args: &RunArgs) -> Result<Option<String>, CliError> {
    let found = look(&config.db).await?;
    let is_there = found.is_some();
    let db = found.unwrap_or_else(|| MemoryStore::new().reader());
    refuse_strangers(config, &*db).await?;
    let begun = Begun::read(&*db).await?;
    let mut config = config.clone();
    let market = market(&mut config, args, &db).await?;
    match market.seed {
        None if args.demo => {
            let what = format!("{} has candles, so there is nothing to simulate", config.db.display());
            return Err(CliError::Usage { what, next: "leave out --demo, or use another --db FILE" });
        }
        None => has_candles(&config, &*db).await?,
        Some(_) if args.demo || config.db == Config::default().db || begun.is_simulated() => {}
        // A name that was mistyped must not become a new database.
        Some(_) => return Err(no_candles(&config.db, is_there)),
    }
    team(&config, market.source).await?;
    if args.fresh {
        return Ok(None);
    }
    begun.check(&config)?;
    if market.seed.is_some() {
        begun::check_formula(&*db, &config).await?;
    }
    Ok(begun.besides(&config))
}

/// The error of a run on a database that is not there or has no candles, where no simulation was asked for.
fn no_candles(db: &Path, is_there: bool) -> CliError {
    let name = db.display();
    let what = if is_there { format!("{name} has no candles") } else { format!("there is no database {name}") };
    let next = "import candles with 'atra import candles', or use --demo to start a simulated market there".into();
    CliError::NotFound { what, next: hint::of_missing(db).unwrap_or(next) }
}

/// Fails if the file is another program's: the desk would write into its journal, and `--fresh` would forget it.
async fn refuse_strangers(config: &Config, db: &dyn Read) -> Result<(), CliError> {
    let rows = db.teams().await?;
    let teams: Vec<&str> = rows.iter().map(|row| row.team.as_str()).collect();
    if teams.is_empty() || teams.contains(&TEAM) {
        return Ok(());
    }
    Err(CliError::NotFound {
        what: format!("{} is another program's: its teams are {}", config.db.display(), teams.join(", ")),
        next: "run that program, or name another --db FILE for the market desk".into(),
    })
}

/// Fails if no series has a candle in the span that is wanted: `--fresh` would forget a journal for nothing.
async fn has_candles(config: &Config, db: &dyn Read) -> Result<(), CliError> {
    let (from, to) = (config.desk.from, config.desk.to);
    let mut found = Ok(());
    if from.is_none() && to.is_none() {
        return found;
    }
    for name in &config.desk.series {
        let series: SeriesKey = name.parse()?;
        let (stored, _) = candles::load(db, &series).await?;
        match candles::within(&series, &stored, from, to) {
            Ok(_) => return Ok(()),
            // The first one is the one to tell.
            Err(error) => found = found.and(Err(error)),
        }
    }
    found
}

/// Chooses between the candles of the file and a simulated market, and puts the chosen series into the configuration.
async fn market(config: &mut Config, args: &RunArgs, reader: &Arc<dyn Read>) -> Result<Market, CliError> {
    let stored = candles::series(&**reader).await?;
    if stored.is_empty() {
        return simulated(config, args);
    }
    let chosen = candles::choose(&stored, &config.desk.series, args.interval)?;
    config.desk.series = chosen.iter().map(|row| row.key.to_string()).collect();
    let what = match chosen.as_slice() {
        [one] => format!("{}, {} candles", one.key, super::output::grouped(one.candles)),
        all => {
            let n: u64 = all.iter().map(|row| row.candles).sum();
            format!("{} series, {} candles", all.len(), super::output::grouped(n))
        }
    };
    let name = config.desk.series.join(",");
    Ok(Market { source: CandleSource::Store(reader.clone()), what, name, seed: None })
}

fn simulated(config: &mut Config, args: &RunArgs) -> Result<Market, CliError> {
    let quarter = Interval::from_millis(SIMULATED_INTERVAL_MS);
    let interval = args.interval.or(quarter).ok_or_else(|| CliError::NotFound {
        what: "the simulated market has no interval".into(),
        next: "give one with --interval 15m".into(),
    })?;
    let series = SeriesKey::new(SIMULATED_TICKER, interval)?;
    let is_simulated = |wanted: &str| wanted == SIMULATED_TICKER || wanted == series.as_str();
    if let Some(wanted) = config.desk.series.iter().find(|wanted| !is_simulated(wanted)) {
        return Err(CliError::NotFound {
            what: format!("there is no series {wanted:?}: {} has no candles", config.db.display()),
            next: "import some with 'atra import candles', or run without --ticker on the simulated market".into(),
        });
    }
    let paced = args.speed.is_none() && config.desk.speed.is_none() && !args.until_idle;
    if args.until_idle && config.run.simulated_candles.is_none() {
        // Something that ends was asked for: four years, as the examples have.
        config.run.simulated_candles = Some(140_256);
    }
    if paced {
        let past = config.run.simulated_past.saturating_mul(interval.millis().unsigned_abs());
        let first = config.desk.from.unwrap_or(SIMULATED_FROM);
        config.desk.speed = Some(config.run.simulated_speed);
        config.desk.speed_from = Some(first.saturating_add(i64::try_from(past).unwrap_or(i64::MAX)));
    }
    config.desk.risk.volume_max_ppm.get_or_insert(SIMULATED_VOLUME_MAX_PPM);
    if config.run.simulated_candles.is_none() && config.storage.keep.is_none() {
        config.storage.keep_events.get_or_insert(SIMULATED_KEEP_EVENTS);
    }
    let series = vec![series];
    config.desk.series = series.iter().map(ToString::to_string).collect();
    let what = format!("a simulated market, seed {}", config.run.seed);
    let source = CandleSource::Simulator { seed: config.run.seed, series, candles: config.run.simulated_candles };
    Ok(Market { source, what, name: "simulated".into(), seed: Some(config.run.seed) })
}

/// The desk that a configuration makes.
pub(super) async fn team(config: &Config, source: CandleSource) -> Result<Team, CliError> {
    let team = desk(config.desk.clone(), source).await?;
    Ok(team
        .clock(Clock::Events)
        .placement(config.run.placement)
        .limits(limits_for(&config.limits, config.desk.series.len())))
}

/// Why a run is over.
enum Ended {
    /// The candles are used up and everything is settled.
    Idle,
    /// Somebody said so.
    Signal,
    /// The team gave up.
    Team(TeamState),
}

impl Ended {
    /// For a program.
    fn name(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Signal => "signal",
            Self::Team(_) => "team",
        }
    }

    fn into_result(self) -> Result<(), CliError> {
        match self {
            Self::Idle | Self::Signal => Ok(()),
            Self::Team(state) => {
                let next = match state {
                    TeamState::Poisoned { .. } => {
                        "look at the event with 'atra dead-letters ls' and 'atra why EVENT'; a new 'atra run' tries it again"
                    }
                    _ => "see 'atra status' and 'atra dead-letters ls'; a new 'atra run' continues where it stopped",
                };
                Err(CliError::TeamEnded { team: TEAM.into(), reason: state.to_string(), next: next.into() })
            }
        }
    }
}

async fn until_end(runtime: &Runtime, until_idle: bool, json: bool) -> Ended {
    let tell = async {
        loop {
            stop::figures_asked().await;
            figures::tell(&runtime.metrics(), json);
        }
    };
    let idle = async { if until_idle { runtime.idle().await } else { std::future::pending().await } };
    let ended = tokio::select! {
        // Biased: a signal is obeyed even when the end has come too.
        biased;
        () = stop::asked() => Ended::Signal,
        // Before the end: `idle` passes over a team that has ended.
        state = runtime.until_state(TEAM, TeamState::is_ended) => match state {
            Ok(state) => Ended::Team(state),
            Err(_) => Ended::Idle,
        },
        _ = idle => Ended::Idle,
        () = tell => Ended::Signal,
    };
    match ended {
        Ended::Idle => runtime
            .status()
            .into_iter()
            .find(|team| team.state.is_ended())
            .map_or(Ended::Idle, |team| Ended::Team(team.state)),
        ended => ended,
    }
}

/// What the desk amounts to, from committed state; `None` if it cannot say. It takes no more inputs from then on, or the
/// figures would be of different moments.
async fn figures(runtime: &Runtime) -> Option<Figures> {
    // One that has ended takes none anyhow.
    let _ = runtime.pause(TEAM).await;
    let ask = async |agent: &str, name: &str| {
        let answer = runtime.query(agent, Query { name: name.into(), arguments: Value::Null }).await;
        answer.inspect_err(|error| tracing::debug!(agent, error = %error, "no answer for the report")).ok()
    };
    let report = ask(PORTFOLIO, "report").await?;
    let fills = ask("execution", "status").await?["fills"].as_u64()?;
    let parameters = serde_json::from_value(ask("optimizer", "status").await?["totals"].take()).ok().flatten();
    Some(Figures { report, fills, parameters })
}

/// Stops within the deadline and gives the portfolio's report and the turns that there were.
async fn stop(
    runtime: &Runtime,
    live: Live,
    config: &Config,
    health: &mut HealthFile,
    json: bool,
) -> Result<(Option<Figures>, u64), CliError> {
    let deadline = config.runtime.stop_deadline();
    let began = Instant::now();
    // The deadline counts from the signal, if there was one. A run that ended by itself has the same time.
    let left = || {
        let own = (deadline - stop::reserve(deadline)).saturating_sub(began.elapsed());
        stop::left().map_or(own, |left| left.min(own))
    };
    let stopping = async {
        // It waits for what is being committed: with a full disk, for ever.
        let found = timeout(REPORT_MAX.min(left() / 2), figures(runtime)).await.ok().flatten();
        if tracing::enabled!(tracing::Level::INFO) {
            figures::tell(&runtime.metrics(), json);
        }
        let turns = runtime.status().iter().map(|team| team.turns).sum();
        live.stop().await;
        runtime.stop(left()).await.map_err(|error| match error {
            RuntimeError::Deadline(_) => RuntimeError::Deadline(deadline),
            other => other,
        })?;
        Ok((found, turns))
    };
    tokio::select! {
        // Biased: the end first.
        biased;
        stopped = stopping => stopped,
        // The state of the disk stays visible during the stop.
        () = health.follow(runtime) => Ok((None, 0)),
    }
}
