//! The whole desk in the simulation harness, on the model store: agreement with the back-test, determinism over
//! placement and step size, resumption, conservation, and no order without an approval.

#![allow(clippy::unwrap_used, reason = "fixtures are tests too")]

mod support;

use std::{future::Future, sync::Arc, time::Duration};

use atra_agents::{
    CandleSource, DeskConfig, DeskError, DeskReport, OptimizerConfig,
    candles::blocks_of,
    desk, desk_with,
    events::{
        Approved, Denied, Kill, OrderRejected, PositionChanged, Promoted, Quality, Resume, RolledBack, StateChanged,
        TargetChanged,
    },
    market::{
        backtest::{BacktestOptions, backtest},
        broker::Fill,
        candle::{Candle, Scale, SeriesKey},
        fill::{Exits, Trade},
        money::{Money, Terms},
        risk::{DenyCode, RiskLimits, RiskState},
        several::{Part, several},
        simulator::Simulator,
        strategy::{Decision, Maker, Reason, Side, Strategy, StrategySpec},
        walkforward::{GateLimits, Pair},
    },
};
use atra_bus::{EventType, Filter, Interest, Seq, SimEnv};
use atra_runtime::{
    Limits, Placement, Query, Runtime, RuntimeBuilder, Team, TeamState,
    sim::{SIM_START, Swarm},
};
use atra_storage::{Block, Digest, MemoryDisk, MemoryStore, Read, Store, WriteBatch};
use serde::{Deserialize, Serialize};
use serde_json::Value;

// === fixtures ===

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

fn key(name: &str) -> SeriesKey {
    name.parse().unwrap()
}

fn simulator(candles: u64) -> CandleSource {
    CandleSource::Simulator { seed: 11, series: vec![key("AAA.15m")], candles: Some(candles) }
}

fn fixed(side: Side) -> DeskConfig {
    DeskConfig { strategy: Some(StrategySpec::SmaCross { fast: 10, slow: 20, side }), ..DeskConfig::default() }
}

/// An optimizer that is quick to promote: a small grid, ten days of training, no shadow mode.
fn optimized() -> DeskConfig {
    let pairs = [(4, 16), (8, 16), (4, 32), (8, 32), (16, 32)].map(|(fast, slow)| Pair { fast, slow }).to_vec();
    let gates =
        GateLimits { plateau_min: 0.0, shadow_ms: 0, trades_min: 5, drawdown_max: 0.05, ..GateLimits::default() };
    DeskConfig {
        optimizer: OptimizerConfig { pairs, train: 960, gates, ..OptimizerConfig::default() },
        ..DeskConfig::default()
    }
}

fn team(config: &DeskConfig, source: &CandleSource) -> Team {
    block_on(desk(config.clone(), source.clone())).unwrap()
}

fn stored(series: &[(SeriesKey, &[Candle], Scale)]) -> CandleSource {
    let blocks = series.iter().flat_map(|(key, candles, scale)| blocks_of(key, candles, *scale).unwrap()).collect();
    with_blocks(blocks)
}

fn with_blocks(blocks: Vec<Block>) -> CandleSource {
    let mut store = MemoryStore::new();
    block_on(async {
        store.load().await.unwrap();
        store.commit(&WriteBatch { blocks, ..WriteBatch::default() }).await.unwrap();
    });
    CandleSource::Store(store.reader())
}

fn run(disk: &MemoryDisk, team: Team) -> Digest {
    let done = Swarm::new(1).on(disk).team(team).run(|runtime| async move {
        runtime.idle().await;
        assert_eq!(runtime.status()[0].state, TeamState::Running);
        assert_eq!((runtime.status()[0].dead_letters, runtime.status()[0].restarts), (0, 0));
    });
    done.unwrap().digest
}

async fn report_of(runtime: Runtime) -> DeskReport {
    let query = Query { name: "report".into(), arguments: Value::Null };
    serde_json::from_value(runtime.query("portfolio", query).await.unwrap()).unwrap()
}

fn report(disk: &MemoryDisk, team: Team) -> DeskReport {
    let done = Swarm::new(1).on(disk).team(team).run(|runtime| async move {
        runtime.idle().await;
        report_of(runtime).await
    });
    done.unwrap().output
}

