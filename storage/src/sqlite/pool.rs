//! The reading connections: a fixed number, opened when first needed, kept for good, each with a deadline.
//!
//! A connection that reads holds the write-ahead log: nothing behind its view can be taken over and begun anew. So
//! what a connection of a runtime runs is cut when it takes too long, by SQLite itself: a progress handler looks at the
//! deadline now and then, and its first look puts the thread behind those that write. The pool never opens more
//! connections than it was made for; who finds none free waits.

use std::{
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};

use super::connection::BUSY_TIMEOUT;

/// Steps of SQLite's machine between two looks at the deadline. 1,000: some tens of microseconds of work, in which a
/// look at the clock does not show.
const STEPS_PER_LOOK: i32 = 1_000;

/// How far a reading thread stands behind the others where there are not processors for all: by this nice value a tenth
/// of another thread's share. Measured: decision 65.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// No deadline.
const NEVER: u64 = u64::MAX;

/// The fixed set of reading connections.
#[derive(Debug)]
pub(super) struct Readers {
    options: SqliteConnectOptions,
    n_max: u32,
    /// A permit for each connection that may exist.
    room: Semaphore,
    /// Connections that nobody uses. With those in use never more than there are permits.
    idle: Mutex<Vec<Connection>>,
    /// How long one use may take; `None`: as long as it takes.
    deadline: Option<Duration>,
    /// The statements that each connection runs first.
    views: OnceLock<String>,
    opened: AtomicU64,
    cut: AtomicU64,
}

#[derive(Debug)]
struct Connection {
    db: SqliteConnection,
    watch: Arc<Watch>,
    /// Its last user left before the end: a statement may still run.
    is_left: bool,
}

/// When what a connection runs must have ended; shared with its progress handler.
#[derive(Debug)]
struct Watch {
    base: Instant,
    /// Microseconds after `base`. Relaxed: a look that comes late cuts a little later.
    until: AtomicU64,
}

/// A connection in use; given back when dropped, whatever it was doing.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    readers: &'a Readers,
    /// There until the drop.
    connection: Option<Connection>,
    _permit: SemaphorePermit<'a>,
}

impl Readers {
    pub(super) fn new(options: SqliteConnectOptions, n_max: u32, deadline: Option<Duration>) -> Self {
        let n_max = n_max.max(1);
        Self {
            options,
            n_max,
            room: Semaphore::new(n_max as usize),
            idle: Mutex::default(),
            deadline,
            views: OnceLock::new(),
            opened: AtomicU64::new(0),
            cut: AtomicU64::new(0),
        }
    }

    /// Waits for a free connection; opens one if there are fewer than may be.
    pub(super) async fn acquire(&self) -> Result<Reading<'_>, sqlx::Error> {
        let permit = timeout(BUSY_TIMEOUT, self.room.acquire()).await.map_err(|_| sqlx::Error::PoolTimedOut)?;
        let permit = permit.map_err(|_| sqlx::Error::PoolClosed)?;
        // In a statement of its own: no lock is held while one is opened.
        let idle = self.idle().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.open().await?,
        };
        let mut reading = Reading { readers: self, connection: Some(connection), _permit: permit };
        if reading.connection.as_ref().is_some_and(|connection| connection.is_left) {
            // What runs on it is cut at its next look, and commands are carried out in order: wait until that is over.
            reading.ping().await?;
        }
        reading.begin();
        Ok(reading)
    }

    async fn open(&self) -> Result<Connection, sqlx::Error> {
        let mut db = self.options.connect().await?;
        let watch = Arc::new(Watch { base: Instant::now(), until: AtomicU64::new(NEVER) });
        if self.deadline.is_some() {
            let watch = Arc::clone(&watch);
            let mut is_behind = false;
            // Called on the connection's own thread, and never for a short read.
            db.lock_handle().await?.set_progress_handler(STEPS_PER_LOOK, move || {
                if !std::mem::replace(&mut is_behind, true) {
                    give_way();
                }
                !watch.is_over()
            });
        }
        if let Some(views) = self.views.get() {
            make_views(&mut db, views).await?;
        }
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(Connection { db, watch, is_left: false })
    }

    /// Creates these views on every connection, including open idle ones. Call it before any other read.
    pub(super) async fn use_views(&self, views: Option<String>) -> Result<(), sqlx::Error> {
        let Some(views) = views else { return Ok(()) };
        let views = self.views.get_or_init(|| views);
        let mut idle = std::mem::take(&mut *self.idle());
        for connection in &mut idle {
            make_views(&mut connection.db, views).await?;
        }
        self.idle().extend(idle);
        Ok(())
    }

    /// Waits until nobody uses a connection, and closes all; reads fail afterwards.
    pub(super) async fn close(&self) {
        // Fair: those who wait already come first, and their reads have a deadline. Out of patience, the file is
        // left to them.
        let all = timeout(BUSY_TIMEOUT, self.room.acquire_many(self.n_max)).await;
        self.room.close();
        drop(all);
        let idle = std::mem::take(&mut *self.idle());
        for connection in idle {
            // A reading connection has nothing to lose.
            let _ = connection.db.close().await;
        }
    }

    /// How long one use may take.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// How many connections were opened, and how many reads were cut.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.opened.load(Ordering::Relaxed), self.cut.load(Ordering::Relaxed))
    }

    /// Counts a read that was cut.
    pub(super) fn count_cut(&self) {
        self.cut.fetch_add(1, Ordering::Relaxed);
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        // A list that is only pushed to and popped from is whole after a panic elsewhere.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Views in the temporary database, which a read-only connection may write to.
async fn make_views(db: &mut SqliteConnection, views: &str) -> Result<(), sqlx::Error> {
    let sql = format!("PRAGMA query_only = OFF; {views} PRAGMA query_only = ON;");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(db).await.map(drop)
}

impl Watch {
    fn set(&self, deadline: Option<Duration>) {
        let until = deadline.map_or(NEVER, |deadline| micros(self.base.elapsed().saturating_add(deadline)));
        self.until.store(until, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        until != NEVER && micros(self.base.elapsed()) > until
    }
}

/// What does not fit is never.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(NEVER)
}

/// Puts the calling thread behind the others. Elsewhere than on Linux a nice value is the whole process's.
#[cfg(target_os = "linux")]
fn give_way() {
    // Everybody may; if not, a read is as urgent as a commit.
    let _ = rustix::process::nice(NICE);
}

#[cfg(not(target_os = "linux"))]
fn give_way() {}

impl Reading<'_> {
    fn begin(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.watch.set(self.readers.deadline);
            connection.is_left = true;
        }
    }

    /// Gives the connection back after the last row: nothing runs on it any more.
    pub(super) fn finish(mut self) {
        if let Some(connection) = &mut self.connection {
            connection.is_left = false;
        }
    }
}

impl Deref for Reading<'_> {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.connection.as_ref().expect("there until the drop").db
    }
}

impl DerefMut for Reading<'_> {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.connection.as_mut().expect("there until the drop").db
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            // A statement whose answer nobody wants any more is cut at the next look.
            connection.watch.until.store(0, Ordering::Relaxed);
            self.readers.idle().push(connection);
        }
    }
}
