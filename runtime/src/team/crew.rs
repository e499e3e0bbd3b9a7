//! The members of a team, and how one round reaches them.
//!
//! *Together*, the members are called in the executor's own task, event by event. *Apart*, each member is a
//! task that gets its events of the round over its own queue and answers once. Both give the same
//! decisions in the same order: (event handled, member's place, order published).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use atra_bus::{Env, Event, EventId, Name, Task, Topic, contain::contain};
use atra_storage::{Ancestor, FactKind, FactWrite, Rejected};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

use super::{
    member::{Member, StateWrites, TurnFailure, TurnFault},
    step::StepSender,
};
use crate::{
    AgentError, AgentSpec, Query,
    context::{Effects, TimerChange, TurnInput},
    tasks,
};

/// How long an incarnation waits for a task of its own to end. 1 s: a task ends at once unless it is in a blocking
/// call.
pub(super) const END_MAX: Duration = Duration::from_secs(1);
/// Topics whose routes are remembered; above it the memory is emptied and filled anew.
const ROUTES_MAX: usize = 10_000;

/// An event of the present round.
#[derive(Debug)]
pub(crate) struct RoundEvent {
    pub(crate) event: Arc<Event>,
    /// The member that published it: nobody is delivered its own publish.
    pub(crate) from: Option<usize>,
    /// The member that is delivered it whatever it subscribes to: who set the timer.
    pub(crate) to: Option<usize>,
    /// What durable events published on it name as their ancestor.
    pub(crate) anchor: Ancestor,
}

/// What a round decided, in order.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    /// (place of the handled event in the round, member, published event).
    pub(crate) events: Vec<(usize, usize, Arc<Event>)>,
    pub(crate) timers: Vec<(usize, TimerChange)>,
    pub(crate) turns: u64,
    /// What they count against the bound of a step.
    pub(crate) bytes: usize,
}

impl Decided {
    /// Counts what a turn decided. A round that exceeds the limit of a step ends here, before all of it is collected.
    fn count(&mut self, effects: &mut Effects, member: &Member, event: &Arc<Event>) -> Result<(), TurnFailure> {
        self.bytes += effects.take_bytes();
        let most = member.step_bytes_max();
        if self.bytes <= most {
            return Ok(());
        }
        let text = format!("round of at least {} bytes is above {most} (step_bytes_max)", self.bytes);
        Err(TurnFailure { agent: member.spec.name.clone(), event: event.clone(), fault: TurnFault::Limit(text) })
    }
}

/// A failed turn, with the place of its event in the round: the first one counts.
type Failure = (usize, TurnFailure);

/// What all turns of one cascade share.
#[derive(Clone)]
pub(crate) struct TurnRules {
    pub(crate) input: TurnInput,
    /// Pairs that are dead letters: not delivered.
    pub(crate) skips: Option<Arc<BTreeSet<(Name, EventId)>>>,
    /// Marks each turn in the store before it runs, on an input that has killed the process before.
    pub(crate) gate: Option<Arc<Gate>>,
}

/// Commits, before a turn, which (agent, event) is about to be tried: if the process dies, it died there.
///
/// The end of a turn is also committed, and a death at that write looks like a death in the turn.
/// Two rules keep such deaths from adding up to `deaths_max`:
///
/// - Before a turn that has deaths, the gate makes one more commit for each death. So a process that always dies at its
///   n-th write dies at another point after each restart.
/// - The last try has no marks around its turns, only one mark that was committed before the whole input. A turn is
///   given up only if the process also dies without a write around the turn.
pub(crate) struct Gate {
    steps: Arc<StepSender>,
    team: Name,
    input: EventId,
    /// In which turns of this input the process died before, and how often.
    deaths: Vec<Death>,
    deaths_max: u32,
    /// The index in `deaths` of the turn whose last try this is; the input then runs without marks around its turns.
    last_try: Option<usize>,
    /// One turn at a time, also apart: the mark must name the turn that is running.
    one: tokio::sync::Mutex<()>,
}

