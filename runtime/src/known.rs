//! Which owners have facts in the store when a runtime starts.
//!
//! A team is built from several reads, one for each kind of fact and member. With tens of thousands of teams, most of which
//! have little or nothing stored, these reads were most of a start. The list of owners of each kind is short, so it is
//! read at once, and kinds without facts are not read per team.

use rustc_hash::FxHashSet;

use atra_bus::Name;
use atra_storage::{FactKind, Read, StoreError};

use crate::memory::SharedMemory;

/// What a team is built from.
const KINDS: [FactKind; 5] = [FactKind::State, FactKind::Offset, FactKind::Timer, FactKind::Attempt, FactKind::Meta];

/// The owners of facts before any team runs. Valid for a team until its first incarnation begins, since only the team
/// writes its facts.
pub(crate) struct Known {
    owners: Vec<(FactKind, FxHashSet<Name>)>,
    /// All of it is loaded.
    memory: SharedMemory,
}

impl Known {
    pub(crate) async fn read(reader: &dyn Read, memory: &SharedMemory) -> Result<Self, StoreError> {
        let mut owners = Vec::with_capacity(KINDS.len());
        for kind in KINDS {
            owners.push((kind, reader.fact_owners(kind).await?.into_iter().collect()));
        }
        Ok(Self { owners, memory: memory.clone() })
    }

    /// Whether the owner may have facts of a kind.
    pub(crate) fn may_have(&self, kind: FactKind, owner: &Name) -> bool {
        self.owners.iter().find(|(known, _)| *known == kind).is_none_or(|(_, owners)| owners.contains(owner))
    }

    /// Whether there may be memory keys that begin with `prefix`.
    pub(crate) fn may_have_memory(&self, prefix: &str) -> bool {
        self.memory.has_key_with(prefix)
    }
}

#[cfg(test)]
mod tests {
    use atra_bus::{EventId, Payload, Seq};
    use atra_storage::{FactRow, MemoryStore, Store, WriteBatch};

    use super::*;
    use crate::memory::Entry;

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    #[tokio::test]
    async fn what_is_not_stored_is_not_read_at_the_start() {
        let mut store = MemoryStore::new();
        let fact = |kind, owner: &str| FactRow {
            kind,
            owner: name(owner),
            key: "k".into(),
            value: Some("1".into()),
            version: Seq(1),
            event: None,
        };
        let facts = vec![fact(FactKind::State, "a"), fact(FactKind::Meta, "b")];
        store.commit(&WriteBatch { facts, ..WriteBatch::default() }).await.expect("committed");
        let memory = SharedMemory::default();
        let value = Payload::from_json("1").expect("JSON");
        memory.load("of.a.k", Seq(1), Entry { value, revision: EventId::from_bits(1) });
        let known = Known::read(&*store.reader(), &memory).await.expect("read");
        for kind in KINDS {
            assert_eq!(known.may_have(kind, &name("a")), kind == FactKind::State, "{kind:?}");
            assert_eq!(known.may_have(kind, &name("b")), kind == FactKind::Meta, "{kind:?}");
        }
        assert!(known.may_have(FactKind::DeadLetter, &name("c")), "what was not looked for may be there");
        assert!(known.may_have_memory("of.a.") && known.may_have_memory("") && !known.may_have_memory("of.b."));
    }
}
