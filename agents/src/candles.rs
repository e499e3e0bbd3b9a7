//! Where the desk's candles come from: the series in the store, or a simulated market.
//!
//! Several series are merged by when their candles became known (open time + interval), ties by name. That order is
//! total, so how far the merge has come is one place in it, and the greatest offset of all series tells it: a resumed
//! desk takes exactly what comes after. A candle that appears before that place later (a series imported afterwards) is
//! passed over: what was decided without it is not decided again.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
    time::Duration,
};

use atra_bus::{Draft, Name, NameError, Timestamp};
use atra_runtime::{AgentError, Offsets, Source, SourceItem};
use atra_storage::{Block, Read};
use futures::stream;
use tokio::time::Instant;

use crate::{
    events::{End, Quality, QualityIssue},
    market::{
        block::{self, BlockError, block_start},
        candle::{Candle, Scale, SeriesCandle, SeriesKey},
        simulator::{PositionError, Simulator},
    },
};

/// Blocks read at once from a series: 4,096 candles, so that 64 series hold 12 MiB.
const PAGE_BLOCKS: usize = 4;
/// Where simulated time begins unless the configuration says otherwise: 2022-01-01T00:00:00 UTC.
pub const SIMULATED_FROM: i64 = 1_640_995_200_000;
/// The partition of the end's offset; no series has this name, since it has no dot.
const END_PARTITION: &str = "end";

/// Where candles come from.
#[derive(Clone)]
pub enum CandleSource {
    /// Columnar blocks of the series in a store, as [`blocks_of`] makes them.
    Store(Arc<dyn Read>),
    /// A market out of a seed.
    Simulator {
        /// All candles follow from it and from the names of the series.
        seed: u64,
        /// The series to simulate.
        series: Vec<SeriesKey>,
        /// Candles of each series; without end if `None`.
        candles: Option<u64>,
    },
}

impl std::fmt::Debug for CandleSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Store(_) => f.write_str("Store"),
            Self::Simulator { seed, series, candles } => {
                let mut debug = f.debug_struct("Simulator");
                debug.field("seed", seed).field("series", series).field("candles", candles).finish()
            }
        }
    }
}

/// The name under which a series' blocks are stored: `DOTUSDT-15m`, because names have no dots.
///
/// # Errors
/// None for a key within its limits; the type is the name's.
pub fn block_series(series: &SeriesKey) -> Result<Name, NameError> {
    Name::new(&format!("{}-{}", series.ticker(), series.interval()))
}

/// The series that blocks of this name belong to; `None` if they are not of candles.
#[must_use]
pub fn series_of(name: &Name) -> Option<SeriesKey> {
    let (ticker, interval) = name.as_str().rsplit_once('-')?;
    SeriesKey::new(ticker, interval.parse().ok()?).ok()
}

/// Sorted candles of a series as blocks for the store.
///
/// # Errors
/// [`BlockError`] if the candles are not sorted or not sane.
pub fn blocks_of(series: &SeriesKey, candles: &[Candle], scale: Scale) -> Result<Vec<Block>, BlockError> {
    let Ok(name) = block_series(series) else { return Ok(Vec::new()) };
    block::blocks(candles, series.interval())
        .map(|(start, candles)| {
            let data = block::encode(candles, scale)?.into();
            Ok(Block { series: name.clone(), start, rows: candles.len() as u32, data })
        })
        .collect()
}

/// The simulated market of a series, from the open time `from` on: what [`CandleSource::Simulator`] hands over.
pub fn simulator_of(seed: u64, series: &SeriesKey, from: i64) -> Simulator {
    // Each series has a market of its own; the name, not the place, makes it.
    let mix = |seed: u64, byte: u8| (seed ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    Simulator::new(series.as_str().bytes().fold(seed, mix), series.interval(), from)
}

/// What of the source is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Sorted by name.
    pub(crate) series: Vec<SeriesKey>,
    pub(crate) from: Option<i64>,
    pub(crate) to: Option<i64>,
    pub(crate) speed: Option<u32>,
    /// The open time from which on `speed` holds.
    pub(crate) speed_from: Option<i64>,
}

