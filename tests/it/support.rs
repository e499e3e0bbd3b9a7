//! Fixtures: small agents, and runtimes on the model store. Everything is defaulted, so each option that a
//! test writes matters.

use std::sync::Arc;

use async_trait::async_trait;
use atra_bus::{Committed, Draft, Event, Filter, Interest, Seq, Topic};
use atra_runtime::{Agent, AgentError, AgentSpec, Context, Offsets, Source, SourceItem, StateReader, StateWriter};
use atra_storage::Read;
use futures::stream;
use serde_json::{Value, json};

/// What a [`Script`] does with an event.
type Handler<S> = dyn Fn(&mut S, &Event, &mut Context<'_>) -> Result<(), AgentError> + Send + Sync;

/// An agent made of a spec, a serialisable state and a function: enough for most tests.
pub(crate) struct Script<S> {
    pub(crate) spec: AgentSpec,
    pub(crate) state: S,
    pub(crate) handler: Arc<Handler<S>>,
}

impl<S> Script<S> {
    pub(crate) fn new(
        spec: AgentSpec,
        state: S,
        handler: impl Fn(&mut S, &Event, &mut Context<'_>) -> Result<(), AgentError> + Send + Sync + 'static,
    ) -> Self {
        Self { spec, state, handler: Arc::new(handler) }
    }
}

#[async_trait]
impl<S> Agent for Script<S>
where
    S: serde::Serialize + serde::de::DeserializeOwned + Send + Sync,
{
    fn spec(&self) -> AgentSpec {
        self.spec.clone()
    }
    async fn start(&mut self, state: &StateReader<'_>) -> Result<(), AgentError> {
        if let Some(saved) = state.get("state")? {
            self.state = saved;
        }
        Ok(())
    }
    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        (self.handler)(&mut self.state, event, cx)
    }
    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        state.put("state", &self.state)
    }
    fn query(&self, _query: &atra_runtime::Query) -> Result<Value, AgentError> {
        Ok(json!(self.state))
    }
}

/// A source of the numbers 1 ..= `n` on `numbers.<name>`, one virtual second apart; its offset is the number.
pub(crate) struct Numbers {
    pub(crate) name: &'static str,
    pub(crate) n: u64,
}

#[async_trait]
impl Agent for Numbers {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new(self.name).source().publishes_on("numbers.*", true)
    }
    async fn handle(&mut self, _event: &Event, _cx: &mut Context<'_>) -> Result<(), AgentError> {
        Ok(())
    }
    fn source(&self, offsets: &Offsets) -> Option<Source> {
        let first = offsets.get("n").map_or(0, |text| text.parse::<u64>().unwrap()) + 1;
        let topic = Topic::new(&format!("numbers.{}", self.name)).unwrap();
        let inputs = (first..=self.n).map(move |n| {
            let event = Draft::new(topic.clone(), n).at(atra_bus::Timestamp(n as i64 * 1000));
            Ok(SourceItem::Input { event, partition: "n".into(), offset: n.to_string() })
        });
        Some(Box::pin(stream::iter(inputs.chain([Ok(SourceItem::End)]))))
    }
}

/// A topic of the program.
pub(crate) fn topic(text: &str) -> Topic {
    Topic::new(text).unwrap()
}

/// Everything in the journal, but the runtime's own events.
pub(crate) async fn journal(reader: &dyn Read) -> Vec<Committed> {
    let all = Interest::in_topics(vec![Filter::all()]);
    let last = reader.last_seq().await.unwrap();
    let (events, _) = reader.journal(Seq::ZERO, last, &all, usize::MAX).await.unwrap();
    events.into_iter().filter(|committed| !committed.event.topic.as_str().starts_with("sys.team")).collect()
}

/// `topic payload` of everything in the journal, in order.
pub(crate) async fn lines(reader: &dyn Read) -> Vec<String> {
    let events = journal(reader).await;
    events.iter().map(|c| format!("{} {}", c.event.topic, c.event.payload.json().unwrap())).collect()
}