fn events<T: EventType + Clone>(disk: &MemoryDisk) -> Vec<T> {
    let interest = Interest::in_topics(vec![Filter::exactly(&T::TOPIC)]);
    let found = block_on(async {
        let last = disk.last_seq().await.unwrap();
        disk.journal(Seq::ZERO, last, &interest, usize::MAX).await.unwrap().0
    });
    found.iter().map(|committed| committed.event.get::<T>().unwrap().clone()).collect()
}

fn rows(disk: &MemoryDisk) -> u64 {
    block_on(disk.last_seq()).unwrap().get()
}

fn trades(disk: &MemoryDisk) -> Vec<Trade> {
    events::<PositionChanged>(disk).into_iter().filter_map(|changed| changed.trade).collect()
}

fn walk(seed: u64, n: usize) -> Vec<Candle> {
    Simulator::new(seed, "15m".parse().unwrap(), 1_640_995_200_000).take(n).collect()
}

fn real_or_simulated(n: usize) -> (Vec<Candle>, Scale) {
    let (mut candles, scale) = support::real_or_simulated();
    candles.truncate(n);
    (candles, scale)
}

// === the back-test ===

fn unlimited() -> RiskLimits {
    RiskLimits { position_max_ppm: 2_000_000, gross_max_ppm: 2_000_000, ..RiskLimits::default() }
}

fn agrees_with_the_back_test(candles: &[Candle], scale: Scale, config: &DeskConfig) {
    let config = DeskConfig { close_at_end: true, risk: unlimited(), ..config.clone() };
    let terms = Terms::new(scale, config.lot_decimals, config.fee_ppm).unwrap();
    let terms = terms.with_slippage(config.slippage_ppm).unwrap();
    let spec = config.strategy.unwrap();
    let options = BacktestOptions { exits: config.exits, ..BacktestOptions::new(config.cash, terms) };
    let expected = backtest(candles, spec.build().unwrap(), &options).unwrap();

    let disk = MemoryDisk::new();
    let report = report(&disk, team(&config, &stored(&[(key("TEST.15m"), candles, scale)])));

    let name = spec.name();
    assert!(expected.trades.len() > if spec == StrategySpec::BuyAndHold { 0 } else { 5 }, "{name}");
    assert_eq!(trades(&disk), expected.trades, "{name}");
    assert_eq!(report.equity, expected.final_equity, "{name}");
    assert_eq!(report.buy_and_hold, Some(expected.buy_and_hold));
    assert_eq!((report.sharpe, report.max_drawdown), (expected.metrics.sharpe, expected.metrics.drawdown_max));
    assert_eq!((report.candles, report.trades), (candles.len() as u64, expected.metrics.trades));
    assert!(report.text().contains("net of fees"));
}

#[test]
fn the_desk_trades_as_the_back_test_on_a_simulated_market() {
    for side in [Side::LongOnly, Side::LongShort] {
        agrees_with_the_back_test(&walk(11, 3_000), Simulator::scale(), &fixed(side));
    }
}

#[test]
fn the_desk_trades_every_strategy_as_the_back_test_on_real_candles() {
    let (candles, scale) = real_or_simulated(12_000);
    let exits = Exits { stop_loss_ppm: 15_000, take_profit_ppm: 30_000 };
    for name in StrategySpec::NAMES {
        for side in [Side::LongOnly, Side::LongShort] {
            let strategy = Some(StrategySpec::usual(name).unwrap().with_side(side));
            let config = DeskConfig { strategy, ..DeskConfig::default() };
            agrees_with_the_back_test(&candles, scale, &config);
            agrees_with_the_back_test(&candles, scale, &DeskConfig { exits, slippage_ppm: 200, ..config });
        }
    }
}

