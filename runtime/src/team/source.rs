//! A source's stream, read ahead on a task of its own.
//!
//! The task turns items into events (id, encoding, declaration check), so that this work is done beside the
//! executor, and hands them over in chunks through a bounded queue.

use std::{collections::VecDeque, sync::Arc, task};

use atra_bus::{Env, Event, EventId, Name, Task, Timestamp};
use futures::{StreamExt, stream::ReadyChunks};
use tokio::sync::mpsc;

use crate::{AgentError, AgentSpec, Source, SourceItem, limits::Limits};

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
    _task: Task,
}

impl SourceReader {
    pub(crate) fn spawn(
        env: &Arc<dyn Env>,
        member: usize,
        spec: Arc<AgentSpec>,
        source: Source,
        limits: &Limits,
    ) -> Self {
        let chunk_items_max = limits.read_ahead_inputs_max.min(CHUNK_ITEMS_MAX);
        let chunks = limits.read_ahead_inputs_max / chunk_items_max;
        let (sender, queue) = mpsc::channel(chunks);
        let name = format!("source {}", spec.name);
        let items = source.ready_chunks(chunk_items_max);
        let task = env.spawn(&name, Box::pin(read_ahead(items, spec, limits.event_bytes_max, sender, env.clone())));
        Self { member, queue, buffer: VecDeque::new(), ended: false, _task: task }
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
    mut items: ReadyChunks<Source>,
    spec: Arc<AgentSpec>,
    event_bytes_max: usize,
    sender: mpsc::Sender<Vec<Item>>,
    env: Arc<dyn Env>,
) {
    while let Some(chunk) = items.next().await {
        let mut ready = Vec::with_capacity(chunk.len());
        for item in chunk {
            let item = to_item(item, &spec, event_bytes_max, &*env);
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

fn to_item(item: Result<SourceItem, AgentError>, spec: &AgentSpec, event_bytes_max: usize, env: &dyn Env) -> Item {
    let (draft, partition, offset) = match item {
        Ok(SourceItem::Input { event, partition, offset }) => (event, partition, offset),
        Ok(SourceItem::Idle { until }) => return Item::Idle(until),
        Ok(SourceItem::End) => return Item::End,
        Err(error) => return Item::Failed(error.to_string()),
    };
    let topic = draft.topic.as_str();
    if draft.topic.is_reserved() {
        return Item::Failed(format!("a source cannot publish on {topic}, which is the runtime's"));
    }
    if !spec.publishes.iter().any(|declared| declared.filter.as_str() == topic || declared.filter.matches(topic)) {
        return Item::Failed(format!("its spec does not declare topic {topic}: add publishes_on({topic:?}, …)"));
    }
    match draft.payload.json() {
        Ok(json) if json.len() <= event_bytes_max => {}
        Ok(json) => {
            let bytes = json.len();
            return Item::Failed(format!("{topic} of {bytes} bytes is above the limit of {event_bytes_max}"));
        }
        Err(error) => return Item::Failed(error.to_string()),
    }
    let id = source_id(&spec.name, &partition, &offset);
    let event = Event {
        id,
        topic: draft.topic,
        version: draft.version,
        // An own input is journalled whatever its type: it is what a replay begins with.
        durable: true,
        source: spec.name.clone(),
        time: draft.time.unwrap_or_else(|| env.now()),
        cause: None,
        root: id,
        hops: 0,
        payload: draft.payload,
    };
    Item::Input(Produced { event: Arc::new(event), partition, offset })
}

fn source_id(source: &Name, partition: &str, offset: &str) -> EventId {
    let mut text = String::with_capacity(partition.len() + offset.len() + 8);
    text.push_str("source\0");
    text.push_str(partition);
    text.push('\0');
    text.push_str(offset);
    EventId::of(source, &text)
}
