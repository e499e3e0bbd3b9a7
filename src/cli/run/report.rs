//! What a run says at its end: where the file stands and what the desk made of it.

use std::path::Path;

use atra::{
    Filter, Read, Seq, SqliteReader,
    agents::{DeskReport, events::Promoted},
    bus::Interest,
    storage::digest,
};
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

/// A run that is over and stored.
pub(super) struct Finished<'a> {
    /// The portfolio's report.
    pub(super) figures: Option<Value>,
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
        let digest = digest(&*reader).await?.whole;
        let counts = reader.topic_counts().await?;
        let of = |topic: &str| counts.iter().find(|(name, _)| name == topic).map_or(0, |(_, n)| *n);
        let (candles, fills) = (of("market.candle"), of("order.fill"));
        // Parameters that are still the best when they expire are promoted once more, under their old version.
        let confirmed = if json { 0 } else { confirmed(&*reader).await };
        let parameters = [
            ("proposed", of("optimizer.proposed")),
            ("promoted", of("optimizer.promoted").saturating_sub(confirmed)),
            ("confirmed", confirmed),
            ("rejected", of("optimizer.rejected")),
            ("rolled back", of("optimizer.rolled_back")),
        ];
        let events = reader.last_seq().await?;
        let report: Option<DeskReport> = self.figures.clone().and_then(|value| serde_json::from_value(value).ok());
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
                "report": self.figures,
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
        for text in [format!("digest {digest}"), format!("file   {}", db.display())] {
            let text = out.paint(Style::Dim, &text);
            out.line(&text)?;
        }
        out.finish()
    }
}

/// Promotions that only lengthened what was in force; none if the journal was pruned and cannot tell.
async fn confirmed(db: &dyn Read) -> u64 {
    let promoted = events::<Promoted>(db).await.unwrap_or_default();
    promoted.iter().filter(|promoted| promoted.confirmed).count() as u64
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
