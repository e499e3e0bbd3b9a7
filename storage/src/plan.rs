//! From queued commands to one batch: checks, seqs, merged facts, and each command's answer. Pure: no I/O,
//! no clock, so that what a batch contains depends on the commands and the committed state alone.
//!
//! A refused command leaves no trace in the batch.

use std::{collections::BTreeMap, hash::BuildHasher as _, sync::Arc};

use atra_bus::{Committed, EventId, Name, Seq};
use hashbrown::{HashTable, hash_table::Entry as Slot};
use rustc_hash::{FxBuildHasher, FxHashMap};
use serde::{Deserialize, Serialize};

use crate::{
    Acknowledged, Ancestor, Block, CommitTime, FactKind, FactRow, FactWrite, Level, NewEvent, Publish, Rejected, Step,
    StoreError, TeamMove, TeamRow, WriteBatch,
    queue::{Command, Outcome, Work},
};

/// What makes a fact unique. Memory is unique by key alone, so its owner is left out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FactId {
    pub(crate) kind: FactKind,
    pub(crate) owner: Option<Name>,
    pub(crate) key: String,
}

impl FactId {
    pub(crate) fn new(kind: FactKind, owner: &Name, key: &str) -> Self {
        let owner = (kind != FactKind::Memory).then(|| owner.clone());
        Self { kind, owner, key: key.into() }
    }

    fn memory(key: &str) -> Self {
        Self { kind: FactKind::Memory, owner: None, key: key.into() }
    }

    /// The facts that a command's answer depends on.
    pub(crate) fn needed_by(work: &Work) -> impl Iterator<Item = Self> + use<> {
        let (key, expect) = match work {
            Work::Publish(Publish { key, expect, .. }) => (
                key.as_ref().map(|(caller, key)| Self::new(FactKind::Key, caller, key)),
                expect.as_ref().map(|(key, _)| Self::memory(key)),
            ),
            _ => (None, None),
        };
        key.into_iter().chain(expect)
    }
}

/// Facts that were read from the store for a batch; a read that failed keeps its error.
pub(crate) type Found = BTreeMap<FactId, Result<Option<FactRow>, StoreError>>;

/// What the actor knows of the committed state. It is the only writer, so this is the truth.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    pub(crate) last: Seq,
    pub(crate) teams: FxHashMap<Name, TeamRow>,
    /// The last seq that was pruned: where a new team begins.
    pub(crate) floor: Seq,
}

impl Ledger {
    /// Takes over a batch that has been committed.
    pub(crate) fn apply(&mut self, batch: &WriteBatch) {
        if let Some(event) = batch.events.last() {
            self.last = event.seq;
        }
        batch.teams.iter().for_each(|moved| moved.to.put(&mut self.teams));
    }
}

/// The value of an idempotency key's fact: where its first publish went.
#[derive(Debug, Serialize, Deserialize)]
struct KeyValue {
    first: u64,
    last: u64,
}

/// Rows that an emptied batch keeps room for: more than a batch of a busy swarm has, in less than a megabyte. One odd
/// batch must not hold its memory for ever.
const ROWS_KEPT: usize = 4_096;

/// What a batch is put together in, emptied: its memory is the next one's, so that it grows once and not in each.
#[derive(Debug, Default)]
pub(crate) struct Workshop {
    /// Where facts are, by the hash of what makes them unique: (hash, place).
    fact_places: HashTable<(u64, usize)>,
    /// Where the moves of teams are.
    team_places: HashTable<(u64, usize)>,
    facts: Vec<FactRow>,
    teams: Vec<TeamMove>,
}

impl Workshop {
    /// Takes back the lists of a batch that is done with.
    pub(crate) fn take_back(&mut self, mut facts: Vec<FactRow>, mut teams: Vec<TeamMove>) {
        facts.clear();
        facts.shrink_to(ROWS_KEPT);
        teams.clear();
        teams.shrink_to(ROWS_KEPT);
        (self.facts, self.teams) = (facts, teams);
    }
}

