//! What the bus is measured against: the same fan-out to seven, by channels and by actor crates.
//!
//! Every contender gets the same events, hands each to [`LISTENERS`] listeners and loses none: where the
//! mailbox is bounded, its bound paces the publisher; where it is not, or where it would drop (broadcast),
//! the publisher waits for the slowest listener as [`Progress::pace`] says. A listener checks the order.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use actix::{Actor as _, prelude as ax};
use atra_bus::Event;
use kameo::{actor::Spawn as _, mailbox, message as km};
use tokio::sync::{broadcast, mpsc};

use crate::measure::per_second;

/// How many listeners there are: the desk that ships with atra has seven agents.
pub(crate) const LISTENERS: usize = 7;
/// How many events a queue, ring or mailbox holds.
pub(crate) const CAPACITY: usize = 4_096;
/// How often a paced publisher looks at the listeners' progress.
const PACE_EVERY: usize = 256;

/// On a cache line of its own: listeners must not slow each other down.
#[repr(align(128))]
#[derive(Default)]
struct Count(AtomicU64);

/// How far each listener is.
#[derive(Default)]
pub(crate) struct Progress([Count; LISTENERS]);

impl Progress {
    /// The slowest listener's count.
    fn slowest(&self) -> usize {
        self.0.iter().map(|count| count.0.load(Ordering::Acquire)).min().unwrap_or(0) as usize
    }

    /// Lets the publisher run at most [`CAPACITY`] ahead of the slowest listener.
    pub(crate) async fn pace(&self, published: usize) {
        if published.is_multiple_of(PACE_EVERY) {
            self.reached((published + PACE_EVERY).saturating_sub(CAPACITY)).await;
        }
    }

    /// Waits until every listener has had `n` events.
    pub(crate) async fn reached(&self, n: usize) {
        while self.slowest() < n {
            tokio::task::yield_now().await;
        }
    }
}

/// One listener: checks that the events come in order, without gap or repeat.
pub(crate) struct Listener {
    place: usize,
    heard: u64,
    progress: Arc<Progress>,
}

impl Listener {
    /// Seven of them.
    pub(crate) fn all(progress: &Arc<Progress>) -> Vec<Self> {
        (0..LISTENERS).map(|place| Self { place, heard: 0, progress: progress.clone() }).collect()
    }

    /// Takes one event.
    pub(crate) fn hear(&mut self, event: &Event) {
        assert_eq!(event.time.0 as u64, self.heard, "a contender lost or repeated an event");
        self.heard += 1;
        self.progress.0[self.place].0.store(self.heard, Ordering::Release);
    }
}

/// `tokio::sync::broadcast`, paced so that it loses nothing.
pub(crate) async fn tokio_broadcast(events: &[Arc<Event>]) -> f64 {
    let progress = Arc::new(Progress::default());
    let (tx, _) = broadcast::channel::<Arc<Event>>(CAPACITY);
    for mut listener in Listener::all(&progress) {
        let mut rx = tx.subscribe();
        tokio::spawn(async move {
            loop {
                match rx.recv().await {
                    Ok(event) => listener.hear(&event),
                    Err(broadcast::error::RecvError::Closed) => break,
                    Err(broadcast::error::RecvError::Lagged(n)) => panic!("broadcast lost {n}: not paced"),
                }
            }
        });
    }
    let start = Instant::now();
    for (n, event) in (1..).zip(events) {
        assert!(tx.send(event.clone()).is_ok(), "all listeners are there");
        progress.pace(n).await;
    }
    progress.reached(events.len()).await;
    per_second(events.len(), start)
}

/// One bounded `tokio::sync::mpsc` per listener.
pub(crate) async fn tokio_mpsc(events: &[Arc<Event>]) -> f64 {
    let progress = Arc::new(Progress::default());
    let mut queues = Vec::new();
    for mut listener in Listener::all(&progress) {
        let (tx, mut rx) = mpsc::channel::<Arc<Event>>(CAPACITY);
        queues.push(tx);
        tokio::spawn(async move {
            while let Some(event) = rx.recv().await {
                listener.hear(&event);
            }
        });
    }
    let start = Instant::now();
    for event in events {
        for queue in &queues {
            assert!(queue.send(event.clone()).await.is_ok(), "all listeners are there");
        }
    }
    progress.reached(events.len()).await;
    per_second(events.len(), start)
}

