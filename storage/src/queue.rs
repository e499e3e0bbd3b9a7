//! The three lanes between the handles and the actor: bounded by count and bytes, first in first out each.

use std::sync::Arc;

use atra_bus::Name;
use futures::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::{
    Acknowledged, Ancestor, Block, FactKind, FactWrite, Lane, Level, NewEvent, Publish, Rejected, Step, StorageOptions,
    TeamRow,
    step::{ROW_BYTES, new_event_bytes},
};

/// What a command asks for.
#[derive(Debug)]
pub(crate) enum Work {
    Step(Step),
    Publish(Publish),
    RaiseEpoch(Name),
    Facts(Vec<FactWrite>, Level),
    Blocks(Vec<Block>),
    /// Drain, checkpoint, close.
    Stop,
}

/// The answer of a command that was carried out.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) acknowledged: Acknowledged,
    /// The team's row, for a raised epoch.
    pub(crate) row: Option<TeamRow>,
}

/// A command in a lane.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) work: Work,
    pub(crate) bytes: usize,
    /// Room in the lane, until [`give_back`].
    pub(crate) room: Option<OwnedSemaphorePermit>,
    pub(crate) answer: oneshot::Sender<Result<Outcome, Rejected>>,
}

/// The sending side of one lane.
#[derive(Debug, Clone)]
pub(crate) struct LaneSender {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) room: Arc<Semaphore>,
}

/// The receiving side of one lane.
#[derive(Debug)]
struct LaneReceiver {
    commands: mpsc::Receiver<Command>,
    room: Arc<Semaphore>,
}

impl LaneReceiver {
    /// Adds up to `n_max` commands that are queued now; gives those that it added.
    fn take<'a>(&mut self, batch: &'a mut Vec<Command>, n_max: usize) -> &'a [Command] {
        let before = batch.len();
        // `None`: nothing is queued, and nothing was taken.
        let _ = self.commands.recv_many(batch, n_max).now_or_never();
        &batch[before..]
    }

    /// Bytes of commands that wait or have not been answered.
    fn bytes(&self, options: &StorageOptions) -> usize {
        options.queue_bytes_max - self.room.available_permits()
    }
}

/// Gives back the room of commands that are about to be answered: of neighbours of one lane at once, since each time
/// costs a lock.
pub(crate) fn give_back(commands: &mut [Command]) {
    let mut together: Option<OwnedSemaphorePermit> = None;
    for room in commands.iter_mut().filter_map(|command| command.room.take()) {
        match &mut together {
            Some(all) if Arc::ptr_eq(all.semaphore(), room.semaphore()) => all.merge(room),
            other => *other = Some(room),
        }
    }
}

fn lane(options: &StorageOptions) -> (LaneSender, LaneReceiver) {
    let (sender, receiver) = mpsc::channel(options.queue_commands_max);
    let room = Arc::new(Semaphore::new(options.queue_bytes_max));
    (LaneSender { commands: sender, room: Arc::clone(&room) }, LaneReceiver { commands: receiver, room })
}

/// The receiving side of all lanes: decides what goes into the next batch.
#[derive(Debug)]
pub(crate) struct Lanes {
    control: LaneReceiver,
    turns: LaneReceiver,
    bulk: LaneReceiver,
    /// Batches in a row that left waiting bulk commands aside.
    bulk_skips: u32,
    options: StorageOptions,
}

/// The sending sides, by lane.
#[derive(Debug)]
pub(crate) struct LaneSenders {
    control: LaneSender,
    turns: LaneSender,
    bulk: LaneSender,
}

impl LaneSender {
    pub(crate) fn n_waiting(&self) -> usize {
        self.commands.max_capacity() - self.commands.capacity()
    }
}

impl LaneSenders {
    /// Commands that wait in any lane.
    pub(crate) fn n_waiting(&self) -> usize {
        [&self.control, &self.turns, &self.bulk].into_iter().map(LaneSender::n_waiting).sum()
    }