/// Several series on one account, as the seven agents and as the back-test trade them.
fn several_agree(lanes: &[(&str, &[Candle], Scale)], config: &DeskConfig) {
    let risk = RiskLimits {
        position_max_ppm: u32::MAX,
        gross_max_ppm: u32::MAX,
        orders_per_hour_max: u32::MAX,
        stale_after_ms: Some(i64::MAX),
        price_band_ppm: u32::MAX,
        ..RiskLimits::default()
    };
    let config = DeskConfig { close_at_end: true, risk, ..config.clone() };
    let keys: Vec<SeriesKey> = lanes.iter().map(|(name, ..)| key(name)).collect();
    let terms = |scale| Terms::new(scale, config.lot_decimals, config.fee_ppm).unwrap();
    let terms = |scale| terms(scale).with_slippage(config.slippage_ppm).unwrap();
    let parts: Vec<Part<'_>> = keys
        .iter()
        .zip(lanes)
        .map(|(series, (_, candles, scale))| Part { series, candles, terms: terms(*scale) })
        .collect();
    let spec = config.strategy.unwrap();
    let expected = several(&parts, || spec.build().unwrap(), config.cash, config.exits).unwrap();

    let blocks = keys.iter().zip(lanes).map(|(series, (_, candles, scale))| (series.clone(), *candles, *scale));
    let disk = MemoryDisk::new();
    let report = report(&disk, team(&config, &stored(&blocks.collect::<Vec<_>>())));

    let name = spec.name();
    let traded: Vec<(usize, Trade)> = events::<PositionChanged>(&disk)
        .into_iter()
        .filter_map(|changed| Some((keys.iter().position(|key| *key == changed.series)?, changed.trade?)))
        .collect();
    assert!(expected.made.iter().all(|made| made.trades > 0), "{name}");
    assert_eq!(traded, expected.trades, "{name}");
    assert_eq!(report.equity, expected.final_equity, "{name}");
    let m = &expected.metrics;
    assert_eq!((report.sharpe, report.max_drawdown, report.trades), (m.sharpe, m.drawdown_max, m.trades), "{name}");
}

#[test]
fn the_desk_trades_several_series_on_one_account_as_the_back_test() {
    let scale = Simulator::scale();
    let (a, b, c) = (walk(1, 2_000), walk(2, 1_700), walk(3, 2_000));
    // One that begins later, and one with holes.
    let late = &c[300..];
    let holes: Vec<Candle> = b.iter().enumerate().filter(|(n, _)| n % 97 > 6).map(|(_, candle)| *candle).collect();
    let hourly: Vec<Candle> = Simulator::new(4, "1h".parse().unwrap(), a[0].time).take(400).collect();
    let lanes = [
        ("CCC.15m", &a[..], scale),
        ("AAA.15m", &holes[..], scale),
        ("BBB.15m", late, scale),
        ("DDD.1h", &hourly[..], scale),
    ];
    let exits = Exits { stop_loss_ppm: 15_000, take_profit_ppm: 30_000 };
    for name in StrategySpec::NAMES {
        for side in [Side::LongOnly, Side::LongShort] {
            let strategy = Some(StrategySpec::usual(name).unwrap().with_side(side));
            several_agree(&lanes, &DeskConfig { strategy, fee_ppm: 400, ..DeskConfig::default() });
            several_agree(&lanes, &DeskConfig { strategy, exits, slippage_ppm: 200, ..DeskConfig::default() });
        }
    }
}

#[test]
fn the_desk_trades_real_series_on_one_account_as_the_back_test() {
    let (candles, scale) = real_or_simulated(20_000);
    let lanes = [("DOTA.15m", &candles[..12_000], scale), ("DOTB.15m", &candles[3_000..], scale)];
    for side in [Side::LongOnly, Side::LongShort] {
        several_agree(&lanes, &fixed(side));
    }
}

/// Long while the last candle rose: what somebody might bring along.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Rising {
    last: i64,
    target: f64,
}

impl Strategy for Rising {
    fn update(&mut self, candle: &Candle) -> Option<Decision> {
        let target = if candle.close > std::mem::replace(&mut self.last, candle.close) { 1.0 } else { 0.0 };
        let is_new = std::mem::replace(&mut self.target, target) != target;
        is_new.then_some(Decision { target, reason: Reason::Own })
    }
}

#[test]
fn a_strategy_of_the_programs_own_trades_alike_in_both_and_survives_stops() {
    let candles = walk(5, 1_500);
    let source = stored(&[(key("TEST.15m"), &candles, Simulator::scale())]);
    let config = DeskConfig { close_at_end: true, risk: unlimited(), ..DeskConfig::default() };
    let make = || block_on(desk_with(config.clone(), source.clone(), Maker::new(Rising::default))).unwrap();
    let terms = Terms::new(Simulator::scale(), config.lot_decimals, config.fee_ppm).unwrap();
    let expected = backtest(&candles, Rising::default(), &BacktestOptions::new(config.cash, terms)).unwrap();
    assert!(expected.trades.len() > 100);

    let disk = MemoryDisk::new();
    let whole = run(&disk, make());
    assert_eq!(trades(&disk), expected.trades);
    let stopped = MemoryDisk::new();
    run_for(&stopped, make(), 400, true);
    run_for(&stopped, make(), 400, false);
    assert_eq!(run(&stopped, make()), whole);
}