/// The facts of a batch, each once, in the order in which they were first written. Most batches write a thousand, whose
/// keys are found by their hash and compared where they lie.
struct Facts<'a> {
    rows: Vec<FactRow>,
    places: &'a mut HashTable<(u64, usize)>,
}

impl Facts<'_> {
    /// Writes over what the batch had of the same fact.
    fn put(&mut self, row: FactRow) {
        let Self { rows, places } = self;
        let owner = (row.kind != FactKind::Memory).then_some(&row.owner);
        let hash = Self::hash(row.kind, owner, &row.key);
        match places.entry(hash, Self::is_it(rows, hash, row.kind, owner, &row.key), |(hash, _)| *hash) {
            Slot::Occupied(found) => rows[found.get().1] = row,
            Slot::Vacant(empty) => {
                empty.insert((hash, rows.len()));
                rows.push(row);
            }
        }
    }

    fn get(&self, FactId { kind, owner, key }: &FactId) -> Option<&FactRow> {
        let hash = Self::hash(*kind, owner.as_ref(), key);
        let found = self.places.find(hash, Self::is_it(&self.rows, hash, *kind, owner.as_ref(), key));
        found.map(|(_, place)| &self.rows[*place])
    }

    /// Who owns a key of memory does not matter.
    fn is_it(
        rows: &[FactRow],
        hash: u64,
        kind: FactKind,
        owner: Option<&Name>,
        key: &str,
    ) -> impl Fn(&(u64, usize)) -> bool {
        move |&(of, place)| {
            let row = &rows[place];
            of == hash && row.kind == kind && row.key == key && owner.is_none_or(|owner| row.owner == *owner)
        }
    }

    fn hash(kind: FactKind, owner: Option<&Name>, key: &str) -> u64 {
        FxBuildHasher.hash_one((kind as u8, owner.map(Name::as_str), key))
    }
}

/// How the teams of a batch move, each once, in the order in which they first did.
struct Moves<'a> {
    list: Vec<TeamMove>,
    places: &'a mut HashTable<(u64, usize)>,
}

impl Moves<'_> {
    fn get(&self, team: &Name) -> Option<&TeamRow> {
        let hash = FxBuildHasher.hash_one(team);
        let found = self.places.find(hash, |&(of, place)| of == hash && self.list[place].to.team == *team);
        found.map(|(_, place)| &self.list[*place].to)
    }

    /// Moves a team on; `from` tells where it stood before the batch, and is asked at its first move.
    fn put(&mut self, to: TeamRow, from: impl FnOnce(&Name) -> Option<TeamRow>) {
        let Self { list, places } = self;
        let hash = FxBuildHasher.hash_one(&to.team);
        match places.entry(hash, |&(of, place)| of == hash && list[place].to.team == to.team, |(hash, _)| *hash) {
            Slot::Occupied(found) => list[found.get().1].to = to,
            Slot::Vacant(empty) => {
                empty.insert((hash, list.len()));
                list.push(TeamMove { from: from(&to.team), to });
            }
        }
    }
}

/// A batch in the making.
pub(crate) struct Plan<'a> {
    ledger: &'a Ledger,
    found: &'a Found,
    last: Seq,
    events: Vec<Committed>,
    facts: Facts<'a>,
    teams: Moves<'a>,
    blocks: BTreeMap<(Name, i64), Block>,
    level: Level,
}

impl<'a> Plan<'a> {
    /// A batch of about as much as these commands bring.
    pub(crate) fn new(ledger: &'a Ledger, found: &'a Found, shop: &'a mut Workshop, commands: &[Command]) -> Self {
        let Workshop { fact_places, team_places, facts, teams } = shop;
        fact_places.clear();
        team_places.clear();
        let (mut rows, mut list) = (std::mem::take(facts), std::mem::take(teams));
        let sizes = commands.iter().map(|command| command.work.n_rows());
        let (n_events, n_facts) = sizes.fold((0, 0), |all, (events, facts)| (all.0 + events, all.1 + facts));
        rows.reserve(n_facts);
        list.reserve(commands.len());
        Self {
            ledger,
            found,
            last: ledger.last,
            events: Vec::with_capacity(n_events),
            facts: Facts { rows, places: fact_places },
            teams: Moves { list, places: team_places },
            blocks: BTreeMap::new(),
            level: Level::Process,
        }
    }

