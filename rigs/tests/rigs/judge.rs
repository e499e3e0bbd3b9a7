//! The judge: reopens a database and compares it with the ledger.

use std::{collections::BTreeMap, path::Path};

use atra_bus::{EventId, Filter, Interest, Seq};
use atra_rigs::{
    ledger::Line,
    work::{BLOCK_BYTES, LIFE, PRODUCER, SERIES, TEAMS, block_byte},
};
use atra_storage::{FactKind, Level, Read, SqliteOptions, SqliteStore, Store, StoreError, check, conformance::name};

/// What must have survived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promise {
    /// The process ended, the machine did not: everything acknowledged.
    Process,
    /// Power was lost: what was acknowledged at level `power`.
    Power,
}

/// What was found; each number counts events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) present: u64,
    pub(crate) acknowledged: u64,
    /// Acknowledged at a level that promises nothing here, and not there.
    pub(crate) lost: u64,
    pub(crate) refused: u64,
    /// Without an answer, or answered as unknown: there, and not there.
    pub(crate) unknown_there: u64,
    pub(crate) unknown_gone: u64,
}

impl std::ops::AddAssign for Verdict {
    fn add_assign(&mut self, more: Self) {
        self.present += more.present;
        self.acknowledged += more.acknowledged;
        self.lost += more.lost;
        self.refused += more.refused;
        self.unknown_there += more.unknown_there;
        self.unknown_gone += more.unknown_gone;
    }
}

/// How an event stands in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Sent,
    Acknowledged(u64, Level),
    Refused,
}

/// Judges one database, as often as it is reopened: what was decided once stays so.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    decided: BTreeMap<u64, bool>,
}

/// What is in the store, as the judge needs it.
pub(crate) struct Found {
    /// Order → seq.
    events: BTreeMap<u64, u64>,
    keys: Vec<u64>,
    /// Team → (its row's step, the number in its fact).
    teams: BTreeMap<String, (u64, Option<u64>)>,
    blocks: Vec<i64>,
}

/// What became of a reopening.
pub(crate) enum Reopened {
    /// It could not be opened, read or checked.
    Refused(String),
    /// The check found problems.
    Unsound(Vec<String>),
    /// The check found nothing; an error: what is there is not what was sent.
    Sound(Result<Found, String>),
}

/// Opens the database as a runtime does, reads everything, closes it and checks it.
pub(crate) fn reopen(db: &Path) -> Reopened {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let reopened = tokio.block_on(async {
        let mut store = SqliteStore::open(SqliteOptions::new(db)).await?;
        store.load().await?;
        let found = read(&*store.reader()).await?;
        store.close().await?;
        let report = check(db).await?;
        Ok::<_, StoreError>(if report.is_sound() { Reopened::Sound(found) } else { Reopened::Unsound(report.problems) })
    });
    reopened.unwrap_or_else(|error| Reopened::Refused(error.to_string()))
}

impl Judge {
    /// Reopens the database and judges it.
    pub(crate) fn judge(&mut self, db: &Path, lines: &[Line], promise: Promise) -> Result<Verdict, String> {
        let found = match reopen(db) {
            Reopened::Sound(found) => found?,
            Reopened::Unsound(problems) => return Err(format!("the check found {problems:?}")),
            Reopened::Refused(error) => return Err(error),
        };
        found.is_consistent()?;
        self.compare(&found, lines, promise)
    }

    /// Compares what is there with the ledger.
    pub(crate) fn compare(&mut self, found: &Found, lines: &[Line], promise: Promise) -> Result<Verdict, String> {
        let standings = standings(lines)?;
        let mut verdict = Verdict { present: found.events.len() as u64, ..Verdict::default() };
        for (order, standing) in &standings {
            let seq = found.events.get(order);
            match (standing, seq) {
                (Standing::Acknowledged(at, _), Some(seq)) => {
                    verdict.acknowledged += 1;
                    if at != seq {
                        return Err(format!("event {order} was acknowledged at seq {at} and is at {seq}"));
                    }
                }
                (Standing::Acknowledged(..), None) if promise == Promise::Process => {
                    return Err(format!("event {order} was acknowledged ({standing:?}) and is not there"));
                }
                (Standing::Acknowledged(_, Level::Power), None) => {
                    return Err(format!("event {order} was acknowledged at level power and is not there"));
                }
                (Standing::Acknowledged(..), None) => verdict.lost += 1,
                (Standing::Refused, Some(seq)) => return Err(format!("event {order} was refused and is at seq {seq}")),
                (Standing::Refused, None) => verdict.refused += 1,
                (Standing::Sent, seq) => {
                    let is_there = *self.decided.entry(*order).or_insert(seq.is_some());
                    if is_there != seq.is_some() {
                        return Err(format!("event {order} without an answer was there: {is_there}, now it is not so"));
                    }
                    verdict.unknown_there += u64::from(is_there);
                    verdict.unknown_gone += u64::from(!is_there);
                }
            }
        }
        if let Some(order) = found.events.keys().find(|order| !standings.contains_key(order)) {
            return Err(format!("event {order} was never sent"));
        }
        for line in lines {
            if let Line::Blocks(first) = line
                && promise == Promise::Process
                && !(*first..first + 8).all(|start| found.blocks.contains(&start))
            {
                return Err(format!("blocks from {first} on were acknowledged and are not all there"));
            }
        }
        Ok(verdict)
    }
}

