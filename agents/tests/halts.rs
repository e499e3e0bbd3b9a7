//! What halts a desk: limits, callers, amounts out of range; and what outlives the journal.

#![allow(clippy::unwrap_used, reason = "fixtures are tests too")]

use std::{future::Future, sync::Arc};

use atra_agents::{
    CandleSource, DeskConfig, DeskReport, OptimizerConfig,
    candles::{blocks_of, check_simulated},
    desk,
    events::{Approved, Halt, HaltedBy, Kill, OrderRejected, Promoted, ProposalRejected, Resume, StateChanged},
    halts::Halted,
    market::{
        broker::Fill,
        candle::{Candle, LOTS_MAX, Scale, SeriesKey, TICKS_MAX},
        money::Money,
        risk::{RiskLimits, RiskState},
        simulator::{FORMULA, PositionError, Simulator, SplitMix64},
        strategy::{Side, StrategySpec},
        walkforward::{GateLimits, Pair},
    },
};
use atra_bus::{EventType, Filter, Interest, Name, Seq};
use atra_runtime::{Query, Team, TeamState, sim::Swarm};
use atra_storage::{FactKind, FactRow, MemoryDisk, MemoryStore, Read, Store, WriteBatch};
use serde_json::Value;

const START: i64 = 1_640_995_200_000;
const QUARTER: i64 = 900_000;

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

fn stored(candles: &[Candle], scale: Scale) -> CandleSource {
    let mut store = MemoryStore::new();
    block_on(async {
        store.load().await.unwrap();
        let blocks = blocks_of(&key("AAA.15m"), candles, scale).unwrap();
        store.commit(&WriteBatch { blocks, ..WriteBatch::default() }).await.unwrap();
    });
    CandleSource::Store(store.reader())
}

/// Candles of a quarter of an hour that open at the close before.
fn closing_at(closes: &[i64]) -> Vec<Candle> {
    let candle = |(i, close): (usize, &i64)| {
        let open = closes[i.saturating_sub(1)];
        let (high, low) = (open.max(*close), open.min(*close));
        Candle { time: START + i as i64 * QUARTER, open, high, low, close: *close, volume: 100 }
    };
    closes.iter().enumerate().map(candle).collect()
}

fn team(config: &DeskConfig, source: &CandleSource) -> Team {
    block_on(desk(config.clone(), source.clone())).unwrap()
}