#[test]
fn a_candle_costs_at_most_one_and_a_half_rows() {
    let (candles, scale) = real_or_simulated(20_000);
    let source = stored(&[(key("DOTUSDT.15m"), &candles, scale)]);
    for config in [fixed(Side::LongOnly), DeskConfig::default()] {
        let disk = MemoryDisk::new();
        run(&disk, team(&config, &source));
        let rows = rows(&disk) as f64 / candles.len() as f64;
        assert!((1.0..1.5).contains(&rows), "{rows} rows a candle");
    }
}

// === determinism ===

#[test]
fn placement_and_step_size_change_nothing() {
    for (config, source) in [(optimized(), simulator(3_000)), (fixed(Side::LongShort), simulator(600))] {
        let plain = MemoryDisk::new();
        let expected = run(&plain, team(&config, &source));
        assert!(!events::<Fill>(&plain).is_empty(), "a run without fills shows nothing");
        if config.strategy.is_none() {
            let versions = events::<Promoted>(&plain).last().map_or(0, |promoted| promoted.version);
            assert!(versions > 3 && !events::<RolledBack>(&plain).is_empty(), "{versions} versions show too little");
        }
        assert_eq!(run(&MemoryDisk::new(), team(&config, &source)), expected, "a second run");
        let apart = team(&config, &source).placement(Placement::Apart);
        assert_eq!(run(&MemoryDisk::new(), apart), expected, "apart");
        for inputs_max in [1, 7] {
            let limits = Limits { inputs_max, ..Limits::default() };
            let disk = MemoryDisk::new();
            assert_eq!(run(&disk, team(&config, &source).limits(limits)), expected, "{inputs_max} inputs a step");
            assert_eq!(rows(&disk), rows(&plain));
        }
    }
}

/// Runs for `candles` candles, then stops cleanly or ends as a kill does.
fn run_for(disk: &MemoryDisk, team: Team, candles: u64, is_clean: bool) {
    let limits = Limits { inputs_max: 16, ..Limits::default() };
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    tokio.block_on(async {
        let env = Arc::new(SimEnv::new(1, SIM_START));
        let builder = RuntimeBuilder::new(MemoryStore::on(disk)).env(env).own_thread(false).team(team.limits(limits));
        let runtime = builder.start().await.unwrap();
        let mut seen = runtime.subscribe(vec![Filter::new("market.candle").unwrap()], runtime.released());
        for _ in 0..candles {
            seen.next().await.unwrap().unwrap();
        }
        if is_clean {
            runtime.stop(Duration::from_secs(60)).await.unwrap();
        }
    });
    // Dropping the executor drops every task where it stands.
}

#[test]
fn stopped_and_killed_runs_resume_to_the_digest_of_a_whole_one() {
    let several = CandleSource::Simulator {
        seed: 5,
        series: vec![key("BBB.15m"), key("AAA.1h"), key("CCC.15m")],
        candles: Some(1_200),
    };
    for (config, source) in [(optimized(), simulator(3_000)), (fixed(Side::LongShort), several)] {
        let expected = run(&MemoryDisk::new(), team(&config, &source));
        for is_clean in [true, false] {
            let disk = MemoryDisk::new();
            for candles in [1, 17, 300, 5, 900] {
                run_for(&disk, team(&config, &source), candles, is_clean);
            }
            let done = run_careful(&disk, team(&config, &source));
            assert_eq!(done, expected, "clean: {is_clean}");
        }
    }
}

/// As `run`, after an unclean stop.
fn run_careful(disk: &MemoryDisk, team: Team) -> Digest {
    Swarm::new(1).on(disk).team(team).run(|runtime| async move { runtime.idle().await }).unwrap().digest
}

#[test]
fn a_desk_that_has_ended_goes_on_when_candles_are_added_and_rests_when_none_are() {
    let (config, candles) = (fixed(Side::LongOnly), walk(3, 400));
    let source = |n: usize| stored(&[(key("AAA.15m"), &candles[..n], Simulator::scale())]);
    let disk = MemoryDisk::new();
    run(&disk, team(&config, &source(300)));
    let rows_before = rows(&disk);
    run(&disk, team(&config, &source(300)));
    // A start is a row of the runtime's own; the desk has added none.
    assert!(rows(&disk) <= rows_before + 2, "{} after {rows_before}", rows(&disk));
    let report = report(&disk, team(&config, &source(400)));
    assert_eq!(report.candles, 400);
    let whole = MemoryDisk::new();
    run(&whole, team(&config, &source(400)));
    assert_eq!(trades(&disk), trades(&whole));
}

