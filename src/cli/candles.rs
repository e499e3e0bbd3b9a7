//! Series of candles as they lie in a database: their names, and how new candles join old ones.

use std::{borrow::Cow, collections::BTreeMap, ops::Range};

use atra::{
    Name, Read,
    agents::{
        candles::{block_series, series_of},
        market::{
            block::{self, MergeReport, merge},
            candle::{Candle, Interval, Scale, SeriesKey},
        },
    },
    storage::{Block, FactKind},
};
use serde_json::Value;

use super::{error::CliError, time::Moment};

/// Blocks read at once: a year of quarter hours in 35, so one read for most series.
const PAGE_BLOCKS: usize = 512;

/// A series in a database, with how many candles it has.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) key: SeriesKey,
    pub(crate) candles: u64,
    /// Where its first and its last block begin.
    blocks: (i64, i64),
}

/// Every series of candles, sorted by name.
pub(crate) async fn series(db: &dyn Read) -> Result<Vec<Stored>, CliError> {
    let rows = db.series().await?;
    let stored = |row: &atra::storage::SeriesRow| {
        Some(Stored { key: series_of(&row.series)?, candles: row.rows, blocks: (row.first_start, row.last_start) })
    };
    Ok(rows.iter().filter_map(stored).collect())
}

/// Open times of a series' first and last candle: two of its blocks are read.
pub(crate) async fn span(db: &dyn Read, series: &Stored) -> Result<Option<(i64, i64)>, CliError> {
    let name = block_series(&series.key)?;
    let mut ends = Vec::new();
    for start in [series.blocks.0, series.blocks.1] {
        for block in db.blocks(&name, start, i64::MAX, 1).await? {
            let bad = |source| CliError::Block { series: series.key.to_string(), start, source };
            let (candles, _) = block::decode(&block.data).map_err(bad)?;
            ends.extend(candles.first().map(|candle| candle.time));
            ends.extend(candles.last().map(|candle| candle.time));
        }
    }
    Ok(ends.first().copied().zip(ends.last().copied()))
}

/// How the ticks of a series are counted: as its feed has said, also of a simulated one, or else as its blocks are.
pub(crate) async fn scale(db: &dyn Read, series: &SeriesKey) -> Result<Scale, CliError> {
    let feed = Name::new("feed")?;
    let said = db.fact(FactKind::Memory, &feed, &format!("feed.series.{series}")).await?;
    let said: Option<Value> = said.and_then(|fact| serde_json::from_str(&fact.value?).ok());
    if let Some(scale) = said.and_then(|said| serde_json::from_value(said["scale"].clone()).ok()) {
        return Ok(scale);
    }
    let Some(block) = db.blocks(&block_series(series)?, i64::MIN, i64::MAX, 1).await?.pop() else {
        return Ok(Scale::default());
    };
    let bad = |source| CliError::Block { series: series.to_string(), start: block.start, source };
    Ok(block::decode(&block.data).map_err(bad)?.1)
}

/// The series that are wanted; a name that is not there is an error that says which are.
pub(crate) fn choose(
    stored: &[Stored],
    wanted: &[String],
    interval: Option<Interval>,
) -> Result<Vec<Stored>, CliError> {
    let suits = |row: &&Stored| interval.is_none_or(|interval| row.key.interval() == interval);
    let names = |rows: &[Stored]| rows.iter().take(20).map(|row| row.key.to_string()).collect::<Vec<_>>().join(", ");
    for name in wanted {
        if stored.iter().any(|row| row.key.as_str() == name || row.key.ticker() == name) {
            continue;
        }
        let score = |row: &&Stored| strsim::jaro_winkler(row.key.ticker(), &name.to_ascii_uppercase());
        let nearest = stored.iter().max_by(|a, b| score(a).total_cmp(&score(b)));
        let nearest = nearest.map_or_else(String::new, |row| format!("; did you mean {}?", row.key.ticker()));
        return Err(CliError::NotFound {
            what: format!("there is no ticker {name:?} in the database{nearest}"),
            next: format!("it has {}; import others with 'atra import candles'", names(stored)),
        });
    }
    let is_wanted = |row: &&Stored| {
        wanted.is_empty() || wanted.iter().any(|name| row.key.as_str() == name || row.key.ticker() == name)
    };
    let chosen: Vec<Stored> = stored.iter().filter(is_wanted).filter(suits).cloned().collect();
    if chosen.is_empty() {
        let interval = interval.map_or_else(String::new, |interval| interval.to_string());
        return Err(CliError::NotFound {
            what: format!("there are no candles of {interval} for what is wanted"),
            next: format!("the database has {}", names(stored)),
        });
    }
    Ok(chosen)
}

/// All candles of a series that is there, and their scale.
pub(crate) async fn load(db: &dyn Read, series: &SeriesKey) -> Result<(Vec<Candle>, Scale), CliError> {
    let (candles, _) = read(db, series, &block_series(series)?).await?;
    Ok(candles.unwrap_or_default())
}

