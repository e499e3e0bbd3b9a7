//! `atra journal`: events as they were committed.

use std::{
    fs::Metadata,
    path::{Path, PathBuf},
    time::Duration,
};

use atra::{
    Filter, Read, Seq, Timestamp,
    agents::market::candle::{Scale, SeriesKey},
    bus::Interest,
};
use serde_json::Value;

use super::{
    args::{ShowArgs, TailArgs},
    candles, db_of,
    error::CliError,
    events::{EventJson, line},
    open,
    output::Output,
    stderr::note,
    stop,
    time::Moment,
};

/// How often a followed file is looked at. Nothing tells another process of a commit; a quarter of a second is at once
/// for a person and costs nothing.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);
/// Events read at once while following.
const PAGE_EVENTS: usize = 1_024;
/// Events shown if nothing is said.
const LINES: usize = 20;
/// The exit code when the followed journal no longer exists.
const ENDED: u8 = 3;

/// Pieces of the journal that are looked through for the newest events without --all. 128: about a second; only where
/// the topic index does not say where the events are.
const PIECES_MAX: usize = 128;

/// Shows the newest events, and with `--follow` what comes.
pub(crate) async fn tail(args: &TailArgs, out: &mut Output) -> Result<(), CliError> {
    if args.follow && args.after.is_some() && args.lines.is_some() {
        let what = "--follow shows everything after --after, so -n has no effect".into();
        return Err(CliError::Usage { what, next: "leave out -n, --after or --follow" });
    }
    let path = db_of(&args.db)?;
    // Before the file is opened, so that a replacement in the meantime is noticed.
    let followed = Followed::look(&path);
    let db = open(&path).await?;
    let interest = interest(&args.topic)?;
    let (generation, mut upto) = (db.generation().await?, db.last_seq().await?);
    let lines = args.lines.unwrap_or(LINES);
    match &args.after {
        // Everything else is printed while following.
        Some(after) if args.follow => upto = after.seq(&*db).await?,
        Some(after) => drop(print_after(&*db, &interest, after.seq(&*db).await?, upto, lines, out).await?),
        None => print_last(&*db, &interest, upto, lines, args.all, out).await?,
    }
    if args.follow { follow(&*db, &interest, upto, &followed, generation, out).await } else { Ok(()) }
}

/// Prints the last `lines` events up to `upto`: page by page back to the first one, then forth, so that one page is held at
/// a time. Fixed at its end: what is committed meanwhile belongs to what follows.
async fn print_last(
    db: &dyn Read,
    interest: &Interest,
    upto: Seq,
    lines: usize,
    is_all: bool,
    out: &mut Output,
) -> Result<(), CliError> {
    let (mut pages, mut before, mut left, mut n_empty) = (Vec::new(), upto.next(), lines, 0);
    while left > 0 && before > Seq(1) {
        let (page, after) = db.journal_before(before, interest, left.min(PAGE_EVENTS)).await?;
        if !page.is_empty() {
            pages.push((before, page.len()));
        }
        n_empty += usize::from(page.is_empty());
        if n_empty > PIECES_MAX && !is_all {
            note(&format!("atra: searched events {} and later; use --all to search all", after.next()));
            break;
        }
        (before, left) = (after.next(), left - page.len());
    }
    for (before, n_events) in pages.into_iter().rev() {
        print(&db.journal_before(before, interest, n_events).await?.0, out)?;
    }
    Ok(())
}

/// Prints at most `lines` events behind `after`, and gives the seq up to which nothing was left out.
async fn print_after(
    db: &dyn Read,
    interest: &Interest,
    mut after: Seq,
    upto: Seq,
    lines: usize,
    out: &mut Output,
) -> Result<Seq, CliError> {
    let mut left = lines;
    while left > 0 && after < upto {
        // A page may have fewer events than asked for and yet not be the last.
        let (events, complete) = db.journal(after, upto, interest, left.min(PAGE_EVENTS)).await?;
        print(&events, out)?;
        left -= events.len();
        after = complete;
    }
    Ok(after)
}