#[test]
fn a_position_that_the_end_closed_is_opened_again_when_candles_are_added() {
    let config = DeskConfig { strategy: Some(StrategySpec::BuyAndHold), close_at_end: true, ..fixed(Side::LongOnly) };
    let candles = walk(3, 400);
    let source = |n: usize| stored(&[(key("AAA.15m"), &candles[..n], Simulator::scale())]);
    let disk = MemoryDisk::new();
    run(&disk, team(&config, &source(300)));
    run(&disk, team(&config, &source(400)));
    let trades = trades(&disk);
    let times: Vec<_> = trades.iter().map(|trade| (trade.entry_time, trade.exit_time)).collect();
    let time = |i: usize| candles[i].time;
    assert_eq!(times, [(time(1), time(299)), (time(301), time(399))]);
}

#[test]
fn the_report_says_what_risk_did() {
    let risk = RiskLimits { orders_per_hour_max: 0, drawdown_max_ppm: 20_000, ..RiskLimits::default() };
    let config = DeskConfig { risk, ..fixed(Side::LongOnly) };
    let denied = report(&MemoryDisk::new(), team(&config, &simulator(300)));
    let text = denied.text();
    let said = denied.risk.unwrap();
    assert!(said.starts_with("active, ") && said.ends_with(" order_rate); no daily-loss limit set"), "{said}");
    assert!(!said.contains(" 0 denied") && text.contains(&said) && text.contains("fees added back"), "{text}");
    let plain = report(&MemoryDisk::new(), team(&fixed(Side::LongOnly), &simulator(300)));
    assert_eq!(plain.risk.unwrap(), "active, 0 denied; no drawdown or daily-loss limit set");
}

// === safety ===

#[test]
fn nothing_is_traded_without_an_approval() {
    let config =
        DeskConfig { risk: RiskLimits { orders_per_hour_max: 0, ..RiskLimits::default() }, ..fixed(Side::LongOnly) };
    let disk = MemoryDisk::new();
    let report = report(&disk, team(&config, &simulator(2_000)));
    assert!(!events::<TargetChanged>(&disk).is_empty());
    assert!(events::<Fill>(&disk).is_empty());
    assert_eq!((report.equity, report.trades), (config.cash, 0));
}

#[test]
fn every_fill_has_its_approval_and_conserves_money() {
    let disk = MemoryDisk::new();
    let config = optimized();
    let report = report(&disk, team(&config, &simulator(4_000)));
    let (approved, fills) = (events::<Approved>(&disk), events::<Fill>(&disk));
    assert!(!fills.is_empty());
    assert!(events::<OrderRejected>(&disk).is_empty());
    let terms = Terms::new(Simulator::scale(), config.lot_decimals, config.fee_ppm).unwrap();
    let (mut cash, mut lots) = (config.cash, 0);
    for fill in &fills {
        let approval = approved.iter().find(|a| fill.id.starts_with(&format!("{}.{}", a.series, a.time)));
        assert!(approval.is_some_and(|a| a.time < fill.time), "{} was not approved before it", fill.id);
        let worth = terms.value(fill.execution.price, fill.execution.lots).unwrap();
        cash = cash.minus(worth).unwrap().minus(terms.fee(worth)).unwrap();
        lots += fill.execution.lots;
        assert_eq!((fill.execution.cash_after, fill.execution.lots_after), (cash, lots));
    }
    let held = report.positions.iter().fold(Money::ZERO, |sum, p| sum.plus(p.value).unwrap());
    assert_eq!((report.cash, report.equity), (cash, cash.plus(held).unwrap()));
}

