//! The indicator: a fixed set of values for every candle, once they are warm.
//!
//! It publishes one passing event a candle, shared by all who hear it; nothing of it is journalled, since a replay makes
//! it again. NaN and infinity never leave it ([`crate::market::indicators`]).

use async_trait::async_trait;
use atra_bus::Event;
use atra_runtime::{Agent, AgentError, AgentSpec, Context, Query, StateReader, StateWriter};
use serde_json::{Value, json};

use crate::{
    events::{CandleJson, FeaturesAt},
    market::{candle::SeriesCandle, indicators::FeatureSet},
    series::PerSeries,
};

/// The agent.
#[derive(Default)]
pub(crate) struct Indicator {
    series: PerSeries<FeatureSet>,
}

#[async_trait]
impl Agent for Indicator {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("indicator").handles::<SeriesCandle>().publishes::<FeaturesAt>()
    }

    async fn start(&mut self, state: &StateReader<'_>) -> Result<(), AgentError> {
        self.series = PerSeries::load(state)?;
        Ok(())
    }

    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let SeriesCandle { series, scale, candle } = event.get()?;
        let set = self.series.entry(series, || FeatureSet::new(*scale));
        if set.scale() != *scale {
            return Err(AgentError::new(format!("{series} changed its scale within the run")));
        }
        let features = set.update(candle);
        cx.publish(FeaturesAt { series: series.clone(), scale: *scale, candle: CandleJson(*candle), features })?;
        Ok(())
    }

    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        self.series.save(state)
    }

    fn query(&self, query: &Query) -> Result<Value, AgentError> {
        match query.name.as_str() {
            "status" => {
                let series: Vec<_> = self.series.iter().map(|(series, _)| series).collect();
                Ok(json!({ "series": series }))
            }
            other => Err(AgentError::new(format!("indicator does not answer {other:?}; ask for status"))),
        }
    }
}
