//! How long an acknowledgement takes: alone, and at half of the load that the actor can bear.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use atra_storage::Level;

use super::{Actor, Bench, Events, mixed::mixed, publish};
use crate::{
    measure::{Awake, Contender, named_medians, on_worker},
    report::{Case, Unit},
    rusqlite_store::open,
};

/// The parts of a distribution that are told: name, and the share of acknowledgements that take at most so long.
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

impl Bench<'_> {
    /// Half load is found first: half of what 512 producers get through.
    pub(super) fn latencies(&mut self, events: &Events, alone: &Events) {
        let Self { files, tokio, .. } = self;
        let half = {
            let file = files.fresh();
            tokio.block_on(on_worker(mixed(file.path(), events.clone(), 0))).0 / 2.0
        };
        for (name, share) in QUANTILES {
            let contenders = vec![
                Contender::new("acknowledgement, one after the other", || {
                    let file = files.fresh();
                    tokio.block_on(on_worker(one_by_one(file.path(), alone.clone(), share)))
                }),
                Contender::new("rusqlite 0.39, a transaction each", || autocommit(&files.fresh().path(), alone, share)),
                Contender::new("acknowledgement at half load", || {
                    let file = files.fresh();
                    tokio.block_on(on_worker(at_rate(file.path(), events.clone(), half, share, false)))
                }),
                Contender::new("the same actor over rusqlite 0.39", || {
                    let file = files.fresh();
                    tokio.block_on(on_worker(at_rate(file.path(), events.clone(), half, share, true)))
                }),
            ];
            let (names, values) = named_medians(self.scale.turns / 3 + 1, contenders);
            for pair in [0, 2] {
                let case = format!("{name} of an {}", names[pair]);
                let case = Case { bench: "storage", name: &case, unit: Unit::Microseconds };
                self.reporter.print(&case.report(values[pair], names[pair + 1], values[pair + 1]));
            }
        }
        self.awake(alone);
    }

    /// One after the other, with processors that something else keeps awake.
    fn awake(&mut self, alone: &Events) {
        let Self { files, tokio, .. } = self;
        let _awake = Awake::start();
        for (name, share) in QUANTILES {
            let contenders = vec![
                Contender::new("one after the other, awake", || {
                    let file = files.fresh();
                    tokio.block_on(on_worker(one_by_one(file.path(), alone.clone(), share)))
                }),
                Contender::new("rusqlite 0.39, a transaction each, awake", || {
                    autocommit(&files.fresh().path(), alone, share)
                }),
            ];
            let (names, values) = named_medians(self.scale.turns / 3 + 1, contenders);
            let case = format!("{name} of an acknowledgement, {}", names[0]);
            let case = Case { bench: "storage", name: &case, unit: Unit::Microseconds };
            self.reporter.print(&case.report(values[0], names[1], values[1]));
        }
    }
}

async fn one_by_one(path: PathBuf, events: Events, share: f64) -> f64 {
    let actor = Actor::on_sqlite(path).await;
    let mut took = Vec::with_capacity(events.len());
    for event in events.iter() {
        let start = Instant::now();
        actor.storage.publish(publish(std::slice::from_ref(event), Level::Process)).await.expect("committed");
        took.push(start.elapsed());
    }
    actor.stop().await;
    quantile(took, share)
}

/// As [`one_by_one`], by prepared inserts that commit themselves.
fn autocommit(path: &Path, events: &Events, share: f64) -> f64 {
    let db = open(path).expect("a fresh file");
    let mut statement = db.prepare(crate::rusqlite_store::insert_one()).expect("the table is there");
    let mut took = Vec::with_capacity(events.len());
    for (seq, event) in (1..).zip(events.iter()) {
        let start = Instant::now();
        let row = atra_bus::Committed { seq: atra_bus::Seq(seq), event: event.clone(), cause_seq: None, seen: None };
        crate::rusqlite_store::bind(&mut statement, 1, &row, (1, 2)).expect("bound");
        statement.raw_execute().expect("inserted");
        took.push(start.elapsed());
    }
    quantile(took, share)
}

/// Appends that come at a fixed rate, whether those before them are acknowledged or not: each is measured from
/// when it was due, so a stall counts for everything that waited behind it.
async fn at_rate(path: PathBuf, events: Events, per_second: f64, share: f64, rusqlite: bool) -> f64 {
    let actor = if rusqlite { Actor::on_rusqlite(path).await } else { Actor::on_sqlite(path).await };
    let start = Instant::now();
    let mut waiting = Vec::with_capacity(events.len());
    let mut sent = 0;
    while sent < events.len() {
        let due = ((start.elapsed().as_secs_f64() * per_second) as usize).min(events.len());
        for (n, event) in events.iter().enumerate().take(due).skip(sent) {
            let (storage, event) = (actor.storage.clone(), event.clone());
            let due_at = start + Duration::from_secs_f64(n as f64 / per_second);
            waiting.push(tokio::spawn(async move {
                storage.publish(publish(&[event], Level::Process)).await.expect("committed");
                due_at.elapsed()
            }));
        }
        sent = due;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut took = Vec::with_capacity(waiting.len());
    for acknowledged in waiting {
        took.push(acknowledged.await.expect("a producer does not panic"));
    }
    actor.stop().await;
    quantile(took, share)
}

/// In microseconds.
fn quantile(mut took: Vec<Duration>, share: f64) -> f64 {
    took.sort_unstable();
    let at = ((took.len() as f64 * share) as usize).min(took.len() - 1);
    took[at].as_secs_f64() * 1e6
}