#[test]
fn a_person_stops_all_trading() {
    let disk = MemoryDisk::new();
    let config = DeskConfig { speed: Some(1), ..fixed(Side::LongShort) };
    let swarm = Swarm::new(1).on(&disk).team(team(&config, &simulator(2_000)));
    let done = swarm.run(|runtime| async move {
        let mut fills = runtime.subscribe(vec![Filter::new("order.fill").unwrap()], Seq::ZERO);
        fills.next().await.unwrap().unwrap();
        let killed = runtime.publish(Kill { reason: "test".into() }).await.unwrap();
        runtime.settled(killed.seq).await.unwrap();
        runtime.idle().await;
        killed.seq
    });
    let killed = done.unwrap().output;
    let late = block_on(async {
        let interest = Interest::in_topics(vec![Filter::new("risk.approved").unwrap()]);
        disk.journal(killed, disk.last_seq().await.unwrap(), &interest, 10).await.unwrap().0
    });
    assert!(late.is_empty(), "{late:?}");
    assert!(events::<Fill>(&disk).len() < 10);
}

#[test]
fn a_series_that_loses_too_much_is_closed_and_the_others_go_on() {
    let series: Vec<SeriesKey> = ["AAA.15m", "BBB.15m", "CCC.15m"].map(key).to_vec();
    let source = CandleSource::Simulator { seed: 11, series, candles: Some(3_000) };
    let risk = RiskLimits { series_drawdown_max_ppm: 25_000, ..RiskLimits::default() };
    let config = DeskConfig { risk, ..fixed(Side::LongShort) };
    let disk = MemoryDisk::new();
    run(&disk, team(&config, &source));
    let (said, fills) = (events::<StateChanged>(&disk), events::<Fill>(&disk));
    let first = &said.iter().find(|said| !said.stopped.is_empty()).expect("a series is stopped").stopped;
    let [stopped] = &first[..] else { panic!("{first:?}") };
    assert!(said.iter().all(|said| said.state == RiskState::Active));
    let denied = events::<Denied>(&disk).into_iter().find(|denied| denied.code == DenyCode::SeriesDrawdown);
    let denied = denied.expect("what it wants is denied");
    assert_eq!(denied.series, *stopped);
    let of = |wanted: bool| fills.iter().filter(move |fill| (fill.series == *stopped) == wanted);
    let last = of(true).next_back().expect("it traded");
    assert_eq!(last.execution.lots_after, 0);
    assert!(last.time <= denied.time, "closed before anything was denied");
    assert!(of(false).next_back().expect("others trade").time > last.time);
    let told = report(&MemoryDisk::new(), team(&config, &source)).risk.expect("risk is told");
    let n_stopped = said.last().expect("it says").stopped.len();
    assert!(told.starts_with(&format!("active, {n_stopped} series stopped, ")), "{told}");
    // Stops at any candle change nothing.
    let again = MemoryDisk::new();
    run_for(&again, team(&config, &source), 700, true);
    run_for(&again, team(&config, &source), 700, false);
    run(&again, team(&config, &source));
    assert_eq!(events::<Fill>(&again), fills);
}

#[test]
fn a_drawdown_stop_closes_what_is_open() {
    let risk = RiskLimits { drawdown_max_ppm: 20_000, ..RiskLimits::default() };
    let config = DeskConfig { risk, ..fixed(Side::LongOnly) };
    let disk = MemoryDisk::new();
    let report = report(&disk, team(&config, &simulator(3_000)));
    assert!(events::<Approved>(&disk).iter().any(|approved| approved.forced));
    assert!(report.positions.is_empty() && report.max_drawdown < 0.06, "{}", report.max_drawdown);
}

/// Candles of a quarter of an hour that open at the close before.
fn closing_at(closes: &[i64]) -> Vec<Candle> {
    let candle = |(i, close): (usize, &i64)| {
        let open = closes[i.saturating_sub(1)];
        let (high, low) = (open.max(*close), open.min(*close));
        Candle { time: 1_640_995_200_000 + i as i64 * 900_000, open, high, low, close: *close, volume: 100 }
    };
    closes.iter().enumerate().map(candle).collect()
}

fn quick(risk: RiskLimits) -> DeskConfig {
    let strategy = StrategySpec::SmaCross { fast: 2, slow: 4, side: Side::LongOnly };
    DeskConfig { risk, strategy: Some(strategy), ..DeskConfig::default() }
}

