//! What a run says at its end: where the file stands and what the desk made of it.

use std::path::Path;

use atra::{
    Filter, Read, Seq, SqliteReader,
    agents::{DeskReport, events::Promoted},
    bus::Interest,
    storage::digest,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Ended;
use crate::cli::{
    error::CliError,
    market::export::events,
    output::{Output, SHORT_CHARS, Style, counted, grouped, short, shown},
};

/// Events read at once when they are counted.
const PAGE_EVENTS: usize = 4_096;

/// Events up to which the digest is part of the report. 3 million: some seconds.
const DIGESTED_EVENTS_MAX: u64 = 3_000_000;

/// The agents' counts from committed state; they remain after the journal is pruned.
pub(super) struct Figures {
    /// The portfolio's report.
    pub(super) report: Value,
    pub(super) fills: u64,
    /// The optimizer's decisions; `None` without an optimizer, or in a journal from a build that did not count them.
    pub(super) parameters: Option<Parameters>,
}

/// The optimizer's decisions.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct Parameters {
    proposed: u64,
    promoted: u64,
    /// Promotions that only extended the parameters in force, under their old version.
    confirmed: u64,
    rejected: u64,
    rolled_back: u64,
}

/// A run that is over and stored.
pub(super) struct Finished<'a> {
    pub(super) figures: Option<Figures>,
    /// Turns in this process.
    pub(super) turns: u64,
    /// The last seq before the run.
    pub(super) before: Seq,
    pub(super) began: Instant,
    pub(super) ended: &'a Ended,
    /// The series, or `simulated`.
    pub(super) market: &'a str,
    /// Of the simulated market.
    pub(super) seed: Option<u64>,
    /// Candles that the optimizer needs before it can choose parameters; `None` if the strategy is fixed.
    pub(super) chooses_after: Option<usize>,
}

impl Finished<'_> {
    /// Prints where it stands, from the file.
    pub(super) async fn tell(&self, db: &Path, json: bool) -> Result<(), CliError> {
        let reader = SqliteReader::open_read_only(db).await?;
        let n_events = reader.last_seq().await?.get().saturating_sub(reader.floor().await?.get());
        // The cost of this must not grow with the length of the journal.
        let is_small = n_events <= DIGESTED_EVENTS_MAX;
        let digest = if is_small { Some(digest(&*reader).await?.whole) } else { None };
        let figures = self.figures.as_ref();
        let report: Option<DeskReport> =
            figures.and_then(|figures| serde_json::from_value(figures.report.clone()).ok());
        let candles = report.as_ref().map_or(0, |report| report.candles);
        let fills = figures.map_or(0, |figures| figures.fills);
        let parameters = match figures.and_then(|figures| figures.parameters) {
            Some(parameters) => parameters,
            // An older build did not count; its remaining events in the journal are counted instead.
            None if !json && is_small && self.chooses_after.is_some() => decisions(&*reader).await?,
            None => Parameters::default(),
        };
        let Parameters { proposed, promoted, confirmed, rejected, rolled_back } = parameters;
        let parameters = [
            ("proposed", proposed),
            ("promoted", promoted),
            ("confirmed", confirmed),
            ("rejected", rejected),
            ("rolled back", rolled_back),
        ];
        let events = reader.last_seq().await?;
        let wall = self.began.elapsed();
        let mut out = Output::new(json);
        if json {
            // By way of its text, which is exact: the nearest number to it.
            let equity = report.as_ref().and_then(|report| report.equity.to_string().parse::<f64>().ok());
            out.json(&json!({
                "db": shown(db),
                "candles": candles,
                "agents": 7,
                "turns": self.turns,
                "events": events,
                "fills": fills,
                "equity": equity,
                "wall_ms": wall.as_millis() as u64,
                "digest": digest,
                "market": self.market,
                "ended": self.ended.name(),
                "report": figures.map(|figures| &figures.report),
            }))?;
            return out.finish();
        }
        if self.turns == 0 && matches!(self.ended, Ended::Idle) {
            out.line("nothing new: the journal already holds what these candles lead to")?;
        }
        let how = match self.ended {
            Ended::Idle => "settled",
            Ended::Signal => "stopped cleanly",
            Ended::Team(_) => "the team ended",
        };
        let new = if self.before > Seq::ZERO {
            format!(" ({} new)", grouped(new_events(&*reader, self.before, events).await?))
        } else {
            String::new()
        };
        let line = format!(
            "{how} after {:.2} s: {}, {}{new}, {}, {}",
            wall.as_secs_f64(),
            counted(candles, "candle"),
            counted(events.get(), "event"),
            counted(fills, "fill"),
            counted(self.turns, "turn")
        );
        let line = out.paint(Style::Bold, &line);
        out.line(&line)?;
        if let Some(report) = &report {
            out.line("")?;
            let market = self.seed.map_or_else(|| self.market.into(), |seed| format!("simulated, seed {seed}"));
            // Aligned with the rows of the report.
            out.line(&format!("  {:<22} {}", "market", short(&market, SHORT_CHARS)))?;
            if parameters.iter().any(|(_, n)| *n > 0) {
                let told: Vec<String> = parameters.iter().map(|(what, n)| format!("{} {what}", grouped(*n))).collect();
                out.line(&format!("  {:<22} {}", "parameters", told.join(", ")))?;
            } else if let Some(needed) = self.chooses_after {
                let why = format!("none yet: they are chosen after {} candles of a series", grouped(needed as u64));
                out.line(&format!("  {:<22} {why}; [desk] strategy fixes one", "parameters"))?;
            }
            out.text(&format!("{}\n", report.text().trim_end()))?;
            if self.seed.is_some() {
                out.line("The market was simulated: this says nothing about a real one.")?;
            }
        }
        out.line("")?;
        let digest =
            digest.unwrap_or_else(|| format!("left out at {} events; see 'atra db digest'", grouped(n_events)));
        for text in [format!("digest {digest}"), format!("file   {}", db.display())] {
            let text = out.paint(Style::Dim, &text);
            out.line(&text)?;
        }
        out.finish()
    }
}

/// The optimizer's decisions that are in the journal.
async fn decisions(db: &dyn Read) -> Result<Parameters, CliError> {
    let counts = db.topic_counts().await?;
    let of = |topic: &str| counts.of(topic);
    let (events, _) = events::<Promoted>(db, Seq::ZERO).await?;
    let confirmed = events.iter().filter(|promoted| promoted.confirmed).count() as u64;
    Ok(Parameters {
        proposed: of("optimizer.proposed"),
        promoted: of("optimizer.promoted").saturating_sub(confirmed),
        confirmed,
        rejected: of("optimizer.rejected"),
        rolled_back: of("optimizer.rolled_back"),
    })
}

/// Events of this run, without the runtime's own: those that a start and a stop make are no news.
async fn new_events(db: &dyn Read, before: Seq, last: Seq) -> Result<u64, CliError> {
    let Ok(own) = Filter::new("sys.>") else { return Ok(0) };
    let own = Interest::in_topics(vec![own]);
    let (mut after, mut n_own) = (before, 0);
    while after < last {
        let (events, complete) = db.journal(after, last, &own, PAGE_EVENTS).await?;
        n_own += events.len() as u64;
        if complete <= after {
            break;
        }
        after = complete;
    }
    Ok(last.get().saturating_sub(before.get()).saturating_sub(n_own))
}