/// Deaths of the process in one turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Death {
    agent: Name,
    event: EventId,
    deaths: u32,
}

/// An attempt mark: the input is under way, and in these turns the process has died or is dying now.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Mark {
    #[serde(default)]
    turns: Vec<Death>,
    /// The index in `turns` of the turn whose last try is in progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_try: Option<usize>,
}

impl Mark {
    /// The deaths so far. A mark of a last try that still exists means that the process died in that try.
    fn deaths(self) -> Vec<Death> {
        let mut turns = self.turns;
        if let Some(turn) = self.last_try.and_then(|place| turns.get_mut(place)) {
            turn.deaths = turn.deaths.saturating_add(1);
        }
        turns
    }
}

impl Gate {
    pub(crate) fn new(
        steps: &Arc<StepSender>,
        team: &Name,
        input: EventId,
        found: Option<Mark>,
        deaths_max: u32,
    ) -> Self {
        let deaths = found.unwrap_or_default().deaths();
        let is_last = |death: &Death| death.deaths > 0 && death.deaths.saturating_add(1) == deaths_max;
        let last_try = deaths.iter().position(is_last);
        let one = tokio::sync::Mutex::new(());
        Self { steps: steps.clone(), team: team.clone(), input, deaths, deaths_max, last_try, one }
    }

    pub(crate) fn is_last_try(&self) -> bool {
        self.last_try.is_some()
    }

    /// Marks that the input is in progress and none of its turns is running.
    pub(crate) async fn begin(&self) -> Result<(), Rejected> {
        self.write(Mark { turns: self.deaths.clone(), last_try: self.last_try }).await
    }

    /// Marks that no turn is running: a later death counts for no turn.
    async fn clear(&self) -> Result<(), Rejected> {
        self.write(Mark { turns: self.deaths.clone(), last_try: None }).await
    }

    /// Marks the end of the input's turns. After a last try the step that follows does that.
    pub(crate) async fn end(&self, has_failed: bool) -> Result<(), Rejected> {
        if self.is_last_try() && !has_failed { Ok(()) } else { self.clear().await }
    }

    /// Marks that a turn is about to run; refuses one that has killed too often.
    async fn enter(&self, agent: &Name, event: EventId) -> Result<(), TurnFault> {
        let mut turns = self.deaths.clone();
        let place = turns.iter().position(|death| death.agent == *agent && death.event == event);
        let place = place.unwrap_or_else(|| {
            turns.push(Death { agent: agent.clone(), event, deaths: 0 });
            turns.len() - 1
        });
        let deaths = turns[place].deaths;
        if deaths >= self.deaths_max {
            return Err(TurnFault::Died(deaths));
        }
        if self.is_last_try() {
            return Ok(());
        }
        let marked = async {
            for _ in 0..deaths {
                self.clear().await?;
            }
            turns[place].deaths = deaths + 1;
            self.write(Mark { turns, last_try: None }).await
        };
        let marked = marked.await;
        marked.map_err(|rejected| TurnFault::Failed(format!("its attempt could not be marked: {rejected}")))
    }

    async fn write(&self, mark: Mark) -> Result<(), Rejected> {
        let value = Some(json!(mark).to_string().into());
        let fact = FactWrite { kind: FactKind::Attempt, owner: self.team.clone(), key: self.input.to_string(), value };
        self.steps.send_facts(vec![fact]).await
    }
}

/// Which members want which topic.
pub(crate) struct Routes {
    specs: Vec<Arc<AgentSpec>>,
    known: FxHashMap<Topic, Arc<[usize]>>,
    /// The first topic that was asked for, which is not in `known`: most teams of one agent never see another, and with
    /// a thousand of them each look into a map of its own is a miss of the processor's cache.
    first: Option<(Topic, Arc<[usize]>)>,
}

impl Routes {
    pub(crate) fn new(specs: Vec<Arc<AgentSpec>>) -> Self {
        Self { specs, known: FxHashMap::default(), first: None }
    }

