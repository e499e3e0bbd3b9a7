//! Properties of the back-test and the books that hold on any market: simulated ones of any seed, any strategy.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, in a helper as well")]

use atra_agents::market::backtest::{Backtest, BacktestOptions, backtest};
use atra_agents::market::candle::{Candle, Scale, SeriesKey};
use atra_agents::market::checks::decisions;
use atra_agents::market::fill::Exits;
use atra_agents::market::money::{Money, Terms};
use atra_agents::market::portfolio::Portfolio;
use atra_agents::market::simulator::Simulator;
use atra_agents::market::strategy::{Side, StrategySpec};
use proptest::prelude::*;

fn market(seed: u64, n: usize) -> Vec<Candle> {
    Simulator::new(seed, "15m".parse().unwrap(), 1_640_995_200_000).take(n).collect()
}

fn strategy() -> impl Strategy<Value = StrategySpec> {
    (0..StrategySpec::NAMES.len(), any::<bool>()).prop_map(|(name, short)| {
        let side = if short { Side::LongShort } else { Side::LongOnly };
        StrategySpec::usual(StrategySpec::NAMES[name]).unwrap().with_side(side)
    })
}

fn options(fee_ppm: u32, scale: Scale) -> BacktestOptions {
    BacktestOptions::new(Money::whole(10_000), Terms::new(scale, 3, fee_ppm).unwrap())
}

fn run(candles: &[Candle], spec: StrategySpec, options: &BacktestOptions) -> Backtest {
    backtest(candles, spec.build().unwrap(), options).unwrap()
}