/// The stream of candles from the offsets on.
pub(crate) fn stream_of(source: &CandleSource, wanted: &Wanted, offsets: &Offsets) -> Source {
    let merge = Merge::new(source, wanted, offsets);
    Box::pin(stream::unfold(merge, |mut merge| async move { merge.next().await.map(|item| (item, merge)) }))
}

/// A place in the merged order.
type Place = (i64, Arc<str>);

/// The open time in an offset: `TIME`, `TIME!REFUSED` after a refused candle (`TIME!REFUSED!N` after the N-th), or
/// `TIME@POSITION` in a simulated market, where the position holds everything that later candles depend on.
fn time_of(offset: &str) -> Option<i64> {
    offset.split(['!', '@']).next()?.parse().ok()
}

/// Checks that a simulated market can continue after the offset of one of its series.
///
/// # Errors
/// [`PositionError`]: the candles so far were made by another formula, or the offset is damaged.
pub fn check_simulated(series: &SeriesKey, offset: &str) -> Result<(), PositionError> {
    simulated_behind(series, offset).map(drop)
}

/// The simulated market of a series after an offset. An offset without a position comes from the first formula, with
/// which every run generated all candles again.
fn simulated_behind(series: &SeriesKey, offset: &str) -> Result<Simulator, PositionError> {
    let Some((time, position)) = offset.split_once('@') else { return Err(PositionError::Formula { found: 1 }) };
    let time: i64 = time.parse().map_err(|_| PositionError::Text { text: offset.chars().take(80).collect() })?;
    let interval = series.interval();
    Simulator::resume(position, interval, time.saturating_add(interval.millis()))
}

fn resumed_at(offsets: &Offsets) -> Option<Place> {
    let place = |(partition, offset): (&str, &str)| {
        let series: SeriesKey = partition.parse().ok()?;
        Some((time_of(offset)?.saturating_add(series.interval().millis()), Arc::from(partition)))
    };
    offsets.iter().filter_map(place).max()
}

// === one series ===

enum Supply {
    Blocks {
        store: Arc<dyn Read>,
        name: Name,
        next_start: i64,
    },
    Simulated {
        simulator: Simulator,
        left: Option<u64>,
    },
    /// A simulated market that cannot be continued.
    Refused(PositionError),
}

struct Lane {
    series: SeriesKey,
    partition: Arc<str>,
    supply: Supply,
    scale: Scale,
    ready: VecDeque<Candle>,
    /// Open time of the last candle that was handed over.
    last: Option<i64>,
    /// Candles that were refused since then.
    refused: u64,
}

impl Lane {
    fn new(
        source: &CandleSource,
        wanted: &Wanted,
        series: &SeriesKey,
        offset: Option<&str>,
        resumed: Option<&Place>,
    ) -> Option<Self> {
        let interval = series.interval();
        // The first open time that can be wanted: one before is passed over by `is_wanted`.
        let after = resumed.map_or(i64::MIN, |(known_at, _)| known_at.saturating_sub(interval.millis()));
        let supply = match source {
            CandleSource::Store(store) => Supply::Blocks {
                store: store.clone(),
                name: block_series(series).ok()?,
                next_start: block_start(after.max(wanted.from.unwrap_or(i64::MIN)), interval),
            },
            CandleSource::Simulator { seed, candles, .. } => {
                let from = wanted.from.unwrap_or(SIMULATED_FROM);
                match offset.map(|offset| (simulated_behind(series, offset), time_of(offset))) {
                    None => Supply::Simulated { simulator: simulator_of(*seed, series, from), left: *candles },
                    Some((Ok(simulator), last)) => {
                        let last = last.unwrap_or(from).max(from);
                        let taken = (last - from).unsigned_abs() / interval.millis().unsigned_abs() + 1;
                        Supply::Simulated { simulator, left: candles.map(|candles| candles.saturating_sub(taken)) }
                    }
                    Some((Err(error), _)) => Supply::Refused(error),
                }
            }
        };
        Some(Self {
            series: series.clone(),
            partition: series.as_str().into(),
            supply,
            scale: Simulator::scale(),
            ready: VecDeque::new(),
            last: None,
            refused: 0,
        })
    }