// === kameo ===

/// The message of the actor crates.
struct Said(Arc<Event>);

impl kameo::Actor for Listener {
    type Args = Self;
    type Error = kameo::error::Infallible;

    async fn on_start(args: Self, _: kameo::actor::ActorRef<Self>) -> Result<Self, Self::Error> {
        Ok(args)
    }
}

impl km::Message<Said> for Listener {
    type Reply = ();

    async fn handle(&mut self, said: Said, _: &mut km::Context<Self, ()>) {
        self.hear(&said.0);
    }
}

/// kameo actors with bounded mailboxes, `tell`.
pub(crate) async fn kameo(events: &[Arc<Event>]) -> f64 {
    let progress = Arc::new(Progress::default());
    let actors: Vec<_> = Listener::all(&progress)
        .into_iter()
        .map(|listener| Listener::spawn_with_mailbox(listener, mailbox::bounded(CAPACITY)))
        .collect();
    let start = Instant::now();
    for event in events {
        for actor in &actors {
            assert!(actor.tell(Said(event.clone())).await.is_ok(), "all listeners are there");
        }
    }
    progress.reached(events.len()).await;
    let value = per_second(events.len(), start);
    for actor in actors {
        actor.kill();
        actor.wait_for_shutdown().await;
    }
    value
}

// === ractor ===

struct Ractor;

impl ractor::Actor for Ractor {
    type Msg = Said;
    type State = Listener;
    type Arguments = Listener;

    async fn pre_start(
        &self,
        _: ractor::ActorRef<Said>,
        listener: Listener,
    ) -> Result<Listener, ractor::ActorProcessingErr> {
        Ok(listener)
    }

    async fn handle(
        &self,
        _: ractor::ActorRef<Said>,
        said: Said,
        listener: &mut Listener,
    ) -> Result<(), ractor::ActorProcessingErr> {
        listener.hear(&said.0);
        Ok(())
    }
}

/// ractor actors (unbounded mailboxes), `cast`, paced.
pub(crate) async fn ractor(events: &[Arc<Event>]) -> f64 {
    let progress = Arc::new(Progress::default());
    let mut actors = Vec::new();
    for listener in Listener::all(&progress) {
        match ractor::Actor::spawn(None, Ractor, listener).await {
            Ok(actor) => actors.push(actor),
            Err(error) => panic!("ractor did not start: {error}"),
        }
    }
    let start = Instant::now();
    for (n, event) in (1..).zip(events) {
        for (actor, _) in &actors {
            assert!(actor.cast(Said(event.clone())).is_ok(), "all listeners are there");
        }
        progress.pace(n).await;
    }
    progress.reached(events.len()).await;
    let value = per_second(events.len(), start);
    for (actor, handle) in actors {
        actor.stop(None);
        let _ = handle.await;
    }
    value
}

// === actix ===

impl ax::Message for Said {
    type Result = ();
}

impl ax::Actor for Listener {
    type Context = ax::Context<Self>;
}

impl ax::Handler<Said> for Listener {
    type Result = ();

    fn handle(&mut self, said: Said, _: &mut ax::Context<Self>) {
        self.hear(&said.0);
    }
}

/// actix actors on one arbiter (a second thread), `do_send`, paced: actix has runtimes of its own.
pub(crate) fn actix(events: &[Arc<Event>]) -> f64 {
    ax::System::new().block_on(async {
        let progress = Arc::new(Progress::default());
        let arbiter = ax::Arbiter::new();
        let actors: Vec<_> = Listener::all(&progress)
            .into_iter()
            .map(|listener| Listener::start_in_arbiter(&arbiter.handle(), move |_| listener))
            .collect();
        let start = Instant::now();
        for (n, event) in (1..).zip(events) {
            for actor in &actors {
                actor.do_send(Said(event.clone()));
            }
            progress.pace(n).await;
        }
        progress.reached(events.len()).await;
        let value = per_second(events.len(), start);
        drop(actors);
        arbiter.stop();
        // Joined on purpose: a turn must not run into the next one's time.
        let _ = arbiter.join();
        value
    })
}
