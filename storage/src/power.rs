//! Level `power` after a failed flush: in doubt until the database has been written anew.
//!
//! When a flush fails, the system may forget what it should have written, and the next flush succeeds all the same. So
//! from the first error of the disk on, in a commit or while the log is moved, nothing is promised at level
//! `power`, until every page has been written and flushed once more and the file was checked ([`Store::renew`]).
//! That is done when somebody asks for the level; level `process` goes on meanwhile.
//!
//! [`Store::renew`]: crate::Store::renew

use atra_bus::later;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::{Level, Rejected, StorageActor, StoreError, answers::level_of, metrics::Gauges, queue::Command};

/// What the log may grow by before it is moved into the database under load. 16 MiB: moving it then takes some ten
/// milliseconds, and the log stays in the system's cache.
const LOG_BYTES: u64 = 16 << 20;
/// What a commit is taken to add to the log besides its content, where the store does not tell how much it was.
const COMMIT_BYTES: u64 = 12 << 10;

/// Whether level `power` can be promised, and how far the log has grown since it was last moved.
#[derive(Debug, Default)]
pub(crate) struct Power {
    is_in_doubt: bool,
    /// Not before then is the database written anew.
    renew_at: Option<Instant>,
    /// What was committed since the log was moved, as far as its content tells.
    log_bytes: u64,
    /// What is in the log and not moved, as the store tells it.
    unmoved_bytes: Option<u64>,
    /// What of that was left when the log was last moved, since somebody reads from it; `None`: not looked yet.
    left_bytes: Option<u64>,
}

impl Power {
    pub(crate) fn new(is_in_doubt: bool) -> Self {
        // What a process before left in the log can be moved.
        Self { is_in_doubt, left_bytes: Some(0), ..Self::default() }
    }

    /// The store was asked how much of its log is not moved.
    pub(crate) fn log_is(&mut self, unmoved_bytes: Option<u64>) {
        let Some(unmoved) = unmoved_bytes else { return };
        self.unmoved_bytes = unmoved_bytes;
        // Less than was left: it was begun anew meanwhile.
        self.left_bytes = Some(self.left_bytes.map_or(unmoved, |left| left.min(unmoved)));
    }

    /// By how much the log has grown since it was moved.
    fn grown(&self) -> u64 {
        match (self.unmoved_bytes, self.left_bytes) {
            (Some(unmoved), Some(left)) => unmoved - left.min(unmoved),
            // Moved, and not looked since.
            (Some(_), None) => 0,
            (None, _) => self.log_bytes,
        }
    }
}

impl StorageActor {
    /// The disk has failed: nothing is promised at level `power` any more.
    pub(crate) fn doubt_power(&mut self, cause: &str) {
        if !self.power.is_in_doubt {
            error!(cause, "the disk failed: level power is not promised until the database has been written anew");
        }
        self.power.is_in_doubt = true;
    }

    /// Answers what asks for level `power` while it is in doubt: writes the database anew first, or refuses.
    pub(crate) async fn regain_power(&mut self, commands: &mut Vec<Command>) {
        let wants = |command: &Command| level_of(&command.work) == Level::Power;
        if !self.power.is_in_doubt || !commands.iter().any(wants) {
            return;
        }
        self.answer_committed();
        let is_due = self.power.renew_at.is_none_or(|at| Instant::now() >= at);
        let cause = if is_due {
            let began = Instant::now();
            match self.store.renew().await {
                Ok(()) => {
                    let took_ms = began.elapsed().as_millis() as u64;
                    info!(took_ms, "database was written anew: level power is promised again");
                    self.power = Power::default();
                    return;
                }
                Err(error) => error.to_string(),
            }
        } else {
            "it was tried a moment ago".into()
        };
        if is_due {
            warn!(%cause, "database could not be written anew");
            self.power.renew_at = Some(later(Instant::now(), self.options.backoff_max));
        }
        let refused: Vec<_> = commands.extract_if(.., |command| wants(command)).collect();
        self.answer_all(refused, &Rejected::Failed(StoreError::Unflushed(cause)));
    }

    /// Moves the log into the database. Nothing is lost when that fails: it is kept and moved next time.
    pub(crate) async fn checkpoint(&mut self) {
        self.answer_committed();
        Gauges::add(&self.gauges.checkpoints, 1);
        (self.power.log_bytes, self.power.left_bytes) = (0, None);
        match self.store.checkpoint().await {
            Ok(()) => {}
            Err(StoreError::Unknown(cause)) => self.doubt_power(&cause),
            Err(error) => warn!(%error, "log could not be moved into the database"),
        }
        self.see_what_is_left().await;
    }

    /// Moves the log when it has grown by enough. SQLite would do so by itself, but tell nobody when it fails.
    pub(crate) async fn checkpoint_under_load(&mut self) {
        if self.power.grown() >= LOG_BYTES {
            self.checkpoint().await;
        }
    }

    /// A batch of so many bytes was committed: all that is known of the log when the store does not tell.
    pub(crate) fn log_grew(&mut self, commands: &[Command]) {
        let bytes: usize = commands.iter().map(|command| command.bytes).sum();
        self.power.log_bytes += bytes as u64 + COMMIT_BYTES;
    }
}
