//! Many teams of one agent, each with a topic of its own: what an event costs when most teams do not want it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use atra_bus::{Draft, Event, Topic};
use atra_runtime::{Agent, AgentError, AgentSpec, Context, Runtime, RuntimeBuilder, Team};
use atra_storage::{MemoryStore, SqliteOptions, SqliteStore};
use tempfile::TempDir;

use crate::{
    measure::{Contender, Scale, medians, on_worker, runtime},
    report::{Case, Reporter, Unit},
};

/// Callers with a publish on its way each. With many, ten teams find dozens of events at every wake-up, where each of a
/// thousand finds one; with few, all find one, and only the number of teams differs.
const MANY: usize = 512;
const FEW: usize = 8;

/// Where the events are kept.
#[derive(Clone, Copy)]
enum Kept {
    Sqlite,
    Model,
}

/// Measures what an event costs from the publish until it is settled, with 10, 100 and 1,000 teams.
pub(crate) fn run(scale: Scale, reporter: &mut Reporter) {
    let tokio = runtime();
    let kinds = [
        (Kept::Sqlite, false, MANY, "teams, SQLite"),
        (Kept::Model, false, MANY, "teams, model store"),
        (Kept::Sqlite, false, FEW, "teams, SQLite, 8 callers"),
        (Kept::Model, false, FEW, "teams, model store, 8 callers"),
        (Kept::Sqlite, true, MANY, "teams that answer, SQLite"),
    ];
    for (kept, answers, n_callers, kind) in kinds {
        let swarm = |n_teams| {
            let swarm = tokio.block_on(Swarm::start(n_teams, kept, answers));
            let (tokio, n) = (&tokio, scale.events / if n_callers == FEW { 40 } else { 10 });
            move || tokio.block_on(swarm.clone().cost(n, n_callers))
        };
        let mut contenders =
            [Contender::new("10", swarm(10)), Contender::new("100", swarm(100)), Contender::new("1,000", swarm(1_000))];
        let values = medians(scale.turns, &mut contenders);
        let reference = format!("10 {kind}");
        for (contender, value) in contenders.iter().zip(&values).skip(1) {
            let name = format!("{} {kind}", contender.name);
            let case = Case { bench: "swarm", name: &name, unit: Unit::NanosecondsPerEvent };
            reporter.print(&case.report(*value, &reference, values[0]));
        }
    }
}

#[derive(Clone)]
struct Swarm {
    runtime: Runtime,
    topics: Arc<[Topic]>,
    /// Where the file is, if there is one.
    _folder: Arc<TempDir>,
}

impl Swarm {
    async fn start(n_teams: usize, kept: Kept, answers: bool) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let mut builder = match kept {
            Kept::Model => RuntimeBuilder::new(MemoryStore::new()),
            Kept::Sqlite => {
                let options = SqliteOptions::new(folder.path().join("bench.db"));
                RuntimeBuilder::new(SqliteStore::open(options).await.expect("created"))
            }
        };
        for n in 0..n_teams {
            builder = builder.team(Team::of(move || Counter { n, answers, counted: 0 }));
        }
        let runtime = builder.start().await.expect("started");
        runtime.idle().await;
        let topics = (0..n_teams).map(|n| Topic::new(&format!("swarm.topic-{n}")).expect("a topic")).collect();
        Self { runtime, topics, _folder: Arc::new(folder) }
    }

    /// Nanoseconds per event, from the first publish until every team has settled everything.
    async fn cost(self, n: usize, n_callers: usize) -> f64 {
        let inputs = |runtime: &Runtime| runtime.status().iter().map(|team| team.inputs).sum::<u64>();
        let before = inputs(&self.runtime);
        on_worker(async move {
            let start = Instant::now();
            let callers: Vec<_> = (0..n_callers)
                .map(|caller| {
                    let Self { runtime, topics, .. } = self.clone();
                    tokio::spawn(async move {
                        for at in (caller..n).step_by(n_callers) {
                            let topic = topics[at % topics.len()].clone();
                            runtime.publish(Draft::new(topic, at)).await.expect("committed");
                        }
                    })
                })
                .collect();
            for caller in callers {
                caller.await.expect("a caller does not panic");
            }
            self.runtime.idle().await;
            let elapsed: Duration = start.elapsed();
            assert_eq!(inputs(&self.runtime) - before, n as u64, "every event is handled once");
            elapsed.as_nanos() as f64 / n as f64
        })
        .await
    }
}

/// Counts what comes on its topic.
struct Counter {
    n: usize,
    answers: bool,
    counted: u64,
}

#[async_trait]
impl Agent for Counter {
    fn spec(&self) -> AgentSpec {
        let spec = AgentSpec::new(&format!("counter-{}", self.n)).subscribes(&format!("swarm.topic-{}", self.n));
        if self.answers { spec.publishes_on("answer.*", true) } else { spec }
    }

    async fn handle(&mut self, _: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        self.counted += 1;
        if self.answers {
            cx.publish(Draft::new(Topic::new(&format!("answer.topic-{}", self.n))?, self.counted))?;
        }
        Ok(())
    }
}