fn standings(lines: &[Line]) -> Result<BTreeMap<u64, Standing>, String> {
    let mut standings = BTreeMap::new();
    for line in lines {
        let (order, standing) = match line {
            Line::Sent(order) => (order, Standing::Sent),
            Line::Unknown(order, _) => (order, Standing::Sent),
            Line::Acknowledged(order, seq, level) => (order, Standing::Acknowledged(*seq, *level)),
            Line::Refused(order, _) => (order, Standing::Refused),
            _ => continue,
        };
        let is_first = matches!(line, Line::Sent(_));
        if standings.insert(*order, standing).is_none() != is_first {
            return Err(format!("the ledger tells of event {order} in the wrong order"));
        }
    }
    Ok(standings)
}

async fn read(reader: &dyn Read) -> Result<Result<Found, String>, StoreError> {
    let everything = Interest::in_topics(vec![Filter::new(">").unwrap()]);
    let (last, mut after) = (reader.last_seq().await?, Seq::ZERO);
    let mut events = BTreeMap::new();
    while after < last {
        let (page, upto) = reader.journal(after, last, &everything, 4_096).await?;
        for committed in page {
            let event = &committed.event;
            let order = event.payload.to_value().ok().and_then(|value| value["order"].as_u64()).unwrap_or(0);
            if event.id != EventId::of(&name("rig"), &order.to_string()) {
                return Ok(Err(format!("seq {} is not what was sent: {event:?}", committed.seq)));
            }
            if events.insert(order, committed.seq.get()).is_some() {
                return Ok(Err(format!("event {order} is there twice, once at seq {}", committed.seq)));
            }
        }
        after = upto;
    }
    let facts = reader.facts(FactKind::Key, None).await?;
    let keys = facts.iter().filter_map(|fact| fact.key.parse().ok()).collect();
    let mut teams = BTreeMap::new();
    for row in reader.teams().await? {
        let fact = reader.fact(FactKind::State, &row.team, "number").await?;
        let number = fact.and_then(|fact| fact.value?.parse().ok());
        teams.insert(row.team.to_string(), (row.number, number));
    }
    let blocks = reader.blocks(&name(SERIES), 0, i64::MAX, usize::MAX >> 1).await?;
    if let Some(bad) = blocks.iter().find(|block| *block.data != [block_byte(block.start); BLOCK_BYTES]) {
        return Ok(Err(format!("block {} is not what was sent", bad.start)));
    }
    Ok(Ok(Found { events, keys, teams, blocks: blocks.iter().map(|block| block.start).collect() }))
}

impl Found {
    /// Whether an event is there.
    pub(crate) fn has(&self, order: u64) -> bool {
        self.events.contains_key(&order)
    }

    /// What holds whatever was lost: steps are whole, and so are publishes.
    pub(crate) fn is_consistent(&self) -> Result<(), String> {
        let mut steps: BTreeMap<String, u64> = BTreeMap::new();
        for order in self.events.keys() {
            let (place, n) = ((order % LIFE) / PRODUCER, order % PRODUCER);
            if place >= TEAMS {
                *steps.entry(format!("team{}", place - TEAMS)).or_default() += 1;
            } else if n.is_multiple_of(3) != self.keys.contains(order) {
                return Err(format!("event {order} and its key are not both there"));
            }
        }
        for (team, (number, fact)) in &self.teams {
            let n_events = steps.remove(team).unwrap_or(0);
            if n_events != *number || fact.unwrap_or(0) != *number {
                return Err(format!("{team} is at step {number} with {n_events} events, and its fact says {fact:?}"));
            }
        }
        if self.keys.iter().any(|order| !self.events.contains_key(order)) || !steps.is_empty() {
            return Err(format!("keys or steps without their events: {steps:?}"));
        }
        Ok(())
    }
}
