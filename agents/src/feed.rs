//! The feed: brings candles in, and says what is odd about them.
//!
//! The source ([`crate::candles`]) hands over closed candles in one order, refuses what is out of order, and tells the
//! end. The agent looks at what came: gaps, runs without volume, jumps, and series that have fallen silent while others
//! go on. It never repairs and never makes up a candle.

use async_trait::async_trait;
use atra_bus::Event;
use atra_runtime::{Agent, AgentError, AgentSpec, Context, Offsets, Query, Source, StateReader, StateWriter};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    candles::{CandleSource, Wanted, stream_of},
    events::{End, Gap, Quality, QualityIssue, Stalled},
    market::candle::{Candle, SeriesCandle, SeriesKey},
    series::PerSeries,
};

/// Intervals without a candle, while other series go on, after which a series counts as stalled.
const STALLED_AFTER: i64 = 4;
/// An open this share of the last close away from it is worth a word: one tenth.
const JUMP_PART: i64 = 10;

/// What the feed knows of a series.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Watched {
    first: i64,
    last: i64,
    last_close: i64,
    candles: u64,
    gaps: u64,
    missing: u64,
    zero_volume: u64,
    jumps: u64,
    refused: u64,
    is_dry: bool,
    is_stalled: bool,
}

/// The agent.
pub(crate) struct Feed {
    source: CandleSource,
    wanted: Wanted,
    series: PerSeries<Watched>,
}

impl Feed {
    pub(crate) fn new(source: CandleSource, wanted: Wanted) -> Self {
        Self { source, wanted, series: PerSeries::default() }
    }

    fn candle(&mut self, event: &SeriesCandle, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let SeriesCandle { series, candle, scale } = event;
        if self.series.get(series).is_none() {
            cx.put(&format!("feed.series.{series}"), json!({ "first": candle.time, "scale": scale }))?;
        }
        let watched = self.series.entry(series, || Watched { first: candle.time, ..Watched::default() });
        let quality = |issue| Quality { series: series.clone(), time: candle.time, issue };
        if watched.candles > 0 {
            let interval = series.interval().millis();
            let missing = (candle.time - watched.last) / interval - 1;
            if missing > 0 {
                watched.gaps += 1;
                watched.missing += missing as u64;
                let from = watched.last + interval;
                cx.publish(Gap { series: series.clone(), from, to: candle.time, missing: missing as u64 })?;
            }
            if candle.open.abs_diff(watched.last_close) > (watched.last_close / JUMP_PART).unsigned_abs() {
                watched.jumps += 1;
                cx.publish(quality(QualityIssue::Jump))?;
            }
        }
        if candle.volume == 0 {
            watched.zero_volume += 1;
            if !watched.is_dry {
                cx.publish(quality(QualityIssue::ZeroVolume))?;
            }
        }
        watched.take(candle);
        self.stalled(series, event.known_at(), cx)
    }

    /// Looks whether another series has fallen silent.
    fn stalled(&mut self, spoke: &SeriesKey, now: i64, cx: &mut Context<'_>) -> Result<(), AgentError> {
        if self.wanted.series.len() < 2 {
            return Ok(());
        }
        let silent = |(series, watched): (&SeriesKey, &Watched)| {
            let interval = series.interval().millis();
            let is_silent = !watched.is_stalled && now - watched.last > (STALLED_AFTER + 1) * interval;
            (is_silent && series != spoke).then(|| series.clone())
        };
        let silent: Vec<SeriesKey> = self.series.iter().filter_map(silent).collect();
        for series in silent {
            if let Some(watched) = self.series.get_mut(&series) {
                watched.is_stalled = true;
                cx.publish(Stalled { last: watched.last, series })?;
            }
        }
        Ok(())
    }
}

impl Watched {
    fn take(&mut self, candle: &Candle) {
        self.candles += 1;
        self.last = candle.time;
        self.last_close = candle.close;
        self.is_dry = candle.volume == 0;
        self.is_stalled = false;
    }
}

#[async_trait]
impl Agent for Feed {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("feed")
            .source()
            .handles::<SeriesCandle>()
            .handles::<Quality>()
            .publishes::<SeriesCandle>()
            .publishes::<End>()
            .publishes::<Gap>()
            .publishes::<Quality>()
            .publishes::<Stalled>()
            .owns("feed.")
    }

    async fn start(&mut self, state: &StateReader<'_>) -> Result<(), AgentError> {
        self.series = PerSeries::load(state)?;
        Ok(())
    }

    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        if let Some(candle) = event.as_type::<SeriesCandle>()? {
            return self.candle(candle, cx);
        }
        if let Some(quality) = event.as_type::<Quality>()? {
            // Its own words do not come back to it: this is one that the source refused.
            self.series.entry(&quality.series, Watched::default).refused += 1;
        }
        Ok(())
    }

    fn source(&self, offsets: &Offsets) -> Option<Source> {
        Some(stream_of(&self.source, &self.wanted, offsets))
    }

    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        self.series.save(state)
    }

    fn query(&self, query: &Query) -> Result<Value, AgentError> {
        match query.name.as_str() {
            "status" => {
                let series: Vec<Value> =
                    self.series.iter().map(|(name, w)| json!({ "series": name, "watched": w })).collect();
                Ok(json!({ "series": series }))
            }
            other => Err(AgentError::new(format!("feed does not answer {other:?}; ask for status"))),
        }
    }
}
