//! More than fits: callers that do not wait offer publishes without end, small ones and ones as large as they may be,
//! while the disk takes nothing. What is queued is committed when there is space; what was refused left no trace.

use std::{path::PathBuf, sync::Arc};

use atra_bus::topic::Topic;
use atra_storage::{
    Ancestor, Level, NewEvent, Publish, Receipt, Rejected, SqliteOptions, SqliteStore, Storage, StorageOptions,
    StorageState, conformance::event, new_event_bytes,
};
use futures::future::join;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::{
    ledger::{Ledger, Line},
    work::Nobody,
};

/// Offers between two moments in which the storage actor gets to work.
const OFFERS_AT_ONCE: u64 = 256;
/// Publishes as large as a command may be.
const LARGE: u64 = 64;
const TOPIC: &str = "rig.append";

/// A flood of publishes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Flood {
    /// The database.
    pub db: PathBuf,
    /// The ledger.
    pub ledger: PathBuf,
    /// The file whose being there fills the disk: the flood makes it first and removes it at the end.
    pub full: PathBuf,
    /// How many small publishes are offered.
    pub offers: u64,
    /// The size of a small payload.
    pub bytes: usize,
}

/// What was offered and not refused.
#[derive(Default)]
struct Taken {
    receipts: Vec<(u64, Receipt)>,
    refused: u64,
    too_large: u64,
}

/// Offers it all, then makes space, and waits for what was taken.
///
/// # Panics
/// When the ledger cannot be written, or a file not be made.
#[must_use]
pub fn run(flood: &Flood) -> bool {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    tokio.block_on(async {
        let ledger = Ledger::open(&flood.ledger).expect("the ledger can be opened");
        let options = StorageOptions::default();
        let bytes_max = options.command_bytes_max;
        let store = SqliteStore::open(SqliteOptions::new(&flood.db)).await.expect("opened");
        let opened = Storage::open(Box::new(store), options, Arc::new(Nobody), Arc::new(atra_bus::SystemEnv::new()))
            .await
            .expect("loaded");
        let (storage, actor) = opened;
        let all = async {
            std::fs::write(&flood.full, "").expect("written");
            let mut taken = Taken::default();
            offer_small(&storage, flood, &mut taken).await;
            ledger.write(&Line::Figure("small_taken".into(), taken.receipts.len() as u64));
            ledger.write(&Line::Figure("small_peak_kib".into(), peak_kib()));
            ledger
                .write(&Line::Figure("degraded".into(), u64::from(storage.metrics().state == StorageState::Degraded)));
            std::fs::remove_file(&flood.full).expect("removed");
            settle(&ledger, &mut taken).await;
            std::fs::write(&flood.full, "").expect("written");
            let n_small = taken.receipts.len();
            offer_large(&storage, flood.offers, bytes_max, &mut taken).await;
            ledger.write(&Line::Figure("large_taken".into(), (taken.receipts.len() - n_small) as u64));
            std::fs::remove_file(&flood.full).expect("removed");
            settle(&ledger, &mut taken).await;
            ledger.write(&Line::Figure("refused".into(), taken.refused));
            ledger.write(&Line::Figure("too_large".into(), taken.too_large));
            ledger.write(&Line::Figure("peak_kib".into(), peak_kib()));
            let stopped = storage.stop().await;
            ledger.write(&stopped.as_ref().map_or_else(|error| Line::Error(error.to_string()), |()| Line::Stopped));
            stopped.is_ok()
        };
        join(actor.run(), all).await.1
    })
}

async fn offer_small(storage: &Storage, flood: &Flood, taken: &mut Taken) {
    for n in 1..=flood.offers {
        taken.offer(storage, order(n), flood.bytes);
        if n.is_multiple_of(OFFERS_AT_ONCE) {
            tokio::task::yield_now().await;
        }
    }
    // So that the disk was tried and found full.
    while storage.metrics().state != StorageState::Degraded {
        sleep(std::time::Duration::from_millis(1)).await;
    }
}

/// As large as a command may be, and one byte more.
async fn offer_large(storage: &Storage, after: u64, bytes_max: usize, taken: &mut Taken) {
    let topic = Topic::literal(TOPIC);
    for n in 1..=LARGE {
        let order = order(after + n);
        let around = new_event_bytes(&payload(order, 0), &topic) + ROW;
        taken.offer(storage, order, bytes_max - around + (n % 2) as usize);
        tokio::task::yield_now().await;
    }
}

/// Every third order has an idempotency key by the judge's rule; those here have none.
fn order(n: u64) -> u64 {
    3 * n + 1
}

/// What a publish counts besides its events.
const ROW: usize = atra_storage::step::ROW_BYTES;

fn payload(order: u64, n_bytes: usize) -> String {
    format!(r#"{{"order":{order},"fill":"{}"}}"#, "x".repeat(n_bytes))
}

impl Taken {
    fn offer(&mut self, storage: &Storage, order: u64, n_bytes: usize) {
        let event = event("rig", TOPIC, &payload(order, n_bytes), order);
        let events = vec![NewEvent { event, ancestor: Ancestor::None, seen: None }];
        let publish = Publish { events, key: None, expect: None, facts: Vec::new(), level: Level::Process };
        match storage.try_publish(publish) {
            Ok(receipt) => self.receipts.push((order, receipt)),
            Err(Rejected::Overloaded { .. }) => self.refused += 1,
            Err(Rejected::TooLarge { bytes, limit }) => {
                assert_eq!(bytes, limit + 1, "one above is what was tried");
                self.too_large += 1;
            }
            Err(other) => panic!("offer {order}: {other}"),
        }
    }
}

/// Waits for the answers of what was taken. What was refused is not in the ledger: the judge finds it if it is there.
async fn settle(ledger: &Ledger, taken: &mut Taken) {
    for (order, receipt) in taken.receipts.drain(..) {
        ledger.write(&Line::Sent(order));
        ledger.write(&match receipt.await {
            Ok(answer) => Line::Acknowledged(order, answer.last.get(), answer.level),
            Err(rejected) => Line::Refused(order, rejected.to_string()),
        });
    }
}

/// The most memory that this process ever had, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(u64::MAX)
}