    /// Bytes that have room in any lane: of commands that wait or have not been answered.
    pub(crate) fn bytes(&self, options: &StorageOptions) -> usize {
        let bytes = |lane: &LaneSender| options.queue_bytes_max - lane.room.available_permits();
        [&self.control, &self.turns, &self.bulk].into_iter().map(bytes).sum()
    }

    pub(crate) fn of(&self, lane: Lane) -> &LaneSender {
        match lane {
            Lane::Control => &self.control,
            Lane::Turns => &self.turns,
            Lane::Bulk => &self.bulk,
        }
    }
}

/// Bulk commands in a batch that has no turns: few, so that a turn that comes now does not wait long.
const BULK_COMMANDS_MAX: usize = 4;

pub(crate) fn lanes(options: &StorageOptions) -> (LaneSenders, Lanes) {
    let (control, control_rx) = lane(options);
    let (turns, turns_rx) = lane(options);
    let (bulk, bulk_rx) = lane(options);
    let lanes = Lanes { control: control_rx, turns: turns_rx, bulk: bulk_rx, bulk_skips: 0, options: options.clone() };
    (LaneSenders { control, turns, bulk }, lanes)
}

/// Rows of a statement that so many commands of one event fill. A batch of one whole statement is one round trip to the
/// store; what is left is taken with the next, which begins when this one ends. Small batches are one text anyway.
fn whole_statement(commands: usize) -> usize {
    match commands {
        0..64 => usize::MAX,
        64..128 => 64,
        128..256 => 128,
        _ => 256,
    }
}

impl Lanes {
    /// Waits for the next batch: whatever is queued, control before turns before bulk, within the
    /// bounds; small turns are cut where a statement is full.
    /// Empty when every handle is gone or the lanes are closed, and nothing is left.
    ///
    /// # Cancel safety
    /// Nothing is lost: the only await takes the first command.
    pub(crate) async fn next(&mut self) -> Vec<Command> {
        let first = tokio::select! {
            biased; // control before turns before bulk
            Some(command) = self.control.commands.recv() => (Lane::Control, command),
            Some(command) = self.turns.commands.recv() => (Lane::Turns, command),
            Some(command) = self.bulk.commands.recv() => (Lane::Bulk, command),
            else => return Vec::new(),
        };
        self.fill(first)
    }

    /// The next batch, if anything is queued now.
    pub(crate) fn try_next(&mut self) -> Option<Vec<Command>> {
        let first = match self.control.commands.try_recv() {
            Ok(command) => (Lane::Control, command),
            Err(_) => match self.turns.commands.try_recv() {
                Ok(command) => (Lane::Turns, command),
                Err(_) => (Lane::Bulk, self.bulk.commands.try_recv().ok()?),
            },
        };
        Some(self.fill(first))
    }

    fn fill(&mut self, (lane, first): (Lane, Command)) -> Vec<Command> {
        let (commands_max, bytes_max) = (self.options.batch_commands_max, self.options.batch_bytes_max);
        let mut bytes = first.bytes;
        let mut batch = Vec::with_capacity(commands_max.min(1 + self.turns.commands.len()));
        batch.push(first);
        let mut n_turns = usize::from(lane == Lane::Turns);
        let n_bulk = usize::from(lane == Lane::Bulk);

        // Control gets at most half of a batch beyond its first, so that it cannot shut turns out.
        let control_max = (commands_max / 2).max(1);
        while batch.len() < control_max && bytes < bytes_max {
            let Ok(command) = self.control.commands.try_recv() else { break };
            bytes += command.bytes;
            batch.push(command);
        }
        let whole = whole_statement(batch.len() + self.turns.commands.len());
        let mut rows: usize = batch.iter().map(|command| command.work.n_events()).sum();
        while batch.len() < commands_max && bytes < bytes_max {
            // Larger commands seldom end where a statement does.
            let is_whole = rows == batch.len() && rows.is_multiple_of(whole);
            if is_whole && self.turns.commands.len() < whole {
                break;
            }
            // Many at once when the bounds cannot be in the way, since each taking has its price.
            let n_max = match self.turns.bytes(&self.options) <= bytes_max - bytes {
                true => (commands_max - batch.len()).min(whole - rows % whole),
                false => 1,
            };
            let taken = self.turns.take(&mut batch, n_max);
            if taken.is_empty() {
                break;
            }
            bytes += taken.iter().map(|command| command.bytes).sum::<usize>();
            rows += taken.iter().map(|command| command.work.n_events()).sum::<usize>();
            n_turns += taken.len();
        }
        let is_full = batch.len() >= commands_max || bytes >= bytes_max;
        let bulk_max = match (n_turns, is_full) {
            (0, false) => BULK_COMMANDS_MAX,
            (_, false) => 1,
            (_, true) => usize::from(self.bulk_skips >= self.options.bulk_skips_max),
        };
        let mut taken = n_bulk;
        while taken < bulk_max {
            let Ok(command) = self.bulk.commands.try_recv() else { break };
            taken += 1;
            batch.push(command);
        }
        let is_skipped = taken == 0 && !self.bulk.commands.is_empty();
        self.bulk_skips = if is_skipped { self.bulk_skips + 1 } else { 0 };
        batch
    }

