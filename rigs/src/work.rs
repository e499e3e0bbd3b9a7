//! The work of the child: producers, teams and an import at once, through one storage actor on SQLite.

use std::{
    cell::{Cell, RefCell},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use atra_bus::Batch;
use atra_storage::{
    Acknowledged, Ancestor, Block, FactKind, FactWrite, Level, NewEvent, Publish, Rejected, Release, SqliteOptions,
    SqliteStore, Step, Storage, StorageOptions, StorageState,
    conformance::{event, name},
};
use futures::future::{join, join_all};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::ledger::{Ledger, Line};

/// Orders of one life begin at a multiple of this.
pub const LIFE: u64 = 1_000_000_000;
/// Orders of one producer or team begin at a multiple of this.
pub const PRODUCER: u64 = 1_000_000;
/// Teams come after this many producers.
pub const TEAMS: u64 = 900;
/// The series that blocks go to.
pub const SERIES: &str = "series";
/// Size of a block.
pub const BLOCK_BYTES: usize = 32 << 10;

/// What a child does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Work {
    /// The database.
    pub db: PathBuf,
    /// The ledger.
    pub ledger: PathBuf,
    /// Which start of a child on this database it is: makes its orders its own.
    pub life: u64,
    /// Callers that publish one event after the other.
    pub producers: u64,
    /// Teams that submit one step after the other.
    pub teams: u64,
    /// How many each producer and team sends; the end of the process is the end otherwise.
    pub each: u64,
    /// Imports of eight blocks, one after the other.
    pub imports: u64,
    /// Backups, one after the other, while the rest goes on.
    pub backups: u64,
    /// One in so many is asked for at level power; 0: none.
    pub power_every: u64,
    /// The largest payload.
    pub bytes_max: u64,
    /// After how long without work the log is moved into the database.
    pub checkpoint_ms: u64,
    /// From which size on the log is begun anew under load.
    pub wal_bytes_max: u64,
    /// How large the database may become before producers are refused.
    pub db_bytes_max: Option<u64>,
    /// Work ends early when a file of this name exists.
    pub until: Option<PathBuf>,
}

impl Work {
    /// A short work on a database, with its ledger beside it.
    #[must_use]
    pub fn on(db: PathBuf) -> Self {
        let ledger = db.with_extension("ledger");
        Self {
            db,
            ledger,
            life: 1,
            producers: 3,
            teams: 2,
            each: 30,
            imports: 2,
            backups: 0,
            power_every: 0,
            bytes_max: 2_000,
            checkpoint_ms: 5,
            wal_bytes_max: 64 << 20,
            db_bytes_max: None,
            until: None,
        }
    }
}

impl Work {
    /// Where the n-th backup goes.
    #[must_use]
    pub fn copy(&self, n: u64) -> PathBuf {
        self.db.with_extension(format!("copy-{}-{n}", self.life))
    }
}

/// The value of a block's bytes.
#[must_use]
pub fn block_byte(start: i64) -> u8 {
    (start % 251) as u8
}

/// Nobody listens.
pub(crate) struct Nobody;

impl Release for Nobody {
    fn release(&self, _: &Arc<Batch>) {}
}

struct Child<'a> {
    work: &'a Work,
    ledger: Ledger,
    storage: Storage,
    /// Producers, teams and imports that are not done.
    n_busy: Cell<u64>,
    /// Microseconds from publish to answer, one for each publish.
    waits: RefCell<Vec<u64>>,
}

/// Does the work. Whether the store was opened, and stopped in the end.
///
/// # Panics
/// When the ledger cannot be written.
#[must_use]
pub fn run(work: &Work) -> bool {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    tokio.block_on(async {
        let ledger = Ledger::open(&work.ledger).expect("the ledger can be opened");
        let mut options = StorageOptions::default();
        options.checkpoint_after_idle = Duration::from_millis(work.checkpoint_ms);
        options.wal_bytes_max = work.wal_bytes_max;
        options.db_bytes_max = work.db_bytes_max;
        options.backoff_max = Duration::from_millis(20);
        options.retries_max = 6;
        let opened = match SqliteStore::open(SqliteOptions::new(&work.db)).await {
            Ok(store) => {
                Storage::open(Box::new(store), options, Arc::new(Nobody), Arc::new(atra_bus::SystemEnv::new())).await
            }
            Err(error) => Err(error),
        };
        let (storage, actor) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                ledger.write(&Line::Error(error.to_string()));
                return false;
            }
        };
        let child = Child {
            work,
            ledger,
            storage,
            n_busy: Cell::new(work.producers + work.teams + 2),
            waits: RefCell::default(),
        };
        join(actor.run(), child.all()).await.1
    })
}

