//! Answers: what each command of a committed batch is told, and where that is done.
//!
//! An answer wakes whoever waits for it. Woken from the actor's own thread, each of hundreds of callers is a visit to
//! another thread's queue, which costs the actor half of its time; woken from a task that runs where the callers run,
//! it is a push to a queue nearby. So the actor can hand whole batches over ([`Answering::apart`]).

use std::{future::Future, sync::Arc};

use atra_bus::{
    Seq,
    contain::{contain_call, report},
};
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::{
    Acknowledged, Level, Rejected,
    metrics::Gauges,
    queue::{Command, Outcome, Work, give_back},
};

/// Batches on their way to the task that answers. When it falls behind further, the actor answers itself; what is on
/// the way is bounded by the lanes too, since a command keeps its room until it is answered.
const BATCHES_MAX: usize = 64;

/// Answers in the order of the commands.
pub(crate) type Answers = Vec<Result<Outcome, Rejected>>;

/// Commands that are carried out, with their answers and the level that was reached.
#[derive(Debug)]
pub(crate) struct Committed {
    pub(crate) commands: Vec<Command>,
    pub(crate) answers: Answers,
    pub(crate) level: Level,
}

/// The actor's side: gives answers.
pub(crate) struct Answering {
    gauges: Arc<Gauges>,
    apart: Option<mpsc::Sender<Committed>>,
}

impl Answering {
    pub(crate) fn new(gauges: Arc<Gauges>) -> Self {
        Self { gauges, apart: None }
    }

    /// From now on committed batches are answered by this future. It ends after the actor.
    pub(crate) fn apart(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let (sender, mut batches) = mpsc::channel(BATCHES_MAX);
        self.apart = Some(sender);
        let gauges = Arc::clone(&self.gauges);
        async move {
            while let Some(committed) = batches.recv().await {
                answer(&gauges, committed);
            }
        }
    }

    /// Answers each command with its own outcome and the level that the commit reached.
    pub(crate) fn give(&self, committed: Committed) {
        let left = match &self.apart {
            None => Some(committed),
            Some(apart) => match apart.try_send(committed) {
                Ok(()) => None,
                Err(TrySendError::Full(committed) | TrySendError::Closed(committed)) => Some(committed),
            },
        };
        if let Some(committed) = left {
            answer(&self.gauges, committed);
        }
    }

    /// Refuses all of them, now.
    pub(crate) fn refuse(&self, commands: Vec<Command>, rejected: &Rejected) {
        answer_each(&self.gauges, commands, |_, _| Err(rejected.clone()));
    }
}

fn answer(gauges: &Gauges, committed: Committed) {
    let Committed { commands, answers, level } = committed;
    answer_each(gauges, commands, |command, index| match &answers[index] {
        Ok(_) if level < level_of(&command.work) && writes(&command.work) => Err(Rejected::Unknown(format!(
            "the commit is there, but it is not known to survive power loss (asked for {:?})",
            level_of(&command.work)
        ))),
        Ok(outcome) => Ok(outcome.at(level)),
        Err(rejected) => Err(rejected.clone()),
    });
}

/// Gives each command the answer that `of` has for it and its index.
fn answer_each(gauges: &Gauges, mut commands: Vec<Command>, of: impl Fn(&Command, usize) -> Result<Outcome, Rejected>) {
    gauges.answered(commands.len());
    give_back(&mut commands);
    for (index, command) in commands.into_iter().enumerate() {
        let answer = of(&command, index);
        if answer.is_err() {
            Gauges::add(&gauges.rejected, 1);
        }
        // The receipt may have been dropped, which is allowed. The waker of a waiting caller is foreign code: a panic
        // in it must not prevent the answers of others.
        if let Err(panic) = contain_call(|| drop(command.answer.send(answer))) {
            report("waker of a caller", &panic);
        }
    }
}

/// The level that a command asks for.
pub(crate) fn level_of(work: &Work) -> Level {
    match work {
        Work::Step(step) => step.level,
        Work::Publish(publish) => publish.level,
        Work::Facts(_, level) => *level,
        Work::RaiseEpoch(_) | Work::Blocks(_) | Work::Stop => Level::Process,
    }
}

/// Whether the command can write anything; an empty one keeps every promise.
fn writes(work: &Work) -> bool {
    match work {
        Work::Publish(publish) => publish.key.is_some() || !publish.events.is_empty() || !publish.facts.is_empty(),
        Work::Facts(facts, _) => !facts.is_empty(),
        _ => true,
    }
}

impl Outcome {
    pub(crate) fn nothing(last: Seq) -> Self {
        let acknowledged = Acknowledged { first: last.next(), last, level: Level::Process, repeated: false };
        Self { acknowledged, row: None }
    }

    fn at(&self, level: Level) -> Self {
        Self { acknowledged: Acknowledged { level, ..self.acknowledged }, row: self.row.clone() }
    }
}