    /// Refuses new commands; those that are queued can still be taken.
    pub(crate) fn close(&mut self) {
        for lane in [&mut self.control, &mut self.turns, &mut self.bulk] {
            lane.commands.close();
            lane.room.close();
        }
    }
}

// === checks before a command may wait ===

impl Work {
    /// The rows that it brings to the journal.
    fn n_events(&self) -> usize {
        match self {
            Self::Step(step) => step.events.len(),
            Self::Publish(publish) => publish.events.len(),
            Self::RaiseEpoch(_) | Self::Facts(..) | Self::Blocks(_) | Self::Stop => 0,
        }
    }

    /// The rows of the journal that it brings, and the facts that it names.
    pub(crate) fn n_rows(&self) -> (usize, usize) {
        let n_facts = match self {
            Self::Step(step) => step.facts.len(),
            Self::Publish(publish) => publish.facts.len() + usize::from(publish.key.is_some()),
            Self::Facts(facts, _) => facts.len(),
            Self::RaiseEpoch(_) | Self::Blocks(_) | Self::Stop => 0,
        };
        (self.n_events(), n_facts)
    }

    /// Checks what can be checked without the store and measures the command. Encodes payloads, so that
    /// the work is done by the submitter and not by the actor.
    pub(crate) fn measure(&self) -> Result<usize, Rejected> {
        Ok(match self {
            Self::Step(step) => measure_events(&step.events)? + measure_facts(&step.facts)? + ROW_BYTES,
            Self::Publish(publish) => {
                let key = publish.key.as_ref().map_or(0, |(_, key)| key.len());
                measure_events(&publish.events)? + measure_facts(&publish.facts)? + key + ROW_BYTES
            }
            Self::Facts(facts, _) => measure_facts(facts)?,
            Self::Blocks(blocks) => blocks.iter().map(|block| block.data.len() + ROW_BYTES).sum(),
            Self::RaiseEpoch(_) | Self::Stop => ROW_BYTES,
        })
    }
}

fn measure_events(events: &[NewEvent]) -> Result<usize, Rejected> {
    let mut bytes = 0;
    for (index, new) in events.iter().enumerate() {
        let event = &new.event;
        if !event.durable {
            return Err(Rejected::Invalid(format!("event {} on {} is passing, not durable", event.id, event.topic)));
        }
        if let Ancestor::InStep(ancestor) = new.ancestor
            && ancestor as usize >= index
        {
            return Err(Rejected::Invalid(format!("event {index} of the step names event {ancestor} as its cause")));
        }
        let json = event.payload.json().map_err(|error| Rejected::Invalid(error.to_string()))?;
        bytes += new_event_bytes(json, &event.topic);
    }
    Ok(bytes)
}

fn measure_facts(facts: &[FactWrite]) -> Result<usize, Rejected> {
    if let Some(fact) = facts.iter().find(|fact| fact.kind == FactKind::Memory) {
        return Err(Rejected::Invalid(format!("memory key {:?} is written by an event, not as a fact", fact.key)));
    }
    Ok(facts.iter().map(FactWrite::bytes).sum())
}