impl Child<'_> {
    async fn all(&self) -> bool {
        let producers = join_all((0..self.work.producers).map(|producer| self.producer(producer)));
        let teams = join_all((0..self.work.teams).map(|team| self.team(team)));
        futures::join!(producers, teams, self.imports(), self.backups(), self.watch());
        self.tell_figures();
        match self.storage.stop().await {
            Ok(()) => {
                self.ledger.write(&Line::Stopped);
                true
            }
            Err(error) => {
                self.ledger.write(&Line::Error(error.to_string()));
                false
            }
        }
    }

    fn tell_figures(&self) {
        let mut waits = self.waits.take();
        waits.sort_unstable();
        let quantile = |per_mille: usize| waits.get(waits.len() * per_mille / 1_000).or(waits.last()).copied();
        let metrics = self.storage.metrics();
        for (name, value) in [
            ("p50_micros", quantile(500)),
            ("p99_micros", quantile(990)),
            ("max_micros", quantile(1_000)),
            ("held", Some(metrics.checkpoints_held)),
        ] {
            self.ledger.write(&Line::Figure(name.into(), value.unwrap_or(0)));
        }
    }

    fn is_over(&self) -> bool {
        self.storage.metrics().state == StorageState::Failed
            || self.work.until.as_ref().is_some_and(|until| until.exists())
    }

    fn level(&self, n: u64) -> Level {
        let is_power = self.work.power_every > 0 && n.is_multiple_of(self.work.power_every);
        if is_power { Level::Power } else { Level::Process }
    }

    fn event(&self, topic: &str, order: u64) -> NewEvent {
        // Any sequence of sizes will do, as long as it is mixed.
        let n_bytes = order.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let n_bytes = n_bytes % (self.work.bytes_max + 1);
        let json = format!(r#"{{"order":{order},"fill":"{}"}}"#, "x".repeat(n_bytes as usize));
        NewEvent { event: event("rig", topic, &json, order), ancestor: Ancestor::None, seen: None }
    }

    async fn producer(&self, producer: u64) {
        for n in 0..self.work.each {
            if self.is_over() {
                break;
            }
            let order = self.work.life * LIFE + producer * PRODUCER + n;
            let key = n.is_multiple_of(3).then(|| (name("rig"), order.to_string()));
            let events = vec![self.event("rig.append", order)];
            let publish = Publish { events, key, expect: None, facts: Vec::new(), level: self.level(n) };
            self.ledger.write(&Line::Sent(order));
            let began = Instant::now();
            let answer = self.storage.publish(publish).await;
            self.waits.borrow_mut().push(began.elapsed().as_micros() as u64);
            match answer {
                Err(Rejected::Full { .. }) => sleep(Duration::from_millis(20)).await,
                // A storage that has failed answers at once: its actor must come to its end.
                Err(_) => tokio::task::yield_now().await,
                Ok(_) => {}
            }
            self.answered(order, answer);
        }
        self.done();
    }

    /// Steps with an event that writes memory, and the number of the step as a fact.
    async fn team(&self, team: u64) {
        let owner = name(&format!("team{team}"));
        let mut row = None;
        for n in 0..self.work.each {
            if self.is_over() {
                break;
            }
            let (epoch, number) = match row {
                Some((epoch, number)) => (epoch, number),
                None => match self.storage.raise_epoch(&owner).await {
                    Ok(raised) => (raised.epoch, raised.number + 1),
                    Err(error) => {
                        self.ledger.write(&Line::Error(error.to_string()));
                        tokio::task::yield_now().await;
                        continue;
                    }
                },
            };
            let order = self.work.life * LIFE + (TEAMS + team) * PRODUCER + n;
            let topic = format!("memory.team{team}.{}", n % 7);
            let fact = FactWrite {
                kind: FactKind::State,
                owner: owner.clone(),
                key: "number".into(),
                value: Some(number.to_string().into()),
            };
            let step = Step {
                team: owner.clone(),
                epoch,
                number,
                cursor: self.storage.released(),
                events: vec![self.event(&topic, order)],
                facts: vec![fact],
                level: self.level(n),
            };
            self.ledger.write(&Line::Sent(order));
            let answer = match self.storage.submit(step).await {
                Ok(receipt) => receipt.await,
                Err(rejected) => Err(rejected),
            };
            // Whatever went wrong: a new epoch says how far the team is.
            row = answer.is_ok().then_some((epoch, number + 1));
            self.answered(order, answer);
        }
        self.done();
    }

    async fn imports(&self) {
        for n in 0..self.work.imports {
            if self.is_over() {
                break;
            }
            let first = ((self.work.life * LIFE) + n * 8) as i64;
            let blocks = (first..first + 8).map(|start| Block {
                series: name(SERIES),
                start,
                rows: 1,
                data: vec![block_byte(start); BLOCK_BYTES].into(),
            });
            match self.storage.put_blocks(blocks.collect()).await {
                Ok(_) => self.ledger.write(&Line::Blocks(first)),
                Err(error) => self.ledger.write(&Line::Error(error.to_string())),
            }
        }
        self.done();
    }

    /// Keeps the last copy: each is whole as soon as it has its name.
    async fn backups(&self) {
        for n in 0..self.work.backups {
            if self.is_over() {
                break;
            }
            match atra_storage::backup(&self.work.db, &self.work.copy(n), |_| {}).await {
                Ok(_) if n > 0 => {
                    // A copy too many does no harm.
                    let _ = std::fs::remove_file(self.work.copy(n - 1));
                }
                Ok(_) => {}
                Err(error) => self.ledger.write(&Line::Error(error.to_string())),
            }
        }
        self.done();
    }

    /// Tells what the actor's state becomes, and, while it is not running well, what readers still see.
    async fn watch(&self) {
        let mut last = StorageState::Running;
        while self.n_busy.get() > 0 {
            let state = self.storage.metrics().state;
            if state != last {
                self.ledger.write(&Line::State(format!("{state:?}").to_lowercase()));
                last = state;
            }
            if state == StorageState::Degraded
                && let Ok(seq) = self.storage.reader().last_seq().await
            {
                self.ledger.write(&Line::Read(seq.get()));
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn answered(&self, order: u64, answer: Result<Acknowledged, Rejected>) {
        self.ledger.write(&match answer {
            Ok(answer) => Line::Acknowledged(order, answer.last.get(), answer.level),
            Err(Rejected::Unknown(why)) => Line::Unknown(order, why),
            Err(rejected) => Line::Refused(order, rejected.to_string()),
        });
    }

    fn done(&self) {
        self.n_busy.set(self.n_busy.get() - 1);
    }
}