    fn known_at(&self, candle: &Candle) -> i64 {
        candle.time.saturating_add(self.series.interval().millis())
    }

    /// The offset of a candle that is delivered.
    fn offset(&self, candle: &Candle) -> String {
        match &self.supply {
            Supply::Simulated { simulator, .. } => format!("{}@{}", candle.time, simulator.position()),
            Supply::Blocks { .. } | Supply::Refused(_) => candle.time.to_string(),
        }
    }

    /// Makes sure that a candle is ready, if there is one.
    async fn fill(&mut self, wanted: &Wanted, resumed: Option<&Place>) -> Result<(), AgentError> {
        while self.ready.is_empty() {
            let (candles, is_last) = self.page().await?;
            let is_past = candles.last().is_some_and(|last| wanted.to.is_some_and(|to| last.time >= to));
            let is_wanted = |candle: &Candle| {
                wanted.from.is_none_or(|from| candle.time >= from)
                    && wanted.to.is_none_or(|to| candle.time < to)
                    && resumed.is_none_or(|(at, series)| (self.known_at(candle), &*self.partition) > (*at, &**series))
            };
            let candles: Vec<Candle> = candles.into_iter().filter(is_wanted).collect();
            self.ready.extend(candles);
            if is_last || is_past {
                break;
            }
        }
        Ok(())
    }

    /// The next candles, and whether they are the last ones.
    async fn page(&mut self) -> Result<(Vec<Candle>, bool), AgentError> {
        match &mut self.supply {
            Supply::Blocks { store, name, next_start } => {
                let blocks = store.blocks(name, *next_start, i64::MAX, PAGE_BLOCKS).await?;
                let mut candles = Vec::new();
                for block in &blocks {
                    let scale = block::decode_into(&block.data, &mut candles)
                        .map_err(|error| AgentError::new(format!("block {} of {name}: {error}", block.start)))?;
                    self.scale = scale;
                    *next_start = block.start.saturating_add(1);
                }
                Ok((candles, blocks.len() < PAGE_BLOCKS))
            }
            // One candle at a time, so that the position is the one after the delivered candle.
            Supply::Simulated { left: Some(0), .. } => Ok((Vec::new(), true)),
            Supply::Simulated { simulator, left } => {
                if let Some(left) = left {
                    *left -= 1;
                }
                Ok((simulator.take(1).collect(), *left == Some(0)))
            }
            Supply::Refused(error) => Err(AgentError::new(format!("{}: {error}", self.series))),
        }
    }
}

// === all series ===

struct Merge {
    lanes: Vec<Lane>,
    wanted: Wanted,
    resumed: Option<Place>,
    /// Next candle of each lane that has one: (known at, place of the lane), least first. Lanes are sorted by name.
    heads: BinaryHeap<Reverse<(i64, usize)>>,
    is_begun: bool,
    /// When the last candle became known, of this run or the runs before.
    last_known_at: Option<i64>,
    /// The end that was told before.
    end_told: Option<String>,
    stage: Stage,
    paced: Option<(Instant, u64)>,
}

/// `Candles → (End told →) Over`
#[derive(PartialEq)]
enum Stage {
    Candles,
    EndTold,
    Over,
}

impl Merge {
    fn new(source: &CandleSource, wanted: &Wanted, offsets: &Offsets) -> Self {
        let resumed = resumed_at(offsets);
        let lane =
            |series: &SeriesKey| Lane::new(source, wanted, series, offsets.get(series.as_str()), resumed.as_ref());
        let lanes = wanted.series.iter().filter_map(lane);
        Self {
            lanes: lanes.collect(),
            wanted: wanted.clone(),
            last_known_at: resumed.as_ref().map(|(known_at, _)| *known_at),
            resumed,
            heads: BinaryHeap::new(),
            is_begun: false,
            end_told: offsets.get(END_PARTITION).map(str::to_owned),
            stage: Stage::Candles,
            paced: None,
        }
    }

