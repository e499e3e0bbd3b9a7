//! A strategy of one's own: in the back-test, and through the seven agents, which must trade alike.

use atra::agents::market::{
    backtest::{BacktestOptions, backtest},
    candle::{Candle, SeriesKey},
    indicators::{Indicator, Rsi},
    money::{Money, Terms},
    simulator::Simulator,
    strategy::{Decision, Maker, Reason, Strategy},
};
use atra::agents::{
    CandleSource, DeskConfig, SIMULATED_FROM, candles::simulator_of, desk_with, market::risk::RiskLimits,
};
use atra::{Query, runtime::sim::Swarm};
use serde::{Deserialize, Serialize};

/// Buys when the RSI rises above 55, sells when it falls below 45. Serialising is all that a restart needs.
#[derive(Clone, Serialize, Deserialize)]
struct Momentum {
    rsi: Rsi,
    held: bool,
}

impl Strategy for Momentum {
    fn update(&mut self, candle: &Candle) -> Option<Decision> {
        let rsi = self.rsi.update(candle.close)?;
        let wanted = if self.held { rsi > 45.0 } else { rsi > 55.0 };
        let changed = std::mem::replace(&mut self.held, wanted) != wanted;
        changed.then_some(Decision { target: f64::from(u8::from(wanted)), reason: Reason::Own })
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let own = || Momentum { rsi: Rsi::new(14), held: false };
    let risk = RiskLimits { position_max_ppm: 2_000_000, gross_max_ppm: 2_000_000, ..RiskLimits::default() };
    let config = DeskConfig { close_at_end: true, risk, ..DeskConfig::default() };
    let series: SeriesKey = "SIM.15m".parse()?;
    let source = CandleSource::Simulator { seed: 7, series: vec![series.clone()], candles: Some(2_000) };

    let tokio = tokio::runtime::Builder::new_current_thread().build()?;
    let team = tokio.block_on(desk_with(config.clone(), source, Maker::new(own)))?;
    let report = Swarm::new(1).team(team).run(|runtime| async move {
        runtime.idle().await;
        let query = Query { name: "report".into(), arguments: serde_json::Value::Null };
        runtime.query("portfolio", query).await
    })?;
    let report: atra::agents::DeskReport = serde_json::from_value(report.output?)?;

    let candles: Vec<Candle> = simulator_of(7, &series, SIMULATED_FROM).take(2_000).collect();
    let terms = Terms::new(Simulator::scale(), config.lot_decimals, config.fee_ppm)?;
    let run = backtest(&candles, own(), &BacktestOptions::new(Money::whole(10_000), terms))?;
    assert_eq!((report.equity, report.trades), (run.final_equity, run.trades.len() as u64));
    println!("{}", report.text());
    Ok(())
}
