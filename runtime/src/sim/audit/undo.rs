//! Takes a batch back out of the auditor's account, when power was lost before it was flushed.

use super::{Before, State};

impl State {
    /// Restores what was there before a batch.
    pub(super) fn take_back(&mut self, before: Before) {
        self.ids.truncate(before.last);
        let last = before.last as u64;
        for agent in &mut self.agents {
            while agent.wanted.back().is_some_and(|(seq, _)| *seq > last) {
                agent.wanted.pop_back();
            }
        }
        for (_, versions) in &mut self.memory {
            while versions.last().is_some_and(|version| version.seq > last) {
                versions.pop();
            }
        }
        for (key, old) in before.facts.into_iter().rev() {
            match old {
                Some(old) => _ = self.facts.insert(key, old),
                None => _ = self.facts.remove(&key),
            }
        }
        for (team, old) in before.teams {
            self.teams[team].row = old;
        }
        for letter in before.letters {
            self.letters.remove(&letter);
        }
        self.facts_fold = before.fold;
    }
}
