//! `journal tail --follow`: in order, each event once, and an end when the journal is no more.

use serde_json::Value;

use super::{Folder, PATIENCE, Running};

impl Running {
    /// The next line of standard output as JSON.
    fn next_json(&mut self) -> Value {
        match self.out.recv_timeout(PATIENCE) {
            Ok(line) => serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}")),
            Err(error) => {
                let _ = self.child.kill();
                panic!("no line: {error}");
            }
        }
    }
}

const FOLLOW: [&str; 8] = ["journal", "tail", "-f", "-n", "1", "--json", "--db", "a.db"];

/// The last events and the first new ones were read at different moments: some came twice, and out of order.
#[cfg(unix)]
#[test]
fn events_of_a_live_run_come_in_order_and_once() {
    let folder = Folder::with_candles();
    let running = folder.running();
    for _ in 0..4 {
        let mut tail = Running::spawn(&mut folder.command(&FOLLOW));
        let mut before = tail.next_json()["seq"].as_u64().expect("a seq");
        for _ in 0..200 {
            let seq = tail.next_json()["seq"].as_u64().expect("a seq");
            assert_eq!(seq, before + 1);
            before = seq;
        }
        // A signal is how following ends.
        tail.signal("-INT");
        tail.end().ok();
    }
    running.signal("-TERM");
    running.end().ok();
}

#[cfg(unix)]
#[test]
fn following_ends_when_the_journal_is_begun_again_replaced_or_deleted() {
    let folder = Folder::finished();
    folder.atra(&["db", "backup", "b.db", "--db", "a.db"]).ok();
    let follow = || {
        let mut tail = Running::spawn(&mut folder.command(&FOLLOW));
        tail.next_json();
        tail
    };
    let ends = |tail: Running, part: &str| {
        let done = tail.end();
        assert!(done.code == 3 && done.said().contains(part), "{part}: {} {}", done.code, done.err);
    };
    // The new journal ends at the same seq as the old one.
    let tail = follow();
    folder.run(&["--fresh"]).ok();
    ends(tail, "begun again");
    let tail = follow();
    folder.atra(&["db", "restore", "b.db", "--db", "a.db"]).ok();
    ends(tail, "replaced by another file");
    let tail = follow();
    std::fs::remove_file(folder.path("a.db")).expect("removed");
    ends(tail, "deleted or moved");
}
