//! What a person sees while a desk runs: a line of figures, and above it what was decided.
//!
//! Everything comes from outside the team, through subscriptions: watching changes nothing and can be slow. On standard
//! error only; a terminal gets one line that renews itself, anything else a plain line now and then.

use std::{collections::BTreeMap, io::IsTerminal, sync::Arc, time::Duration};

use atra::{
    Env, Event, Filter, Runtime, Seq, SystemEnv, Topic,
    agents::{
        events::{Equity, Halt, PositionChanged, StateChanged},
        market::{candle::SeriesKey, money::Money},
    },
    bus::Task,
    config::Config,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::phrase::{Scales, amount};
use crate::cli::{
    escape::escaped,
    layout::cut,
    output::{columns, grouped, short},
    stderr::note,
    time::{Moment, clock},
};

/// How often the figures are renewed. A second: a person reads no faster.
const EVERY: Duration = Duration::from_secs(1);
/// What is worth a line of its own.
const NOTABLE: [&str; 8] = [
    "order.fill",
    "risk.state",
    "optimizer.promoted",
    "optimizer.rolled_back",
    "market.gap",
    "market.stalled",
    "market.end",
    "portfolio.report",
];
/// Lines of events a second; what comes faster is counted. 8: as many as can be read.
const LINES_PER_TICK: u32 = 8;
/// The longest description of what is halted in the line of figures.
const HALT_CHARS: usize = 120;
/// Passing equity events that wait to be looked at; only the newest counts, so few.
const OBSERVED_MAX: usize = 64;

/// How long the view looks for what was committed before it was stopped. Half a second: a person does not mind.
const LAST_MAX: Duration = Duration::from_millis(500);
/// Without an event for so long there is none. 50 ms: they are in memory or one read away.
const LAST_GAP: Duration = Duration::from_millis(50);

/// The view; nothing is shown for programs or when nobody looks.
pub(super) struct Live(Option<(oneshot::Sender<()>, Task)>);

impl Live {
    /// Begins to show.
    pub(super) fn start(
        runtime: &Runtime,
        what: &str,
        config: &Config,
        before: Seq,
        json: bool,
        is_killed: bool,
    ) -> Self {
        if is_killed {
            note("atra: the last run did not stop cleanly; nothing acknowledged is lost");
        }
        if json {
            return Self(None);
        }
        let resumed =
            if before > Seq::ZERO { format!(", goes on after event {}", grouped(before.get())) } else { String::new() };
        note(&format!("atra: seven agents on {what} into {}{resumed}; Ctrl-C drains and reports", config.db.display()));
        let (stop, stopped) = oneshot::channel();
        let view = View::new(runtime.clone(), before, config.desk.lot_decimals);
        let task = SystemEnv::new().spawn("live view", Box::pin(view.run(stopped)));
        Self(Some((stop, task)))
    }

    /// Stops showing; the last line stays.
    pub(super) async fn stop(self) {
        if let Some((stop, task)) = self.0 {
            // It may have ended by itself with the runtime.
            let _ = stop.send(());
            task.join().await;
        }
    }
}

struct View {
    runtime: Runtime,
    bar: ProgressBar,
    after: Seq,
    candles: u64,
    fills: u64,
    equity: Option<Money>,
    positions: BTreeMap<SeriesKey, i64>,
    /// Everything that is halted.
    halts: Vec<Halt>,
    scales: Scales,
    lines_left: u32,
    n_unshown: u64,
}

impl View {
    fn new(runtime: Runtime, after: Seq, lot_decimals: u8) -> Self {
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        let state = runtime.memory().get("risk.state");
        let halts = state.and_then(|entry| Some(entry.get::<StateChanged>().ok()?.halts.clone())).unwrap_or_default();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        Self {
            runtime,
            bar,
            after,
            candles: 0,
            fills: 0,
            equity: None,
            positions: BTreeMap::new(),
            halts,
            scales: Scales::new(lot_decimals),
            lines_left: LINES_PER_TICK,
            n_unshown: 0,
        }
    }

    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let filters = NOTABLE.iter().chain(&["market.candle", "portfolio.position"]);
        let filters: Vec<Filter> = filters.filter_map(|text| Filter::new(text).ok()).collect();
        let mut committed = self.runtime.subscribe(filters, self.after);
        let equity = Topic::literal("portfolio.equity");
        let mut passing = self.runtime.observe(vec![Filter::exactly(&equity)], OBSERVED_MAX);
        let mut ticks = tokio::time::interval_at(Instant::now() + EVERY, EVERY);
        let mut last = (Instant::now(), 0);
        loop {
            tokio::select! {
                // Biased: the end first, then the tick, or a fast run would never show figures.
                biased;
                _ = &mut stopped => break,
                now = ticks.tick() => {
                    let rate = (self.candles - last.1) as f64 / (now - last.0).as_secs_f64().max(0.001);
                    last = (now, self.candles);
                    self.show(rate);
                }
                event = committed.next() => match event {
                    Some(Ok(event)) => {
                        self.after = event.seq;
                        self.take(&event.event);
                    }
                    // The runtime has ended, or its journal cannot be read, which it reports itself.
                    _ => break,
                },
                Some(event) = passing.next() => {
                    self.equity = event.payload.get::<Equity>().ok().map(|equity| equity.equity);
                }
            }
        }
        // What was committed before the stop and is still under way to here; the end among it.
        let upto = Instant::now() + LAST_MAX;
        while let Ok(Some(Ok(event))) = timeout(LAST_GAP, committed.next()).await {
            self.after = event.seq;
            self.take(&event.event);
            if Instant::now() > upto {
                break;
            }
        }
        self.bar.finish_and_clear();
    }

    fn take(&mut self, event: &Arc<Event>) {
        match event.topic.as_str() {
            "market.candle" => {
                self.candles += 1;
                self.scales.learn(event);
                return;
            }
            "portfolio.position" => {
                if let Ok(PositionChanged { series, lots, .. }) = event.payload.get() {
                    self.positions.insert(series.clone(), *lots);
                }
                return;
            }
            "order.fill" => self.fills += 1,
            "risk.state" => {
                if let Ok(StateChanged { halts, .. }) = event.payload.get() {
                    self.halts.clone_from(halts);
                }
            }
            _ => {}
        }
        // The end comes once, and is told however much came before it.
        let is_end = matches!(event.topic.as_str(), "market.end" | "portfolio.report");
        if self.lines_left == 0 && !is_end {
            self.n_unshown += 1;
            return;
        }
        self.lines_left = self.lines_left.saturating_sub(1);
        // The time of the line first, as in the log; the market's time is part of what is said.
        let now = clock(SystemEnv::new().now().millis());
        let time = Moment(event.time.millis()).to_string();
        let said = self.scales.phrase(event).unwrap_or_else(|| told(event));
        let text = format!("{now}  {:<22} {}  (market time {time})", event.topic.as_str(), short(&said, 120));
        self.say(&text);
    }

    fn show(&mut self, rate: f64) {
        if self.n_unshown > 0 {
            self.say(&format!("… and {} more decisions, see 'atra journal tail'", grouped(self.n_unshown)));
        }
        (self.lines_left, self.n_unshown) = (LINES_PER_TICK, 0);
        let states: Vec<String> =
            self.runtime.status().iter().map(|team| short(&format!("{} {}", team.team, team.state), 60)).collect();
        let equity = self.equity.map_or_else(|| "-".into(), amount);
        // The first that holds for all, or else of which series it is.
        let first = self.halts.iter().find(|halt| halt.series.is_none()).or(self.halts.first());
        let halted = first.map_or_else(String::new, |halt| {
            let more = self.halts.len() - 1;
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("; {}{more}", short(&halt.to_string(), HALT_CHARS))
        });
        let open: Vec<_> = self.positions.iter().filter(|(_, lots)| **lots != 0).collect();
        let position = match open.as_slice() {
            [] => "none".into(),
            [(series, lots)] => format!("{} {series}", self.scales.quantity(**lots)),
            open => format!("in {} series", open.len()),
        };
        let text = format!(
            "{} candles ({rate:.0}/s), {} events, {} fills, equity {equity}, position {position}, {}{halted}",
            grouped(self.candles),
            grouped(self.after.get()),
            grouped(self.fills),
            states.join(", ")
        );
        if self.bar.is_hidden() { note(&text) } else { self.bar.set_message(escaped(&text).into_owned()) }
    }

    /// A line that stays, above the one that renews itself.
    fn say(&self, text: &str) {
        if self.bar.is_hidden() {
            note(text);
        } else {
            self.bar.println(cut(&escaped(text), columns(&console::Term::stderr())));
        }
    }
}

/// A payload as `key value` pairs, without what names the event itself.
fn told(event: &Event) -> String {
    fn walk(value: &Value, text: &mut String) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields.iter().filter(|(key, value)| *key != "id" && !value.is_null()) {
                    if !value.is_object() {
                        text.push_str(&format!("{key} "));
                    }
                    walk(value, text);
                }
            }
            Value::String(value) => text.push_str(&format!("{value}  ")),
            other => text.push_str(&format!("{other}  ")),
        }
    }
    let mut text = String::new();
    walk(&event.payload.to_value().unwrap_or_default(), &mut text);
    text
}