fn exits() -> impl Strategy<Value = Exits> {
    (0_u32..50_000, 0_u32..80_000).prop_map(|(stop_loss_ppm, take_profit_ppm)| Exits { stop_loss_ppm, take_profit_ppm })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn without_fees_a_flat_price_leaves_the_equity_as_it_was(spec in strategy(), exits in exits(), price in 100_i64..1_000_000) {
        let flat: Vec<Candle> = (0..300)
            .map(|i| Candle { time: i * 900_000, open: price, high: price, low: price, close: price, volume: 1 })
            .collect();
        let options = BacktestOptions { exits, ..options(0, Simulator::scale()) };
        let found = run(&flat, spec, &options);
        prop_assert_eq!(found.final_equity, Money::whole(10_000));
        prop_assert!(found.equity.iter().all(|equity| *equity == 10_000.0));
    }

    /// Sizes fall with the fee, so a loss can shrink with it; each trade by itself is never better.
    #[test]
    fn a_higher_fee_never_helps_a_trade(spec in strategy(), seed in 0_u64..1_000, fee in 0_u32..5_000, more in 1_u32..5_000) {
        let candles = market(seed, 1_500);
        let (low, high) = (run(&candles, spec, &options(fee, Simulator::scale())), run(&candles, spec, &options(fee + more, Simulator::scale())));
        prop_assert_eq!(low.trades.len(), high.trades.len());
        for (low, high) in low.trades.iter().zip(&high.trades) {
            prop_assert_eq!((low.entry_time, low.exit_time, low.entry_price), (high.entry_time, high.exit_time, high.entry_price));
            prop_assert!(high.return_share < low.return_share);
        }
        // Where the size is the same share of the account throughout, the whole account is never better either.
        if matches!(spec, StrategySpec::BuyAndHold) && low.metrics.return_share > 0.0 {
            prop_assert!(high.final_equity < low.final_equity);
        }
    }

    #[test]
    fn scaling_all_prices_changes_no_decision_and_no_return(spec in strategy(), seed in 0_u64..1_000, exits in exits(), factor in prop::sample::select(vec![10_i64, 100, 1_000])) {
        let candles = market(seed, 1_200);
        let scaled: Vec<Candle> = candles
            .iter()
            .map(|c| Candle { open: c.open * factor, high: c.high * factor, low: c.low * factor, close: c.close * factor, ..*c })
            .collect();
        let plain = decisions(spec.build().unwrap(), &candles);
        let other = decisions(spec.build().unwrap(), &scaled);
        // Averages of floats round otherwise at ties; sums of ticks do not.
        let is_exact = matches!(spec, StrategySpec::SmaCross { .. } | StrategySpec::Donchian { .. } | StrategySpec::BuyAndHold);
        if is_exact {
            prop_assert_eq!(&plain, &other);
            // Ticks that are so many times finer: the same prices in money.
            let finer = Scale::new(2 + factor.ilog10() as u8, 2).unwrap();
            let options = |scale| BacktestOptions { exits: Exits { take_profit_ppm: 0, stop_loss_ppm: exits.stop_loss_ppm / 1_000 * 1_000 }, ..options(700, scale) };
            if exits.stop_loss_ppm < 1_000 {
                let (a, b) = (run(&candles, spec, &options(Simulator::scale())), run(&scaled, spec, &options(finer)));
                prop_assert_eq!(a.final_equity, b.final_equity);
            }
        } else {
            let differ = plain.len().abs_diff(other.len());
            prop_assert!(differ <= 2, "{} and {} decisions", plain.len(), other.len());
        }
    }

    #[test]
    fn truncating_the_candles_changes_nothing_before_the_cut(spec in strategy(), seed in 0_u64..1_000, exits in exits(), cut in 1_usize..1_200) {
        let candles = market(seed, 1_200);
        let options = BacktestOptions { exits, ..options(700, Simulator::scale()) };
        let (whole, short) = (run(&candles, spec, &options), run(&candles[..cut], spec, &options));
        prop_assert_eq!(&whole.equity[..cut], &short.equity[..]);
        let cut_at = candles[cut - 1].time;
        let before = |run: &Backtest| run.trades.iter().filter(|trade| trade.exit_time < cut_at).copied().collect::<Vec<_>>();
        prop_assert_eq!(before(&whole), before(&short));
    }

    #[test]
    fn profits_of_trades_add_up_to_the_equity_exactly(spec in strategy(), seed in 0_u64..1_000, exits in exits(), fee in 0_u32..5_000, slippage in 0_u32..2_000) {
        let candles = market(seed, 1_200);
        let terms = Terms::new(Simulator::scale(), 3, fee).unwrap().with_slippage(slippage).unwrap();
        let options = BacktestOptions { exits, ..BacktestOptions::new(Money::whole(10_000), terms) };
        let found = run(&candles, spec, &options);
        let sum = found.trades.iter().try_fold(Money::whole(10_000), |sum, trade| sum.plus(trade.profit)).unwrap();
        prop_assert_eq!(sum, found.final_equity);
        prop_assert!(found.trades.iter().all(|trade| trade.entry_time <= trade.exit_time));
    }

    /// Any fills in any order of series: cash and positions at the last prices are always the equity.
    #[test]
    fn cash_and_positions_are_always_the_equity(seed in 0_u64..1_000, targets in proptest::collection::vec((0_usize..3, -1_i32..=1), 1..120)) {
        use atra_agents::market::broker::{Broker, Order};
        let names: Vec<SeriesKey> = ["A.15m", "B.15m", "C.15m"].iter().map(|name| name.parse().unwrap()).collect();
        let markets: Vec<Vec<Candle>> = (0..3).map(|n| market(seed + n, targets.len() + 1)).collect();
        let terms = Terms::new(Simulator::scale(), 3, 1_000).unwrap();
        let (mut broker, mut books) = (Broker::new(Money::whole(10_000)), Portfolio::new(Money::whole(10_000)));
        for name in &names {
            broker.open(name, terms, Exits { stop_loss_ppm: 3_000, take_profit_ppm: 4_000 });
            books.open(name, terms);
        }
        for (i, (which, target)) in targets.into_iter().enumerate() {
            for (name, candles) in names.iter().zip(&markets) {
                for fill in broker.candle(name, &candles[i]).unwrap() {
                    books.fill(&fill).unwrap();
                }
                books.mark(name, candles[i].time, candles[i].close).unwrap();
                books.check().unwrap();
            }
            let order = Order { decided_at: markets[which][i].time, target: f64::from(target), notional_max: Money::whole(3_000) };
            broker.submit(&names[which], order).unwrap();
        }
    }
}