#[test]
fn a_desk_that_halts_opens_nothing_that_was_approved_before() {
    // AAA crosses up at the close at which ZZZ, which is held, falls by three tenths.
    let aaa = [10_000, 9_900, 9_800, 9_700, 9_600, 9_500, 9_400, 9_300, 9_900, 9_900, 9_900, 9_900];
    let zzz = [10_000, 9_900, 9_800, 9_700, 9_600, 10_500, 10_600, 10_700, 7_500, 7_500, 7_500, 7_500];
    let (a, z) = (closing_at(&aaa), closing_at(&zzz));
    let source = stored(&[(key("AAA.15m"), &a, Simulator::scale()), (key("ZZZ.15m"), &z, Simulator::scale())]);
    for risk in [
        RiskLimits { drawdown_max_ppm: 100_000, ..RiskLimits::default() },
        RiskLimits { daily_loss_max_ppm: 100_000, ..RiskLimits::default() },
    ] {
        let disk = MemoryDisk::new();
        let report = report(&disk, team(&quick(risk), &source));
        let approved: Vec<_> = events::<Approved>(&disk).into_iter().filter(|a| a.series == key("AAA.15m")).collect();
        let targets: Vec<_> = approved.iter().map(|approved| (approved.target, approved.forced)).collect();
        assert_eq!(targets, [(1.0, false), (0.0, true)]);
        assert!(events::<Fill>(&disk).iter().all(|fill| fill.series == key("ZZZ.15m")));
        assert!(report.positions.is_empty() && events::<OrderRejected>(&disk).is_empty());
    }
}

#[test]
fn two_series_that_decide_at_once_share_the_limit_of_all_positions() {
    let candles = closing_at(&[10_000, 9_900, 9_800, 9_700, 9_600, 10_500, 10_600, 10_700, 10_800]);
    let source =
        stored(&[(key("AAA.15m"), &candles, Simulator::scale()), (key("BBB.15m"), &candles, Simulator::scale())]);
    let disk = MemoryDisk::new();
    run(&disk, team(&quick(RiskLimits { gross_max_ppm: 300_000, ..RiskLimits::default() }), &source));
    let approved = events::<Approved>(&disk);
    assert_eq!(approved.iter().map(|a| a.notional_max).collect::<Vec<_>>(), [Money::whole(3_000)]);
    assert_eq!(events::<Denied>(&disk).iter().map(|denied| denied.code).collect::<Vec<_>>(), [DenyCode::NoRoom]);
}

#[test]
fn a_kill_withdraws_what_was_approved_and_not_filled() {
    let disk = MemoryDisk::new();
    let config = DeskConfig { speed: Some(1), ..fixed(Side::LongOnly) };
    let swarm = Swarm::new(1).on(&disk).team(team(&config, &simulator(500)));
    let done = swarm.run(|runtime| async move {
        let mut approved = runtime.subscribe(vec![Filter::new("risk.approved").unwrap()], Seq::ZERO);
        approved.next().await.unwrap().unwrap();
        runtime.publish(Kill { reason: "test".into() }).await.unwrap();
        runtime.idle().await;
    });
    done.unwrap();
    assert_eq!(events::<Approved>(&disk).len(), 2);
    assert!(events::<Fill>(&disk).is_empty());
}

/// A kill from the command line is journalled while nothing runs. It was once heard after hundreds of candles, since the
/// source was quicker than the journal.
#[test]
fn a_kill_that_was_said_while_nothing_ran_is_heard_before_the_first_candle() {
    let disk = MemoryDisk::new();
    let config = fixed(Side::LongOnly);
    run(&disk, team(&config, &simulator(400)));
    let before = events::<Fill>(&disk).len();
    assert!(before > 4);
    let said = Swarm::new(1).on(&disk).run(|runtime| async move {
        runtime.publish(Kill { reason: "test".into() }).await.unwrap();
    });
    said.unwrap();
    run(&disk, team(&config, &simulator(1_200)));
    assert_eq!(events::<Fill>(&disk).len(), before);
    assert!(events::<Denied>(&disk).iter().all(|denied| denied.code == DenyCode::KillSwitch));
    assert!(events::<Denied>(&disk).len() > 4);
}

#[test]
fn without_an_approval_there_is_no_order_whatever_the_signal_wants() {
    let halted = RiskLimits { orders_per_hour_max: 0, ..RiskLimits::default() };
    let disk = MemoryDisk::new();
    run(&disk, team(&DeskConfig { risk: halted, ..fixed(Side::LongShort) }, &simulator(1_500)));
    assert!(events::<TargetChanged>(&disk).len() > 20);
    assert!(events::<Approved>(&disk).is_empty() && events::<Fill>(&disk).is_empty());
    assert!(events::<Denied>(&disk).iter().all(|denied| denied.code == DenyCode::OrderRate));
}