    /// Adds a command, or says why not. The level of the answer is filled in by [`Plan::finish`]'s caller,
    /// since it is the batch's.
    pub(crate) fn add(&mut self, work: &Work) -> Result<Outcome, Rejected> {
        match work {
            Work::Step(step) => self.step(step),
            Work::Publish(publish) => self.publish(publish),
            Work::RaiseEpoch(team) => Ok(self.raise_epoch(team)),
            Work::Facts(facts, level) => {
                self.write_facts(facts);
                Ok(self.written(self.last, !facts.is_empty(), *level))
            }
            Work::Blocks(blocks) => {
                for block in blocks {
                    self.blocks.insert((block.series.clone(), block.start), block.clone());
                }
                Ok(self.written(self.last, !blocks.is_empty(), Level::Process))
            }
            Work::Stop => Ok(self.written(self.last, false, Level::Process)),
        }
    }

    /// The batch: one row per fact, one move per team; committed at this time.
    pub(crate) fn finish(self, committed_at: CommitTime) -> WriteBatch {
        WriteBatch {
            events: self.events,
            facts: self.facts.rows,
            teams: self.teams.list,
            blocks: self.blocks.into_values().collect(),
            level: self.level,
            committed_at: Some(committed_at),
        }
    }

    fn step(&mut self, step: &Step) -> Result<Outcome, Rejected> {
        let row = self.team(&step.team);
        let newest = row.map_or(0, |row| row.epoch);
        if step.epoch != newest || newest == 0 {
            return Err(Rejected::Stale { team: step.team.clone(), epoch: step.epoch, newest });
        }
        let expected = row.map_or(0, |row| row.number) + 1;
        if step.number != expected {
            return Err(Rejected::OutOfOrder { team: step.team.clone(), number: step.number, expected });
        }
        self.check_ancestors(&step.events)?;

        let before = self.last;
        self.write_events(&step.events);
        self.write_facts(&step.facts);
        let to = TeamRow { team: step.team.clone(), epoch: step.epoch, number: step.number, cursor: step.cursor };
        self.move_team(to);
        Ok(self.written(before, true, step.level))
    }