/// Runs to the end of the candles, without a failure.
fn run(disk: &MemoryDisk, team: Team) -> DeskReport {
    let done = Swarm::new(1).on(disk).team(team).run(|runtime| async move {
        runtime.idle().await;
        let status = runtime.status().remove(0);
        assert_eq!((status.state, status.dead_letters, status.restarts), (TeamState::Running, 0, 0));
        let query = Query { name: "report".into(), arguments: Value::Null };
        serde_json::from_value(runtime.query("portfolio", query).await.unwrap()).unwrap()
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

fn halted(disk: &MemoryDisk) -> Halted {
    block_on(Halted::read(disk)).unwrap()
}

/// Nothing of risk in the way but what is set.
fn open(strategy: StrategySpec, cash: Money, risk: RiskLimits) -> DeskConfig {
    let risk = RiskLimits { price_band_ppm: u32::MAX, orders_per_hour_max: u32::MAX, ..risk };
    DeskConfig { strategy: Some(strategy), cash, risk, fee_ppm: 0, ..DeskConfig::default() }
}

fn cross(side: Side) -> StrategySpec {
    StrategySpec::SmaCross { fast: 2, slow: 4, side }
}

// === amounts ===

/// The team failed at the candle whose mark was out of range, and again at every restart.
#[test]
fn an_amount_out_of_range_halts_the_desk_and_fails_nobody() {
    let rise = std::iter::successors(Some(1_000_i64), |close| Some((close * 2).min(TICKS_MAX)));
    // It crosses up, rises by five hundred thousand million times, and comes back.
    let mut closes: Vec<i64> = [1_000, 990, 980, 970, 960].into_iter().chain(rise.take(40)).collect();
    let back = |close: &i64| Some((close / 2).max(900));
    closes.extend(std::iter::successors(closes.last().copied(), back).skip(1).take(60));
    let candles = closing_at(&closes);
    let config = open(cross(Side::LongShort), Money::START_MAX, RiskLimits::default());
    let disk = MemoryDisk::new();
    run(&disk, team(&config, &stored(&candles[..40], Scale::default())));
    let first = halted(&disk);
    assert_eq!(first.state, RiskState::Halted);
    let [Halt { series: None, by: HaltedBy::AmountRange, reason, since }] = &first.halts[..] else {
        panic!("{first:?}")
    };
    assert!(reason.contains("AAA.15m: mark not taken") && reason.contains("beyond the limit of"), "{reason}");
    assert!(candles.iter().any(|candle| candle.time + QUARTER == *since));
    assert_eq!(events::<StateChanged>(&disk).len(), 1, "it is journalled once");
    // A restart goes on, still halted, and the position is closed where its amounts are in range again.
    let report = run(&disk, team(&config, &stored(&candles, Scale::default())));
    assert_eq!(halted(&disk).halts, first.halts);
    let fills = events::<Fill>(&disk);
    let (approved, denied) = (events::<Approved>(&disk), events::<atra_agents::events::Denied>(&disk));
    assert_eq!(fills.last().map(|fill| fill.execution.lots_after), Some(0), "{fills:?}\n{approved:?}\n{denied:?}");
    assert_eq!(fills.len(), 2, "nothing is opened while it is halted");
    assert!(report.equity <= Money::ACCOUNT_MAX && report.risk.unwrap().contains("desk halted since"));
    assert!(events::<Approved>(&disk).len() < 8, "an exit that waits is not approved at every candle");
}

#[test]
fn a_fill_out_of_range_is_rejected_and_its_closing_waits() {
    // It crosses up, and down at the tenth close: the reversal meets an open at the greatest price.
    let closes = [1_000, 990, 980, 970, 960, 1_050, 1_060, 1_070, 1_080, 900, 880, 870, 860];
    let mut candles = closing_at(&closes);
    (candles[10].open, candles[10].high) = (TICKS_MAX, TICKS_MAX);
    let config = open(cross(Side::LongShort), Money::START_MAX, RiskLimits::default());
    let disk = MemoryDisk::new();
    run(&disk, team(&config, &stored(&candles, Scale::default())));
    let [rejected] = &events::<OrderRejected>(&disk)[..] else { panic!("one order is rejected") };
    assert!(rejected.time == candles[9].time && rejected.reason.starts_with("fill not made: "), "{rejected:?}");
    let found = halted(&disk);
    let [Halt { by: HaltedBy::AmountRange, since, .. }] = &found.halts[..] else { panic!("{found:?}") };
    assert_eq!((*since, found.state), (START + 11 * QUARTER, RiskState::Halted));
    let fills: Vec<_> = events::<Fill>(&disk).iter().map(|fill| (fill.time, fill.execution.lots_after)).collect();
    assert_eq!((fills.len(), fills.last()), (2, Some(&(candles[11].time, 0))));
}

/// Candles with the greatest and the least numbers, in any order.
fn extreme(seed: u64, n: usize) -> Vec<Candle> {
    let mut random = SplitMix64::new(seed);
    let mut price = || match random.next_u64() % 4 {
        0 => 1,
        1 => TICKS_MAX,
        2 => 1 + (random.next_u64() % 1_000_000) as i64,
        _ => 1 + (random.next_u64() % TICKS_MAX as u64) as i64,
    };
    let candles = (0..n).map(|i| {
        let prices = [price(), price(), price(), price()];
        let (high, low) = (*prices.iter().max().unwrap(), *prices.iter().min().unwrap());
        let volume = if i % 3 == 0 { LOTS_MAX } else { price().min(LOTS_MAX) };
        Candle { time: START + i as i64 * QUARTER, open: prices[0], high, low, close: prices[1], volume }
    });
    candles.collect()
}

#[test]
fn no_candles_fail_a_desk() {
    for (seed, name) in StrategySpec::NAMES.into_iter().enumerate() {
        for side in [Side::LongOnly, Side::LongShort] {
            let strategy = StrategySpec::usual(name).unwrap().with_side(side);
            let risk = RiskLimits {
                position_max_ppm: u32::MAX,
                gross_max_ppm: u32::MAX,
                series_drawdown_max_ppm: 500_000,
                volume_max_ppm: Some(u32::MAX),
                ..RiskLimits::default()
            };
            let config = DeskConfig { fee_ppm: 999_999, ..open(strategy, Money::START_MAX, risk) };
            let scale = Scale::new(if seed % 2 == 0 { 0 } else { 12 }, 12).unwrap();
            let source = stored(&extreme(seed as u64, 600), scale);
            run(&MemoryDisk::new(), team(&DeskConfig { close_at_end: true, ..config }, &source));
        }
    }
    // With the optimizer too.
    let source = stored(&extreme(77, 2_000), Scale::default());
    run(&MemoryDisk::new(), team(&optimized(), &source));
}

// === callers and limits ===

#[test]
fn a_kill_says_who_gave_it_since_when_and_why_until_it_is_resumed() {
    let config = open(cross(Side::LongOnly), Money::whole(10_000), RiskLimits::default());
    let disk = MemoryDisk::new();
    run(&disk, team(&config, &simulator(100)));
    assert!(halted(&disk).is_none());
    let say = |kill: bool| {
        let done = Swarm::new(1).on(&disk).run(move |runtime| async move {
            let call = match kill {
                true => runtime.publish(Kill { reason: "flood".into() }),
                false => runtime.publish(Resume { reason: "dry".into() }),
            };
            call.from(Name::new("nora").unwrap()).await.unwrap().seq
        });
        done.unwrap().output
    };
    let seq = say(true);
    let waiting = halted(&disk);
    assert_eq!((waiting.state, waiting.waiting[0].seq), (RiskState::Active, seq));
    let [line] = &waiting.lines()[..] else { panic!("{waiting:?}") };
    assert!(line.starts_with("risk.kill by nora is event") && line.ends_with(": flood"), "{line}");
    run(&disk, team(&config, &simulator(200)));
    let killed = halted(&disk);
    assert!(killed.waiting.is_empty());
    let [Halt { series: None, by: HaltedBy::Caller(by), reason, .. }] = &killed.halts[..] else { panic!("{killed:?}") };
    assert_eq!((by.as_str(), reason.as_str(), killed.state), ("nora", "flood", RiskState::Halted));
    say(false);
    run(&disk, team(&config, &simulator(300)));
    assert!(halted(&disk).is_none() && halted(&disk).state == RiskState::Active);
}

#[test]
fn each_limit_says_what_it_halted() {
    let closes = [10_000, 9_900, 9_800, 9_700, 9_600, 10_500, 10_600, 10_700, 7_500, 7_500, 7_500, 7_500];
    let source = stored(&closing_at(&closes), Scale::new(2, 2).unwrap());
    let limits = RiskLimits::default();
    for (risk, by, series, said) in [
        (RiskLimits { drawdown_max_ppm: 100_000, ..limits }, HaltedBy::DrawdownMax, None, "fell from its peak of 10"),
        (RiskLimits { daily_loss_max_ppm: 100_000, ..limits }, HaltedBy::DailyLossMax, None, "by 10 % or more"),
        (
            RiskLimits { series_drawdown_max_ppm: 100_000, ..limits },
            HaltedBy::SeriesDrawdownMax,
            Some(key("AAA.15m")),
            "its own result fell from its peak by 10 %",
        ),
    ] {
        let disk = MemoryDisk::new();
        run(&disk, team(&open(cross(Side::LongOnly), Money::whole(10_000), risk), &source));
        let found = halted(&disk);
        let [halt] = &found.halts[..] else { panic!("{found:?}") };
        assert_eq!((&halt.by, &halt.series, halt.since), (&by, &series, START + 9 * QUARTER));
        assert!(halt.reason.contains(said), "{}", halt.reason);
    }
}

#[test]
fn an_account_without_money_says_so_for_as_long_as_it_has_none() {
    let closes = [10_000, 10_100, 10_200, 10_300, 10_400, 9_500, 9_400, 40_000, 40_000, 9_000, 8_900, 8_800];
    let config = open(cross(Side::LongShort), Money::whole(10_000), RiskLimits::default());
    let source = |n: usize| stored(&closing_at(&closes[..n]), Scale::new(2, 2).unwrap());
    let disk = MemoryDisk::new();
    run(&disk, team(&config, &source(9)));
    let of = |found: Halted| found.halts.into_iter().find(|halt| halt.by == HaltedBy::NoMoney);
    let found = of(halted(&disk)).expect("it is told");
    assert_eq!((found.since, &found.series), (START + 8 * QUARTER, &None));
    // The loss was taken: it has none for good, and says so once.
    run(&disk, team(&config, &source(12)));
    assert_eq!(of(halted(&disk)), Some(found));
    assert_eq!(events::<StateChanged>(&disk).len(), 1);
}

#[test]
fn an_order_is_at_most_a_share_of_what_was_traded() {
    let mut candles = closing_at(&[10_000, 9_900, 9_800, 9_700, 9_600, 10_500, 10_600, 10_700, 10_800]);
    let scale = Scale::new(2, 2).unwrap();
    let risk = RiskLimits { volume_max_ppm: Some(100_000), ..RiskLimits::default() };
    let config = open(cross(Side::LongOnly), Money::whole(10_000), risk);
    let most = |candles: &[Candle]| {
        let disk = MemoryDisk::new();
        run(&disk, team(&config, &stored(candles, scale)));
        events::<Approved>(&disk)[0].notional_max
    };
    // A tenth of 1 unit at 105.00.
    assert_eq!(most(&candles), "10.5".parse().unwrap());
    // Without volume nothing is known of what was traded.
    candles.iter_mut().for_each(|candle| candle.volume = 0);
    assert_eq!(most(&candles), Money::whole(10_000));
}

// === the simulated market ===

#[test]
fn a_simulated_market_goes_on_where_it_was_and_never_with_another_formula() {
    let (config, series) = (open(cross(Side::LongOnly), Money::whole(10_000), RiskLimits::default()), key("AAA.15m"));
    let whole = MemoryDisk::new();
    let expected = run(&whole, team(&config, &simulator(400)));
    let disk = MemoryDisk::new();
    for candles in [1, 37, 250, 400] {
        run(&disk, team(&config, &simulator(candles)));
    }
    assert_eq!(events::<Fill>(&disk), events::<Fill>(&whole));
    assert_eq!(run(&disk, team(&config, &simulator(400))), expected);
    // As the first formula left it.
    let feed = Name::new("feed").unwrap();
    let fact = block_on(disk.fact(FactKind::Offset, &feed, "AAA.15m")).unwrap().unwrap();
    let offset: String = serde_json::from_str(fact.value.as_deref().unwrap()).unwrap();
    assert!(check_simulated(&series, &offset).is_ok() && offset.contains(&format!("@{FORMULA}:")), "{offset}");
    let old = offset.split('@').next().unwrap();
    assert_eq!(check_simulated(&series, old), Err(PositionError::Formula { found: 1 }));
    let value: Option<Arc<str>> = Some(Value::from(old).to_string().into());
    block_on(async {
        let mut store = MemoryStore::on(&disk);
        store.load().await.unwrap();
        store.commit(&WriteBatch { facts: vec![FactRow { value, ..fact }], ..WriteBatch::default() }).await.unwrap();
    });
    let before = block_on(disk.last_seq()).unwrap();
    let done = Swarm::new(1)
        .on(&disk)
        .team(team(&config, &simulator(500)))
        .run(|runtime| async move { runtime.until_state("desk", TeamState::is_ended).await.unwrap().to_string() });
    let state = done.unwrap().output;
    assert!(state.contains("the candles so far were made by formula 1"), "{state}");
    let interest = Interest::in_topics(vec![Filter::new("market.>").unwrap()]);
    let new = block_on(disk.journal(before, Seq(u64::MAX), &interest, 10)).unwrap().0;
    assert!(new.is_empty(), "{new:?}");
}

#[test]
fn a_capped_desk_in_the_simulated_market_stays_small() {
    let risk = RiskLimits { volume_max_ppm: Some(100_000), ..RiskLimits::default() };
    let config = DeskConfig { risk, ..open(cross(Side::LongShort), Money::whole(10_000), risk) };
    let disk = MemoryDisk::new();
    let report = run(&disk, team(&config, &simulator(5_000)));
    let scale = Simulator::scale();
    // The greatest candle trades far less than 10 × 10^6 a candle.
    let most = Money::whole(2_000_000);
    let within = |approved: &Approved| approved.target == 0.0 || approved.notional_max <= most;
    assert!(events::<Approved>(&disk).iter().all(within) && scale.price_decimals() == 2);
    assert!(report.candles == 5_000 && report.equity < most);
}

// === totals ===

fn optimized() -> DeskConfig {
    let pairs = [(4, 16), (8, 16), (4, 32), (8, 32), (16, 32)].map(|(fast, slow)| Pair { fast, slow }).to_vec();
    let gates = GateLimits { plateau_min: 0.0, trades_min: 5, drawdown_max: 0.05, ..GateLimits::default() };
    let optimizer = OptimizerConfig { pairs, train: 960, gates, ..OptimizerConfig::default() };
    DeskConfig { optimizer, ..DeskConfig::default() }
}

#[test]
fn the_optimizer_counts_its_decisions_across_restarts() {
    let disk = MemoryDisk::new();
    let ask = |candles: u64| {
        let done = Swarm::new(1).on(&disk).team(team(&optimized(), &simulator(candles))).run(|runtime| async move {
            runtime.idle().await;
            let query = Query { name: "status".into(), arguments: Value::Null };
            runtime.query("optimizer", query).await.unwrap()["totals"].take()
        });
        done.unwrap().output
    };
    ask(1_700);
    let totals = ask(4_000);
    let n = |name: &str| totals[name].as_u64().unwrap() as usize;
    let promoted = events::<Promoted>(&disk);
    let confirmed = promoted.iter().filter(|promoted| promoted.confirmed).count();
    assert_eq!((n("promoted"), n("confirmed")), (promoted.len() - confirmed, confirmed));
    assert_eq!(n("rejected"), events::<ProposalRejected>(&disk).len());
    assert_eq!(n("proposed"), events::<atra_agents::events::Proposed>(&disk).len());
    assert_eq!(n("rolled_back"), events::<atra_agents::events::RolledBack>(&disk).len());
    assert!(n("promoted") > 2 && n("rejected") > 2 && n("proposed") > 2, "{totals}");
}