    /// Who subscribes to a topic that addresses nobody and is not the first.
    fn of(&mut self, topic: &Topic) -> Arc<[usize]> {
        if let Some(members) = self.known.get(topic) {
            return members.clone();
        }
        let wants = |spec: &AgentSpec| spec.subscribes.iter().any(|filter| filter.matches(topic.as_str()));
        let members: Arc<[usize]> = (0..self.specs.len()).filter(|&place| wants(&self.specs[place])).collect();
        if self.first.is_none() {
            self.first = Some((topic.clone(), members.clone()));
            return members;
        }
        if self.known.len() >= ROUTES_MAX {
            self.known.clear();
        }
        self.known.insert(topic.clone(), members.clone());
        members
    }

    /// Who handles an event of a round, by place.
    fn receivers(&mut self, event: &RoundEvent) -> impl Iterator<Item = usize> + use<> {
        let topic = &event.event.topic;
        let (to, from, n) = (event.to, event.from, self.specs.len());
        let (members, named) = match &self.first {
            Some((first, members)) if first == topic => (Some(members.clone()), None),
            // Addresses are not remembered: a team that writes to a thousand others would keep them all. Who addresses
            // itself means it.
            _ => match topic.addressee() {
                Some(agent) => (None, self.specs.iter().position(|spec| spec.name.as_str() == agent)),
                None => (Some(self.of(topic)), None),
            },
        };
        (0..n).filter(move |place| {
            let subscribes = members.as_ref().is_some_and(|members| members.contains(place) && Some(*place) != from);
            subscribes || Some(*place) == to || Some(*place) == named
        })
    }
}

/// The members, wherever they run.
pub(crate) enum Crew {
    Together { members: Vec<Member>, scratch: Effects },
    Apart { remotes: Vec<Remote>, answers: mpsc::Receiver<(usize, Answer)> },
}

/// The executor's end of a member that runs in a task of its own.
pub(crate) struct Remote {
    spec: Arc<AgentSpec>,
    queue: mpsc::Sender<Request>,
    task: Task,
}

enum Request {
    Round(Vec<(usize, Arc<Event>)>, TurnRules),
    Save,
    Query(Query),
}

pub(crate) enum Answer {
    Round(Result<Decided, Failure>),
    Save(Result<StateWrites, TurnFault>),
    Query(Result<Value, AgentError>),
    /// The member's task ended by this panic.
    Gone(String),
}

/// One member's changed state.
pub(crate) type Saved = (usize, StateWrites);

impl Crew {
    pub(crate) fn together(members: Vec<Member>) -> Self {
        Self::Together { members, scratch: Effects::default() }
    }

    pub(crate) fn apart(env: &dyn Env, members: Vec<Member>) -> Self {
        let (answer, answers) = mpsc::channel(members.len().max(1));
        let remotes = members
            .into_iter()
            .map(|member| {
                let (queue, requests) = mpsc::channel(1);
                let spec = member.spec.clone();
                let name = format!("agent {}", spec.name);
                let (place, gone) = (member.place, answer.clone());
                let serving = contain(serve(member, requests, answer.clone()));
                let serving = async move {
                    if let Err(panic) = serving.await {
                        // An error means that the executor has gone too.
                        let _ = gone.send((place, Answer::Gone(panic))).await;
                    }
                };
                let task = tasks::spawn(env, &name, serving, |_| ());
                Remote { spec, queue, task }
            })
            .collect();
        Self::Apart { remotes, answers }
    }

    /// Drops the members, and waits for those that run in tasks of their own.
    pub(crate) async fn end(self) {
        // Members that are here are dropped with `self`.
        let Self::Apart { remotes, answers } = self else { return };
        drop(answers);
        for Remote { queue, task, .. } in remotes {
            drop(queue);
            // A task in a blocking call is left to end by itself.
            let _ = timeout(END_MAX, task.join()).await;
        }
    }

