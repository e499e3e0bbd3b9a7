//! The three lanes between the handles and the actor: bounded by count and bytes, first in first out each.

use std::sync::Arc;

use atra_bus::Name;
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
    /// Room in the lane; given back when the command is dropped, after its answer.
    pub(crate) room: OwnedSemaphorePermit,
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

impl LaneSenders {
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
            let Ok(command) = self.turns.commands.try_recv() else { break };
            bytes += command.bytes;
            rows += command.work.n_events();
            n_turns += 1;
            batch.push(command);
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