/// Which of sorted candles open at `from` or later and before `to`; an error that says what there is, if none does.
pub(crate) fn within(
    series: &SeriesKey,
    candles: &[Candle],
    from: Option<i64>,
    to: Option<i64>,
) -> Result<Range<usize>, CliError> {
    let place = |time: i64| candles.partition_point(|candle| candle.time < time);
    let (first, end) = (from.map_or(0, place), to.map_or(candles.len(), place));
    if first < end {
        return Ok(first..end);
    }
    let span = candles.first().zip(candles.last());
    let next = span.map_or_else(
        || "import some with 'atra import candles'".into(),
        |(a, b)| format!("its candles open from {} to {}", Moment(a.time), Moment(b.time)),
    );
    Err(CliError::NotFound { what: format!("{series} has no candles in that span"), next })
}

/// What joining candles to a series would write, and what it found.
pub(crate) struct Joined {
    /// Blocks that differ from what is stored.
    pub(crate) blocks: Vec<Block>,
    pub(crate) report: MergeReport,
}

/// Joins sorted candles to what the database has of the series. Writes nothing. What is stored wins over what is new;
/// a finer scale rewrites the whole series, so that all its ticks are counted alike.
pub(crate) async fn join(db: &dyn Read, series: &SeriesKey, new: &[Candle], scale: Scale) -> Result<Joined, CliError> {
    let name = block_series(series)?;
    let (old, stored) = read(db, series, &name).await?;
    let old_scale = old.as_ref().map(|(_, scale)| *scale);
    let common = old_scale.map_or(scale, |old| old.widest(scale));
    let old = old.map_or_else(Vec::new, |(candles, _)| candles);
    let (old, new) =
        (rescaled(series, &old, old_scale.unwrap_or(common), common)?, rescaled(series, new, scale, common)?);
    // Millions of candles are not copied for nothing.
    let (merged, report) = if old.is_empty() {
        let report = MergeReport { added: new.len(), ..MergeReport::default() };
        (new, report)
    } else {
        let (merged, report) = merge(&old, &new);
        (Cow::Owned(merged), report)
    };
    let mut blocks = Vec::new();
    for (start, candles) in block::blocks(&merged, series.interval()) {
        let bad = |source| CliError::Block { series: series.to_string(), start, source };
        let data: std::sync::Arc<[u8]> = block::encode(candles, common).map_err(bad)?.into();
        if stored.get(&start) != Some(&data) {
            blocks.push(Block { series: name.clone(), start, rows: candles.len() as u32, data });
        }
    }
    Ok(Joined { blocks, report })
}

/// Candles in another scale; themselves, if it is the one that they have.
fn rescaled<'a>(
    series: &SeriesKey,
    candles: &'a [Candle],
    from: Scale,
    to: Scale,
) -> Result<Cow<'a, [Candle]>, CliError> {
    if from == to {
        return Ok(Cow::Borrowed(candles));
    }
    let all: Option<Vec<Candle>> = candles.iter().map(|candle| candle.rescale(from, to)).collect();
    all.map(Cow::Owned).ok_or_else(|| CliError::NotFound {
        what: format!("candles of {series} do not fit one scale of {to:?}"),
        next: "import the file under another ticker".into(),
    })
}

/// The stored bytes of a series by block.
type StoredBlocks = BTreeMap<i64, std::sync::Arc<[u8]>>;

/// All candles of a series with the widest scale of its blocks, and the blocks' bytes.
async fn read(
    db: &dyn Read,
    series: &SeriesKey,
    name: &Name,
) -> Result<(Option<(Vec<Candle>, Scale)>, StoredBlocks), CliError> {
    let mut stored = StoredBlocks::new();
    let mut from = i64::MIN;
    loop {
        let page = db.blocks(name, from, i64::MAX, PAGE_BLOCKS).await?;
        let n_blocks = page.len();
        for block in page {
            from = block.start.saturating_add(1);
            stored.insert(block.start, block.data);
        }
        if n_blocks < PAGE_BLOCKS {
            break;
        }
    }
    let mut runs = Vec::with_capacity(stored.len());
    for (&start, data) in &stored {
        let bad = |source| CliError::Block { series: series.to_string(), start, source };
        runs.push((start, block::decode(data).map_err(bad)?));
    }
    let widest = runs.iter().map(|(_, (_, scale))| *scale).reduce(Scale::widest);
    let Some(widest) = widest else { return Ok((None, stored)) };
    let mut all = Vec::new();
    for (start, (candles, scale)) in runs {
        let fits: Option<Vec<Candle>> = candles.iter().map(|candle| candle.rescale(scale, widest)).collect();
        let source = || block::BlockError::TooMany { count: candles.len(), limit: block::ENCODE_CANDLES_MAX };
        all.extend(fits.ok_or_else(|| CliError::Block { series: series.to_string(), start, source: source() })?);
    }
    Ok((Some((all, widest)), stored))
}