    /// Has every member handle the events of the round that it wants. Deterministic in content and order.
    pub(crate) async fn round(
        &mut self,
        round: &[RoundEvent],
        routes: &mut Routes,
        rules: &TurnRules,
        decided: &mut Decided,
    ) -> Result<(), TurnFailure> {
        match self {
            Self::Together { members, scratch } => {
                round_together(members, scratch, round, routes, rules, decided).await
            }
            Self::Apart { remotes, answers } => round_apart(remotes, answers, round, routes, rules, decided).await,
        }
    }

    /// What changed of the members' state, by place.
    pub(crate) async fn save(&mut self) -> Result<Vec<Saved>, (Name, TurnFault)> {
        match self {
            Self::Together { members, .. } => members
                .iter_mut()
                .filter_map(|member| match member.save() {
                    Ok(writes) if writes.is_empty() => None,
                    Ok(writes) => Some(Ok((member.place, writes))),
                    Err(fault) => Some(Err((member.spec.name.clone(), fault))),
                })
                .collect(),
            Self::Apart { remotes, answers } => {
                for remote in remotes.iter() {
                    // A closed queue shows as a missing answer below.
                    let _ = remote.queue.send(Request::Save).await;
                }
                let mut saved = Vec::new();
                for _ in 0..remotes.len() {
                    match answers.recv().await {
                        Some((place, Answer::Save(Ok(writes)))) => saved.push((place, writes)),
                        Some((place, Answer::Save(Err(fault)))) => {
                            return Err((remotes[place].spec.name.clone(), fault));
                        }
                        Some((place, Answer::Gone(panic))) => {
                            return Err((remotes[place].spec.name.clone(), TurnFault::Panicked(panic)));
                        }
                        _ => return Err((remotes[0].spec.name.clone(), gone())),
                    }
                }
                saved.sort_unstable_by_key(|(place, _)| *place);
                Ok(saved)
            }
        }
    }

    pub(crate) async fn query(&mut self, place: usize, query: Query) -> Result<Value, AgentError> {
        match self {
            Self::Together { members, .. } => members[place].query(&query),
            Self::Apart { remotes, answers } => {
                let _ = remotes[place].queue.send(Request::Query(query)).await;
                match answers.recv().await {
                    Some((_, Answer::Query(answer))) => answer,
                    Some((_, Answer::Gone(panic))) => Err(AgentError::new(TurnFault::Panicked(panic).to_string())),
                    _ => Err(AgentError::new(gone().to_string())),
                }
            }
        }
    }
}

fn gone() -> TurnFault {
    TurnFault::Failed("the member's task is gone".into())
}

/// One turn under the rules: skipped, marked first, or just run.
async fn turn(
    member: &mut Member,
    event: &Arc<Event>,
    rules: &TurnRules,
    effects: &mut Effects,
) -> Result<bool, TurnFailure> {
    if rules.skips.as_ref().is_some_and(|skips| skips.contains(&(member.spec.name.clone(), event.id))) {
        return Ok(false);
    }
    let _one = match &rules.gate {
        Some(gate) => Some(gate.one.lock().await),
        None => None,
    };
    let run = async {
        if let Some(gate) = &rules.gate {
            gate.enter(&member.spec.name, event.id).await?;
        }
        member.turn(event, rules.input, effects).await
    };
    let ran = run.await;
    ran.map(|()| true).map_err(|fault| TurnFailure { agent: member.spec.name.clone(), event: event.clone(), fault })
}

async fn round_together(
    members: &mut [Member],
    scratch: &mut Effects,
    round: &[RoundEvent],
    routes: &mut Routes,
    rules: &TurnRules,
    decided: &mut Decided,
) -> Result<(), TurnFailure> {
    for member in members.iter_mut() {
        member.begin_round();
    }
    for (on, entry) in round.iter().enumerate() {
        for place in routes.receivers(entry) {
            decided.turns += u64::from(turn(&mut members[place], &entry.event, rules, scratch).await?);
            if !scratch.is_empty() {
                decided.count(scratch, &members[place], &entry.event)?;
                decided.events.extend(scratch.published.drain(..).map(|event| (on, place, event)));
                decided.timers.extend(scratch.timers.drain(..).map(|timer| (place, timer)));
            }
        }
    }
    Ok(())
}

