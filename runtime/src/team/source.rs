//! A source's stream, read ahead on a task of its own.
//!
//! The task turns items into events (id, encoding, declaration check), so that this work is done beside the
//! executor, and hands them over in chunks through a bounded queue.

use std::{collections::VecDeque, sync::Arc, task};

use atra_bus::{
    Draft, Env, Event, EventId, Filter, Name, Task, Timestamp,
    contain::{Contained, DropPanics, contain},
};
use futures::StreamExt;
use rustc_hash::FxHashSet;
use tokio::{sync::mpsc, time::timeout};

use super::crew::END_MAX;
use crate::{AgentError, AgentSpec, KEY_BYTES_MAX, Source, SourceItem, limits::Limits, tasks};

/// Items per chunk: one queue operation and one wake-up for many.
const CHUNK_ITEMS_MAX: usize = 256;

/// An input from a source, ready to be taken.
#[derive(Debug)]
pub(crate) struct Produced {
    pub(crate) event: Arc<Event>,
    pub(crate) partition: Arc<str>,
    pub(crate) offset: String,
}

#[derive(Debug)]
pub(crate) enum Item {
    Input(Produced),
    Idle(Timestamp),
    End,
    Failed(String),
}

impl Item {
    /// The time that merging several sources goes by; `None` for an end.
    pub(crate) fn time(&self) -> Option<Timestamp> {
        match self {
            Self::Input(produced) => Some(produced.event.time),
            Self::Idle(until) => Some(*until),
            Self::End | Self::Failed(_) => None,
        }
    }
}

/// The executor's end of a source.
pub(crate) struct SourceReader {
    /// The member whose source it is.
    pub(crate) member: usize,
    queue: mpsc::Receiver<Vec<Item>>,
    buffer: VecDeque<Item>,
    pub(crate) ended: bool,
    /// Owned so that the stream ends with its team.
    task: Task,
}

impl SourceReader {
    /// `drops` gets a panic of the stream's destructor.
    pub(crate) fn spawn(
        env: &Arc<dyn Env>,
        member: usize,
        spec: Arc<AgentSpec>,
        source: Source,
        settled: Vec<EventId>,
        limits: &Limits,
        drops: Arc<DropPanics>,
    ) -> Self {
        let chunk_items_max = limits.read_ahead_inputs_max.min(CHUNK_ITEMS_MAX);
        let chunks = limits.read_ahead_inputs_max / chunk_items_max;
        let (sender, queue) = mpsc::channel(chunks);
        let name = format!("source {}", spec.name);
        let maker = Maker::new(spec, settled, limits, env.clone());
        let source = Contained::new(source, &name, drops);
        let reading = contain(read_ahead(source, chunk_items_max, maker, sender.clone()));
        let reading = async move {
            if let Err(panic) = reading.await {
                // An error means that the team has ended and needs no message.
                let _ = sender.send(vec![Item::Failed(format!("source panicked: {panic}"))]).await;
            }
        };
        let task = tasks::spawn(&**env, &name, reading, |_| ());
        Self { member, queue, buffer: VecDeque::new(), ended: false, task }
    }

    /// Ends the stream and waits until it is dropped.
    pub(crate) async fn end(self) {
        self.task.abort();
        // A stream in a blocking call is left to end by itself.
        let _ = timeout(END_MAX, self.task.join()).await;
    }

    /// The next item, if one is here.
    pub(crate) fn head(&mut self) -> Option<&Item> {
        if self.buffer.is_empty() && !self.ended {
            match self.queue.try_recv() {
                Ok(chunk) => self.buffer.extend(chunk),
                Err(mpsc::error::TryRecvError::Empty) => {}
                Err(mpsc::error::TryRecvError::Disconnected) => self.buffer.push_back(stopped_early()),
            }
        }
        self.buffer.front()
    }

    pub(crate) fn take(&mut self) -> Option<Item> {
        self.buffer.pop_front()
    }

    /// Whether nothing is here but something may come. Does not look into the queue: what it took from
    /// there would be news that nobody hears of.
    pub(crate) fn wants(&self) -> bool {
        self.buffer.is_empty() && !self.ended
    }

    /// Polls for a chunk; ready when there is something to take.
    pub(crate) fn poll_fill(&mut self, cx: &mut task::Context<'_>) -> task::Poll<()> {
        match task::ready!(self.queue.poll_recv(cx)) {
            Some(chunk) => self.buffer.extend(chunk),
            None => self.buffer.push_back(stopped_early()),
        }
        task::Poll::Ready(())
    }
}

fn stopped_early() -> Item {
    Item::Failed("the source's stream closed without saying End".into())
}