/// Prints new events until a signal, which is the usual end, or until the journal no longer exists.
async fn follow(
    db: &dyn Read,
    interest: &Interest,
    mut after: Seq,
    followed: &Followed,
    generation: u64,
    out: &mut Output,
) -> Result<(), CliError> {
    let mut ticks = tokio::time::interval(FOLLOW_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !stop::is_asked() {
        // Also what tells that the reader has gone away.
        out.finish()?;
        let (events, upto) = db.journal(after, Seq(u64::MAX), interest, PAGE_EVENTS).await?;
        // Checked after the read: events read before a change belong to the old journal.
        if db.generation().await? != generation || db.last_seq().await? < after {
            return Err(followed.ended("its journal was begun again"));
        }
        print(&events, out)?;
        let is_more = upto > after;
        after = upto.max(after);
        if is_more {
            continue;
        }
        out.finish()?;
        followed.check()?;
        tokio::select! {
            // Biased: the end first.
            biased;
            () = stop::asked() => {}
            _ = ticks.tick() => {}
        }
    }
    Ok(())
}

/// The followed file, even if its name later leads to another file.
struct Followed {
    path: PathBuf,
    file: Option<(u64, u64)>,
}

impl Followed {
    fn look(path: &Path) -> Self {
        Self { path: path.to_owned(), file: std::fs::metadata(path).ok().as_ref().map(identity) }
    }

    /// Fails if the path no longer leads to the file.
    fn check(&self) -> Result<(), CliError> {
        match std::fs::metadata(&self.path) {
            Err(_) => Err(self.ended("it was deleted or moved away")),
            Ok(file) if Some(identity(&file)) != self.file => Err(self.ended("it was replaced by another file")),
            Ok(_) => Ok(()),
        }
    }

    fn ended(&self, why: &str) -> CliError {
        let what = format!("cannot continue to follow {}: {why}", self.path.display());
        CliError::Verdict { what, next: "run the command again to follow the present journal".into(), code: ENDED }
    }
}

/// Device and number of a file.
#[cfg(unix)]
fn identity(file: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    (file.dev(), file.ino())
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> (u64, u64) {
    (0, 0)
}

fn print(events: &[atra::Committed], out: &mut Output) -> Result<(), CliError> {
    for committed in events {
        if out.is_json() {
            out.json(&EventJson::new(committed)?)?;
        } else {
            let text = line(committed, out);
            out.row(&text)?;
        }
    }
    Ok(())
}

/// The prices of a payload of the market desk as people write them: the payload itself has whole ticks.
async fn prices(payload: &Value, db: &dyn Read) -> Result<Option<String>, CliError> {
    let Some(series) = payload["series"].as_str().and_then(|name| name.parse::<SeriesKey>().ok()) else {
        return Ok(None);
    };
    let scale = match serde_json::from_value(payload["scale"].clone()) {
        Ok(scale) => scale,
        Err(_) => candles::scale(db, &series).await?,
    };
    let mut found = Vec::new();
    priced(payload, scale, &mut found);
    Ok((!found.is_empty()).then(|| found.join(", ")))
}

fn priced(value: &Value, scale: Scale, found: &mut Vec<String>) {
    const PRICES: [&str; 4] = ["price", "close", "entry_price", "exit_price"];
    let Some(fields) = value.as_object() else { return };
    for (name, value) in fields {
        match (value.as_i64(), value.as_array()) {
            (Some(ticks), _) if PRICES.contains(&name.as_str()) => {
                found.push(format!("{} {}", name.replace('_', " "), scale.price(ticks as f64)));
            }
            (_, Some(candle)) if name == "ohlcv" => {
                let mut numbers = candle.iter().filter_map(Value::as_i64);
                for (name, ticks) in ["open", "high", "low", "close"].into_iter().zip(numbers.clone()) {
                    found.push(format!("{name} {}", scale.price(ticks as f64)));
                }
                found.extend(numbers.next_back().map(|lots| format!("volume {}", scale.volume(lots))));
            }
            _ => priced(value, scale, found),
        }
    }
}

fn interest(topics: &[String]) -> Result<Interest, CliError> {
    let filter = |text: &String| {
        let next = "a filter is a topic such as order.fill, with * for one token and > for the rest";
        Filter::new(text).map_err(|error| CliError::Usage { what: error.to_string(), next })
    };
    let filters: Vec<Filter> = topics.iter().map(filter).collect::<Result<_, _>>()?;
    Ok(Interest::in_topics(if filters.is_empty() { vec![Filter::all()] } else { filters }))
}

/// Shows one event whole.
pub(crate) async fn show(args: &ShowArgs, out: &mut Output) -> Result<(), CliError> {
    let db = open(&db_of(&args.db)?).await?;
    let committed = args.event.find(&*db).await?;
    let committed_at = db.commit_time(committed.seq).await?.map(|at| at.wall);
    if out.is_json() {
        return out.json(&EventJson::new(&committed)?.committed_at(committed_at));
    }
    let event = &committed.event;
    let moment = |at: Timestamp| format!("{} ({at} ms)", Moment(at.millis()));
    let seq = |seq: Option<Seq>| seq.map_or_else(|| "none".into(), |seq| format!("#{seq}"));
    let payload = event.payload.to_value().ok();
    let mut pairs = vec![
        ("seq", format!("#{}", committed.seq)),
        ("topic", format!("{} (version {})", event.topic, event.version)),
        ("time", moment(event.time)),
        ("committed", committed_at.map_or_else(|| "unknown".into(), moment)),
        ("source", event.source.to_string()),
        ("id", event.id.to_string()),
        ("cause", seq(committed.cause_seq)),
        ("root", event.root.to_string()),
        ("hops", event.hops.to_string()),
        ("seen", seq(committed.seen)),
    ];
    let prices = match &payload {
        Some(payload) => prices(payload, &*db).await?,
        None => None,
    };
    pairs.extend(prices.map(|prices| ("prices", prices)));
    out.pairs(&pairs)?;
    match payload {
        Some(value) => out.pretty(&value),
        None => out.line("(payload is not JSON)"),
    }
}