    fn publish(&mut self, publish: &Publish) -> Result<Outcome, Rejected> {
        let key = publish.key.as_ref().map(|(caller, key)| FactId::new(FactKind::Key, caller, key));
        if let Some(id) = &key
            && let Some(row) = self.newest(id)?
        {
            return self.repeat(id, &row, publish.level);
        }
        if let Some((key, expected)) = &publish.expect {
            let found = self.newest(&FactId::memory(key))?.and_then(|row| row.event);
            if found != *expected {
                return Err(Rejected::Conflict { key: key.clone(), expected: *expected, found });
            }
        }
        self.check_ancestors(&publish.events)?;

        let before = self.last;
        self.write_events(&publish.events);
        self.write_facts(&publish.facts);
        if let (Some(id), Some((caller, _))) = (&key, &publish.key) {
            let value = format!(r#"{{"first":{},"last":{}}}"#, before.next(), self.last);
            self.facts.put(FactRow {
                kind: FactKind::Key,
                owner: caller.clone(),
                key: id.key.clone(),
                value: Some(value.into()),
                version: self.last,
                event: None,
            });
        }
        let is_written = key.is_some() || !publish.events.is_empty() || !publish.facts.is_empty();
        Ok(self.written(before, is_written, publish.level))
    }

    /// Answers a publish whose key is known. Asked for power, it must not be answered with less: the key
    /// is written again, so that this batch's flush covers what the first one may not have flushed.
    fn repeat(&mut self, id: &FactId, row: &FactRow, level: Level) -> Result<Outcome, Rejected> {
        let value = row.value.as_deref().unwrap_or_default();
        let seqs: KeyValue = serde_json::from_str(value).map_err(|error| {
            Rejected::Failed(StoreError::Invalid(format!("idempotency key {:?} holds {value:?}: {error}", id.key)))
        })?;
        if level == Level::Power {
            self.facts.put(row.clone());
            self.level = Level::Power;
        }
        let acknowledged = Acknowledged { first: Seq(seqs.first), last: Seq(seqs.last), level, repeated: true };
        Ok(Outcome { acknowledged, row: None })
    }

    fn raise_epoch(&mut self, team: &Name) -> Outcome {
        let row = self.team(team);
        let to = TeamRow {
            team: team.clone(),
            epoch: row.map_or(0, |row| row.epoch) + 1,
            number: row.map_or(0, |row| row.number),
            // A journal without a beginning is complete from its floor on.
            cursor: row.map_or(self.ledger.floor, |row| row.cursor),
        };
        self.move_team(to.clone());
        Outcome { row: Some(to), ..self.written(self.last, true, Level::Process) }
    }

    // === parts ===

    /// The team's row as of everything planned so far.
    fn team(&self, team: &Name) -> Option<&TeamRow> {
        self.teams.get(team).or_else(|| self.ledger.teams.get(team))
    }

    fn move_team(&mut self, to: TeamRow) {
        self.teams.put(to, |team| self.ledger.teams.get(team).cloned());
    }

    /// The fact as of everything planned so far; `None` when there is none or it was removed.
    fn newest(&self, id: &FactId) -> Result<Option<FactRow>, Rejected> {
        let row = match (self.facts.get(id), self.found.get(id)) {
            (Some(row), _) => Some(row.clone()),
            (None, Some(found)) => found.clone().map_err(Rejected::Failed)?,
            (None, None) => None,
        };
        Ok(row.filter(|row| row.value.is_some()))
    }

    fn check_ancestors(&self, events: &[NewEvent]) -> Result<(), Rejected> {
        for new in events {
            if let Ancestor::Seq(seq) = new.ancestor
                && (seq == Seq::ZERO || seq > self.last)
            {
                return Err(Rejected::Invalid(format!(
                    "event {} names seq {seq} as its cause, the journal ends at {}",
                    new.event.id, self.last
                )));
            }
        }
        Ok(())
    }

    fn write_events(&mut self, events: &[NewEvent]) {
        let before = self.last;
        for new in events {
            self.last = self.last.next();
            let cause_seq = match new.ancestor {
                Ancestor::None => None,
                Ancestor::Seq(seq) => Some(seq),
                // Checked when it was queued: smaller than the event's own index.
                Ancestor::InStep(index) => Some(Seq(before.get() + 1 + u64::from(index))),
            };
            if let Some(key) = new.event.topic.memory_key() {
                self.write_memory(key, new);
            }
            self.events.push(Committed { seq: self.last, event: Arc::clone(&new.event), cause_seq, seen: new.seen });
        }
    }

    /// The fact that an event on `memory.<key>` is; a payload of exactly `null` removes it.
    fn write_memory(&mut self, key: &str, new: &NewEvent) {
        // The payload was encoded when the command was measured; an error was refused there.
        let json = new.event.payload.shared_json().ok();
        let value = json.filter(|json| &***json != "null").cloned();
        let event: EventId = new.event.id;
        self.facts.put(FactRow {
            kind: FactKind::Memory,
            owner: new.event.source.clone(),
            key: key.into(),
            value,
            version: self.last,
            event: Some(event),
        });
    }

    fn write_facts(&mut self, facts: &[FactWrite]) {
        for fact in facts {
            self.facts.put(FactRow {
                kind: fact.kind,
                owner: fact.owner.clone(),
                key: fact.key.clone(),
                value: fact.value.clone(),
                version: self.last,
                event: None,
            });
        }
    }

    /// The answer to what has just been written after `before`. Only what writes something may raise the
    /// batch's level: an empty transaction flushes nothing.
    fn written(&mut self, before: Seq, is_written: bool, level: Level) -> Outcome {
        if is_written {
            self.level = self.level.max(level);
        }
        let acknowledged = Acknowledged { first: before.next(), last: self.last, level, repeated: false };
        Outcome { acknowledged, row: None }
    }
}