async fn round_apart(
    remotes: &[Remote],
    answers: &mut mpsc::Receiver<(usize, Answer)>,
    round: &[RoundEvent],
    routes: &mut Routes,
    rules: &TurnRules,
    decided: &mut Decided,
) -> Result<(), TurnFailure> {
    let mut wanted: Vec<Vec<(usize, Arc<Event>)>> = vec![Vec::new(); remotes.len()];
    for (on, entry) in round.iter().enumerate() {
        for place in routes.receivers(entry) {
            wanted[place].push((on, entry.event.clone()));
        }
    }
    // Receivers are counted before the first is sent to: an early answer must not look like the last.
    let receivers = wanted.iter().filter(|events| !events.is_empty()).count();
    let Some(first) = round.first() else { return Ok(()) };
    let lost = |place: usize| TurnFailure {
        agent: remotes[place].spec.name.clone(),
        event: first.event.clone(),
        fault: gone(),
    };
    for (place, events) in wanted.into_iter().enumerate().filter(|(_, events)| !events.is_empty()) {
        if remotes[place].queue.send(Request::Round(events, rules.clone())).await.is_err() {
            return Err(lost(place));
        }
    }
    let mut failed: Option<(usize, usize, TurnFailure)> = None;
    for _ in 0..receivers {
        match answers.recv().await {
            Some((_, Answer::Round(Ok(part)))) => {
                decided.events.extend(part.events);
                decided.timers.extend(part.timers);
                decided.bytes += part.bytes;
                decided.turns += part.turns;
            }
            Some((place, Answer::Round(Err((on, failure))))) => {
                // The failure that a team together would have met first.
                if failed.as_ref().is_none_or(|(best_on, best_place, _)| (on, place) < (*best_on, *best_place)) {
                    failed = Some((on, place, failure));
                }
            }
            Some((place, Answer::Gone(panic))) => {
                return Err(TurnFailure { fault: TurnFault::Panicked(panic), ..lost(place) });
            }
            _ => return Err(lost(0)),
        }
    }
    if let Some((_, _, failure)) = failed {
        return Err(failure);
    }
    // Stable: what one member published on one event keeps its order. Timers of different members never
    // meet, and those of one member arrive in its order.
    decided.events.sort_by_key(|(on, place, _)| (*on, *place));
    decided.timers.sort_by_key(|(place, _)| *place);
    Ok(())
}

/// The task of a member that runs apart.
async fn serve(mut member: Member, mut requests: mpsc::Receiver<Request>, answers: mpsc::Sender<(usize, Answer)>) {
    let place = member.place;
    while let Some(request) = requests.recv().await {
        let answer = match request {
            Request::Round(events, rules) => Answer::Round(handle_round(&mut member, events, &rules).await),
            Request::Save => Answer::Save(member.save()),
            Request::Query(query) => Answer::Query(member.query(&query)),
        };
        if answers.send((place, answer)).await.is_err() {
            return;
        }
    }
}

async fn handle_round(
    member: &mut Member,
    events: Vec<(usize, Arc<Event>)>,
    rules: &TurnRules,
) -> Result<Decided, Failure> {
    let mut decided = Decided::default();
    let mut effects = Effects::default();
    member.begin_round();
    for (on, event) in events {
        let ran = turn(member, &event, rules, &mut effects).await.map_err(|failure| (on, failure))?;
        decided.turns += u64::from(ran);
        decided.count(&mut effects, member, &event).map_err(|failure| (on, failure))?;
        decided.events.extend(effects.published.drain(..).map(|event| (on, member.place, event)));
        decided.timers.extend(effects.timers.drain(..).map(|timer| (member.place, timer)));
    }
    Ok(decided)
}