#[test]
fn an_exit_that_was_denied_is_carried_out_after_a_resume() {
    let disk = MemoryDisk::new();
    let config = DeskConfig { speed: Some(1), ..fixed(Side::LongOnly) };
    let swarm = Swarm::new(1).on(&disk).team(team(&config, &simulator(500)));
    let done = swarm.run(|runtime| async move {
        let mut fills = runtime.subscribe(vec![Filter::new("order.fill").unwrap()], Seq::ZERO);
        fills.next().await.unwrap().unwrap();
        runtime.publish(Kill { reason: "test".into() }).await.unwrap();
        let mut denied = runtime.subscribe(vec![Filter::new("risk.denied").unwrap()], Seq::ZERO);
        denied.next().await.unwrap().unwrap();
        runtime.publish(Resume { reason: "test".into() }).await.unwrap();
        runtime.idle().await;
    });
    done.unwrap();
    let denied = events::<Denied>(&disk).remove(0);
    assert_eq!((denied.target, denied.code), (0.0, DenyCode::KillSwitch));
    let exit = events::<Approved>(&disk).remove(1);
    assert_eq!((exit.target, exit.forced, exit.time), (0.0, false, denied.time + 900_000));
    assert_eq!(trades(&disk)[0].exit_time, exit.time + 900_000);
}

// === the feed ===

#[test]
fn gaps_and_candles_out_of_order_are_told_and_refused() {
    let mut candles = walk(3, 2_600);
    candles.remove(100);
    let series = key("AAA.15m");
    let mut blocks = blocks_of(&series, &candles, Simulator::scale()).unwrap();
    // The second block comes again under a later start: all its candles are out of order.
    let again = Block { start: blocks.last().unwrap().start + 1, ..blocks[1].clone() };
    let refused = u64::from(again.rows);
    blocks.push(again);
    let disk = MemoryDisk::new();
    let report = report(&disk, team(&fixed(Side::LongOnly), &with_blocks(blocks)));
    assert_eq!(report.candles, 2_599);
    assert_eq!(events::<Quality>(&disk).len() as u64, refused);
    let gaps = events::<atra_agents::events::Gap>(&disk);
    assert_eq!((gaps.len(), gaps[0].missing, gaps[0].from), (1, 1, candles[99].time + 900_000));
}

#[test]
fn only_the_span_and_the_series_that_are_wanted_are_read() {
    let candles = walk(3, 3_000);
    let source =
        stored(&[(key("AAA.15m"), &candles, Simulator::scale()), (key("BBB-X.15m"), &candles, Simulator::scale())]);
    let (from, to) = (Some(candles[1_100].time), Some(candles[2_500].time));
    let config = DeskConfig { series: vec!["BBB-X".into()], from, to, ..fixed(Side::LongOnly) };
    let report = report(&MemoryDisk::new(), team(&config, &source));
    assert_eq!((report.candles, report.from), (1_400, from));
    assert_eq!(report.to, to);
    let unknown = DeskConfig { series: vec!["CCC".into()], ..DeskConfig::default() };
    let error = block_on(desk(unknown, source)).unwrap_err();
    assert!(matches!(&error, DeskError::UnknownSeries { known, .. } if known == &["AAA.15m", "BBB-X.15m"]), "{error}");
    let none = block_on(desk(DeskConfig::default(), with_blocks(Vec::new())));
    assert!(matches!(none, Err(DeskError::NoSeries)));
}

#[test]
fn a_speed_limit_takes_the_time_that_it_says() {
    let config = DeskConfig { speed: Some(10), ..fixed(Side::LongOnly) };
    let done = Swarm::new(1).team(team(&config, &simulator(101))).run(|runtime| async move { runtime.idle().await });
    let seconds = done.unwrap().virtual_time.as_secs_f64();
    assert!((10.0..10.5).contains(&seconds), "{seconds}");
}

#[test]
fn each_agent_says_how_it_is() {
    let swarm = Swarm::new(1).team(team(&optimized(), &simulator(2_000)));
    let done = swarm.run(|runtime| async move {
        runtime.idle().await;
        for agent in ["feed", "indicator", "signal", "risk", "execution", "portfolio", "optimizer"] {
            let query = Query { name: "status".into(), arguments: Value::Null };
            let status = runtime.query(agent, query).await.unwrap();
            assert!(status.as_object().is_some_and(|status| !status.is_empty()), "{agent}");
        }
    });
    done.unwrap();
}
