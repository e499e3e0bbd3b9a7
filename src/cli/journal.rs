//! `atra journal`: events as they were committed.

use std::time::Duration;

use atra::{Filter, Read, Seq, bus::Interest};

use super::{
    args::{ShowArgs, TailArgs},
    db_of,
    error::CliError,
    events::{EventJson, line, not_there},
    open,
    output::Output,
    time::Moment,
};

/// How often a followed file is looked at. Nothing tells another process of a commit; a quarter of a second is at once
/// for a person and costs nothing.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);
/// Events read at once while following.
const PAGE_EVENTS: usize = 1_024;

/// Shows the newest events, and with `--follow` what comes.
pub(crate) async fn tail(args: &TailArgs, out: &mut Output) -> Result<(), CliError> {
    let db = open(&db_of(&args.db)?).await?;
    let interest = interest(&args.topic)?;
    let mut upto = db.last_seq().await?;
    match args.after {
        Some(after) => upto = print_after(&*db, &interest, Seq(after), upto, args.lines, out).await?,
        None => print_last(&*db, &interest, args.lines, out).await?,
    }
    if args.follow { follow(&*db, &interest, upto, out).await } else { Ok(()) }
}

/// Prints the last `lines` events: page by page back to the first one, then forth, so that one page is held at a time.
async fn print_last(db: &dyn Read, interest: &Interest, lines: usize, out: &mut Output) -> Result<(), CliError> {
    let (mut pages, mut before, mut left) = (Vec::new(), Seq(u64::MAX), lines);
    while left > 0 {
        let page = db.journal_before(before, interest, left.min(PAGE_EVENTS)).await?;
        let Some(first) = page.first() else { break };
        pages.push((before, page.len()));
        (before, left) = (first.seq, left - page.len());
    }
    for (before, n_events) in pages.into_iter().rev() {
        print(&db.journal_before(before, interest, n_events).await?, out)?;
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

async fn follow(db: &dyn Read, interest: &Interest, mut after: Seq, out: &mut Output) -> Result<(), CliError> {
    loop {
        // Also what tells that the reader has gone away.
        out.finish()?;
        let (events, upto) = db.journal(after, Seq(u64::MAX), interest, PAGE_EVENTS).await?;
        print(&events, out)?;
        let is_more = upto > after;
        after = upto;
        if !is_more {
            tokio::time::sleep(FOLLOW_EVERY).await;
        }
    }
}

fn print(events: &[atra::Committed], out: &mut Output) -> Result<(), CliError> {
    for committed in events {
        if out.is_json() {
            out.json(&EventJson::new(committed)?)?;
        } else {
            let text = line(committed, out);
            out.line(&text)?;
        }
    }
    Ok(())
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
    let Some(committed) = db.event(args.seq).await? else { return Err(not_there(args.seq, &*db).await?) };
    if out.is_json() {
        return out.json(&EventJson::new(&committed)?);
    }
    let event = &committed.event;
    let seq = |seq: Option<Seq>| seq.map_or_else(|| "none".into(), |seq| format!("#{seq}"));
    out.pairs(&[
        ("seq", format!("#{}", committed.seq)),
        ("topic", format!("{} (version {})", event.topic, event.version)),
        ("time", format!("{} ({} ms)", Moment(event.time.millis()), event.time)),
        ("source", event.source.to_string()),
        ("id", event.id.to_string()),
        ("cause", seq(committed.cause_seq)),
        ("root", event.root.to_string()),
        ("hops", event.hops.to_string()),
        ("seen", seq(committed.seen)),
    ])?;
    let value = event.payload.to_value().ok().and_then(|value| serde_json::to_string_pretty(&value).ok());
    out.line(value.as_deref().unwrap_or("(payload is no JSON)"))
}