async fn read_ahead(
    mut source: Contained<Source>,
    chunk_items_max: usize,
    mut maker: Maker,
    sender: mpsc::Sender<Vec<Item>>,
) {
    let mut items = (&mut *source).ready_chunks(chunk_items_max);
    while let Some(chunk) = items.next().await {
        let mut ready = Vec::with_capacity(chunk.len());
        for item in chunk {
            let item = maker.item(item);
            let last = matches!(item, Item::End | Item::Failed(_));
            ready.push(item);
            if last {
                break;
            }
        }
        let last = matches!(ready.last(), Some(Item::End | Item::Failed(_)));
        // An error means that the team is gone: nobody wants more.
        if sender.send(ready).await.is_err() || last {
            return;
        }
    }
}

/// Converts a source's items into inputs, and refuses invalid ones.
struct Maker {
    spec: Arc<AgentSpec>,
    event_bytes_max: usize,
    env: Arc<dyn Env>,
    /// Ids of earlier inputs, oldest first, to detect repeats.
    recent: VecDeque<EventId>,
    known: FxHashSet<EventId>,
}

/// Inputs of a source among which a repeated offset is noticed. 8,192: twice the read-ahead, in 400 KB.
const RECENT_IDS_MAX: usize = 8_192;

impl Maker {
    fn new(spec: Arc<AgentSpec>, settled: Vec<EventId>, limits: &Limits, env: Arc<dyn Env>) -> Self {
        let known = settled.iter().copied().collect();
        Self { spec, event_bytes_max: limits.event_bytes_max, env, recent: settled.into(), known }
    }

    fn item(&mut self, item: Result<SourceItem, AgentError>) -> Item {
        match item {
            Ok(SourceItem::Input { event, partition, offset }) => self.input(event, partition, offset),
            Ok(SourceItem::Idle { until }) => Item::Idle(until),
            Ok(SourceItem::End) => Item::End,
            Err(error) => Item::Failed(error.to_string()),
        }
    }

    fn input(&mut self, draft: Draft, partition: Arc<str>, offset: String) -> Item {
        if let Err(cause) = self.check(&draft).and_then(|()| check_place(&partition, &offset)) {
            return Item::Failed(cause);
        }
        let id = source_id(&self.spec.name, &partition, &offset);
        if !self.is_new(id) {
            let place = format!("partition {partition:?} has offset {offset:?} a second time");
            return Item::Failed(format!(
                "{place}: an offset must be unique within its partition; reading continues after it"
            ));
        }
        let event = Event {
            id,
            topic: draft.topic,
            version: draft.version,
            // An own input is journalled even if its type is passing, since a replay needs it.
            durable: true,
            source: self.spec.name.clone(),
            time: draft.time.unwrap_or_else(|| self.env.now()),
            cause: None,
            root: id,
            hops: 0,
            payload: draft.payload,
        };
        Item::Input(Produced { event: Arc::new(event), partition, offset })
    }

    fn check(&self, draft: &Draft) -> Result<(), String> {
        let (topic, limit) = (draft.topic.as_str(), self.event_bytes_max);
        if draft.topic.is_reserved() {
            return Err(format!("a source cannot publish on {topic}, which is the runtime's"));
        }
        let suits = |filter: &Filter| filter.as_str() == topic || filter.matches(topic);
        if !self.spec.publishes.iter().any(|declared| suits(&declared.filter)) {
            return Err(format!("its spec does not declare topic {topic}: add publishes_on({topic:?}, …)"));
        }
        match draft.payload.json() {
            Ok(json) if json.len() <= limit => Ok(()),
            Ok(json) => Err(format!("{topic} of {} bytes is above the limit of {limit}", json.len())),
            Err(error) => Err(format!("{topic}: {error}")),
        }
    }

    /// Notes an id; `false` if it was there before.
    fn is_new(&mut self, id: EventId) -> bool {
        if !self.known.insert(id) {
            return false;
        }
        if self.recent.len() >= RECENT_IDS_MAX
            && let Some(oldest) = self.recent.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.recent.push_back(id);
        true
    }
}

/// Refuses an offset or partition that would give two inputs the same id, or that cannot be stored as a key.
fn check_place(partition: &str, offset: &str) -> Result<(), String> {
    for (what, text) in [("partition", partition), ("offset", offset)] {
        let n = text.len();
        if n > KEY_BYTES_MAX {
            return Err(format!("a source's {what} of {n} bytes is above the limit of {KEY_BYTES_MAX}"));
        }
        if text.contains('\0') {
            return Err(format!(
                "a source's {what} {text:?} has a NUL character, which separates partition and offset"
            ));
        }
    }
    Ok(())
}

fn source_id(source: &Name, partition: &str, offset: &str) -> EventId {
    EventId::of_all(source, &["source", partition, offset])
}
