//! What a run says at its end: where the file stands and what the desk made of it.

use std::path::Path;

use atra::{Seq, SqliteReader, agents::DeskReport, storage::digest};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Ended;
use crate::cli::{
    error::CliError,
    output::{Output, Style, grouped},
};

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
}

impl Finished<'_> {
    /// Prints where it stands, from the file.
    pub(super) async fn tell(&self, db: &Path, json: bool) -> Result<(), CliError> {
        let reader = SqliteReader::open_read_only(db).await?;
        let digest = digest(&*reader).await?.whole;
        let counts = reader.topic_counts().await?;
        let of = |topic: &str| counts.iter().find(|(name, _)| name == topic).map_or(0, |(_, n)| *n);
        let (candles, fills) = (of("market.candle"), of("order.fill"));
        let events = reader.last_seq().await?;
        let report: Option<DeskReport> = self.figures.clone().and_then(|value| serde_json::from_value(value).ok());
        let wall = self.began.elapsed();
        let mut out = Output::new(json);
        if json {
            // By way of its text, which is exact: the nearest number to it.
            let equity = report.as_ref().and_then(|report| report.equity.to_string().parse::<f64>().ok());
            out.json(&json!({
                "candles": candles,
                "agents": 7,
                "turns": self.turns,
                "events": events,
                "fills": fills,
                "equity": equity,
                "wall_ms": wall.as_millis() as u64,
                "digest": digest,
            }))?;
            return out.finish();
        }
        if self.turns == 0 {
            out.line("nothing new: the journal already holds what these candles lead to")?;
        }
        let how = match self.ended {
            Ended::Idle => "settled",
            Ended::Signal => "stopped cleanly",
            Ended::Team(_) => "the team ended",
        };
        let new = grouped(events.get() - self.before.get().min(events.get()));
        let line = format!(
            "{how} after {:.2} s: {} candles, {} events ({new} new), {} fills, {} turns",
            wall.as_secs_f64(),
            grouped(candles),
            grouped(events.get()),
            grouped(fills),
            grouped(self.turns)
        );
        let line = out.paint(Style::Bold, &line);
        out.line(&line)?;
        if let Some(report) = &report {
            out.line("")?;
            out.line(report.text().trim_end())?;
        }
        out.line("")?;
        let digest = out.paint(Style::Dim, &format!("digest {digest}\nfile   {}", db.display()));
        out.line(&digest)?;
        out.finish()
    }
}