    async fn next(&mut self) -> Option<Result<SourceItem, AgentError>> {
        match self.stage {
            Stage::Candles => match self.candle().await {
                Ok(Some(item)) => Some(Ok(item)),
                Ok(None) => Some(Ok(self.end())),
                Err(error) => {
                    self.stage = Stage::Over;
                    Some(Err(error))
                }
            },
            Stage::EndTold => {
                self.stage = Stage::Over;
                Some(Ok(SourceItem::End))
            }
            Stage::Over => None,
        }
    }

    async fn candle(&mut self) -> Result<Option<SourceItem>, AgentError> {
        if !std::mem::replace(&mut self.is_begun, true) {
            for place in 0..self.lanes.len() {
                self.refill(place).await?;
            }
        }
        let Some(Reverse((_, place))) = self.heads.pop() else { return Ok(None) };
        let Some(next) = self.lanes[place].ready.front() else { return Ok(None) };
        if self.wanted.speed_from.is_none_or(|from| next.time >= from) {
            self.pace().await;
        }
        let lane = &mut self.lanes[place];
        let Some(candle) = lane.ready.pop_front() else { return Ok(None) };
        let (partition, scale) = (lane.partition.clone(), lane.scale);
        let item = match lane.last.filter(|last| candle.time <= *last) {
            Some(last) => {
                let refused =
                    Quality { series: lane.series.clone(), time: candle.time, issue: QualityIssue::OutOfOrder };
                let event = Draft::from(refused).at(Timestamp(self.last_known_at.unwrap_or(candle.time)));
                lane.refused += 1;
                // An offset is unique: the same candle may be refused several times in a row.
                let offset = match lane.refused {
                    1 => format!("{last}!{}", candle.time),
                    n => format!("{last}!{}!{n}", candle.time),
                };
                SourceItem::Input { event, partition, offset }
            }
            None => {
                (lane.last, lane.refused) = (Some(candle.time), 0);
                let known_at = lane.known_at(&candle);
                self.last_known_at = Some(self.last_known_at.map_or(known_at, |last| last.max(known_at)));
                let event = Draft::from(SeriesCandle { series: lane.series.clone(), scale, candle });
                SourceItem::Input { event: event.at(Timestamp(known_at)), partition, offset: lane.offset(&candle) }
            }
        };
        self.refill(place).await?;
        Ok(Some(item))
    }

    async fn refill(&mut self, place: usize) -> Result<(), AgentError> {
        let lane = &mut self.lanes[place];
        if lane.ready.is_empty() {
            lane.fill(&self.wanted, self.resumed.as_ref()).await?;
        }
        if let Some(candle) = lane.ready.front() {
            let known_at = lane.known_at(candle);
            // A candle that is out of order is refused at once, not when its time would come.
            let at = lane.last.map_or(known_at, |last| known_at.max(last));
            self.heads.push(Reverse((at, place)));
        }
        Ok(())
    }

    /// The end is an input too, unless it was told at this very place before.
    fn end(&mut self) -> SourceItem {
        let offset = self.last_known_at.map_or_else(String::new, |at| at.to_string());
        if self.end_told.as_ref() == Some(&offset) {
            self.stage = Stage::Over;
            return SourceItem::End;
        }
        self.stage = Stage::EndTold;
        let event = Draft::from(End { last_known_at: self.last_known_at });
        let event = event.at(Timestamp(self.last_known_at.unwrap_or_default()));
        SourceItem::Input { event, partition: END_PARTITION.into(), offset }
    }

    /// Waits until the next candle may go, counted from the first one, so that pauses do not add up.
    async fn pace(&mut self) {
        let Some(speed) = self.wanted.speed.filter(|speed| *speed > 0) else { return };
        let (began, n) = self.paced.get_or_insert_with(|| (Instant::now(), 0));
        let due = *began + Duration::from_nanos((*n).saturating_mul(1_000_000_000 / u64::from(speed)));
        *n += 1;
        tokio::time::sleep_until(due).await;
    }
}
