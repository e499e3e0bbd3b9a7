//! What the model store keeps of facts: each once, found by the hash of what makes it unique.
//!
//! It promises to touch little memory when a fact is written over, which every step of every team does: a run of a thousand
//! teams has more facts than a processor keeps near it. So key and value lie in the fact itself if they are short, and what
//! lists need is changed only when a fact comes or goes.

use std::{collections::BTreeSet, hash::BuildHasher as _, ops::Bound};

use atra_bus::{EventId, Name, Seq, Timestamp};
use hashbrown::HashTable;
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::{CommitTime, Expiry, FactKind, FactRow, OPEN_EFFECT, kept::Text};

/// A fact as it lies here.
#[derive(Debug)]
pub(crate) struct Fact {
    kind: FactKind,
    owner: Name,
    key: Text,
    value: Text,
    version: Seq,
    event: Option<EventId>,
    /// The commit clock when the fact was written, for facts that expire.
    written: Option<Timestamp>,
    /// Its place in its owner's list.
    listed: u32,
}

impl Fact {
    pub(crate) fn key(&self) -> &str {
        self.key.as_str()
    }

    pub(crate) fn value(&self) -> &str {
        self.value.as_str()
    }

    /// Whether the fact may be deleted. A fact without a time counts as written at `untimed`.
    pub(crate) fn is_expired(&self, expiry: &Expiry, untimed: Timestamp) -> bool {
        let written = self.written.unwrap_or(untimed);
        written < expiry.before && self.version < expiry.settled && self.value() != OPEN_EFFECT
    }

    pub(crate) fn row(&self) -> FactRow {
        FactRow {
            kind: self.kind,
            owner: self.owner.clone(),
            key: self.key().into(),
            value: Some(self.value.shared()),
            version: self.version,
            event: self.event,
        }
    }
}

/// All facts of a model store.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// `None`: free, and in `free`.
    facts: Vec<Option<Fact>>,
    free: Vec<u32>,
    /// Half a hash, and the place among `facts`.
    places: HashTable<(u32, u32)>,
    /// Places by kind and owner, in no order; not of memory, which nobody owns: what a team loads at its start is found
    /// without looking at what others have.
    owned: FxHashMap<(FactKind, Name), Vec<u32>>,
    /// The keys of memory, in order, for who reads it page by page.
    memory_keys: BTreeSet<String>,
}

impl Facts {
    pub(crate) fn get(&self, kind: FactKind, owner: &Name, key: &str) -> Option<&Fact> {
        self.facts[self.place(kind, owner, key)? as usize].as_ref()
    }

    /// Writes or, without a value, removes.
    pub(crate) fn put(&mut self, row: &FactRow, committed_at: Option<CommitTime>) {
        let written = committed_at.map(|at| at.clock).filter(|_| row.kind.expires());
        match (self.place(row.kind, &row.owner, &row.key), &row.value) {
            (Some(place), Some(value)) => {
                let Some(fact) = &mut self.facts[place as usize] else { return };
                if fact.owner != row.owner {
                    fact.owner = row.owner.clone();
                }
                fact.value = Text::new(value);
                (fact.version, fact.event, fact.written) = (row.version, row.event, written);
            }
            (None, Some(value)) => self.insert(row, Text::new(value), written),
            (Some(place), None) => self.remove(place),
            (None, None) => {}
        }
    }

    /// In no order.
    pub(crate) fn of_kind(&self, kind: FactKind) -> impl Iterator<Item = &Fact> {
        self.facts.iter().flatten().filter(move |fact| fact.kind == kind)
    }

    /// In no order; of memory, which nobody owns, nothing.
    pub(crate) fn of(&self, kind: FactKind, owner: &Name) -> impl Iterator<Item = &Fact> {
        let places = self.owned.get(&(kind, owner.clone())).into_iter().flatten();
        places.filter_map(|place| self.facts[*place as usize].as_ref())
    }

    /// Who owns facts of this kind, by name.
    pub(crate) fn owners(&self, kind: FactKind) -> Vec<Name> {
        let lists = self.owned.iter().filter(|((of, _), places)| *of == kind && !places.is_empty());
        let mut owners: Vec<Name> = lists.map(|((_, owner), _)| owner.clone()).collect();
        owners.sort();
        owners
    }

    /// Memory from this key on, in order.
    pub(crate) fn memory_from(&self, key: &str) -> impl Iterator<Item = &Fact> {
        let keys = self.memory_keys.range::<str, _>((Bound::Included(key), Bound::Unbounded));
        keys.filter_map(|key| self.facts[self.find(FactKind::Memory, None, key)? as usize].as_ref())
    }

    // === places ===

    fn place(&self, kind: FactKind, owner: &Name, key: &str) -> Option<u32> {
        self.find(kind, (kind != FactKind::Memory).then_some(owner), key)
    }

    /// Without an owner: of memory, whose keys are unique.
    fn find(&self, kind: FactKind, owner: Option<&Name>, key: &str) -> Option<u32> {
        let half = half(kind, owner, key);
        let is_it =
            |fact: &Fact| fact.kind == kind && fact.key() == key && owner.is_none_or(|owner| fact.owner == *owner);
        let found = self
            .places
            .find(spread(half), |&(of, place)| of == half && self.facts[place as usize].as_ref().is_some_and(is_it));
        found.map(|(_, place)| *place)
    }

    fn insert(&mut self, row: &FactRow, value: Text, written: Option<Timestamp>) {
        let is_memory = row.kind == FactKind::Memory;
        let place = self.free.pop().unwrap_or_else(|| {
            self.facts.push(None);
            self.facts.len() as u32 - 1
        });
        let half = half(row.kind, (!is_memory).then_some(&row.owner), &row.key);
        self.places.insert_unique(spread(half), (half, place), |(half, _)| spread(*half));
        let mut listed = 0;
        if is_memory {
            self.memory_keys.insert(row.key.clone());
        } else {
            let list = self.owned.entry((row.kind, row.owner.clone())).or_default();
            listed = list.len() as u32;
            list.push(place);
        }
        let (kind, owner, version, event) = (row.kind, row.owner.clone(), row.version, row.event);
        let key = Text::of(&row.key);
        self.facts[place as usize] = Some(Fact { kind, owner, key, value, version, event, written, listed });
    }

    fn remove(&mut self, place: u32) {
        let Some(fact) = self.facts[place as usize].take() else { return };
        self.free.push(place);
        let is_memory = fact.kind == FactKind::Memory;
        let half = half(fact.kind, (!is_memory).then_some(&fact.owner), fact.key());
        if let Ok(found) = self.places.find_entry(spread(half), |known| *known == (half, place)) {
            found.remove();
        }
        if is_memory {
            self.memory_keys.remove(fact.key());
            return;
        }
        let Some(list) = self.owned.get_mut(&(fact.kind, fact.owner)) else { return };
        list.swap_remove(fact.listed as usize);
        // The last one stands in its place now.
        if let Some(moved) = list.get(fact.listed as usize)
            && let Some(moved) = &mut self.facts[*moved as usize]
        {
            moved.listed = fact.listed;
        }
    }
}

fn half(kind: FactKind, owner: Option<&Name>, key: &str) -> u32 {
    (FxBuildHasher.hash_one((kind as u8, owner.map(Name::as_str), key)) >> 32) as u32
}

/// The table looks at the highest bits and at the lowest.
fn spread(half: u32) -> u64 {
    u64::from(half).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Thousands of writes and removals in an order that is drawn, compared with a map after each hundred: single facts,
    /// lists by owner, pages of memory.
    #[test]
    fn facts_are_what_a_map_would_hold() {
        let mut bits = 7_u64;
        let mut draw = move |n: u64| {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (bits >> 33) % n
        };
        let owners = ["a", "b", "c"].map(|name| Name::new(name).expect("a name"));
        let kinds = [FactKind::Memory, FactKind::State, FactKind::Timer];
        let (mut facts, mut expected) = (Facts::default(), BTreeMap::new());
        for n in 1..=5_000 {
            let (kind, owner) = (kinds[draw(3) as usize], &owners[draw(3) as usize]);
            // Short ones and long ones, of both.
            let key = "k".repeat(draw(40) as usize + 1);
            let value = (draw(3) > 0).then(|| "v".repeat(draw(50) as usize).into());
            let row = FactRow { kind, owner: owner.clone(), key: key.clone(), value, version: Seq(n), event: None };
            facts.put(&row, None);
            let id = (kind as u8, (kind != FactKind::Memory).then(|| owner.clone()), key);
            match row.value {
                Some(_) => _ = expected.insert(id, row),
                None => _ = expected.remove(&id),
            }
            if !n.is_multiple_of(100) {
                continue;
            }
            let rows: Vec<&FactRow> = expected.values().collect();
            for row in &rows {
                assert_eq!(facts.get(row.kind, &row.owner, &row.key).map(Fact::row).as_ref(), Some(*row));
            }
            let memory: Vec<FactRow> = facts.memory_from("kkk").map(Fact::row).collect();
            let wanted = rows.iter().filter(|row| row.kind == FactKind::Memory && *row.key >= *"kkk");
            assert!(memory.iter().eq(wanted.copied()));
            for kind in kinds {
                assert_eq!(facts.of_kind(kind).count(), rows.iter().filter(|row| row.kind == kind).count());
                for owner in &owners {
                    let mut found: Vec<&str> = facts.of(kind, owner).map(Fact::key).collect();
                    found.sort_unstable();
                    let wanted = rows.iter().filter(|row| row.kind == kind && row.owner == *owner);
                    let wanted = wanted.filter(|row| row.kind != FactKind::Memory).map(|row| &*row.key);
                    assert!(found.into_iter().eq(wanted), "{kind:?} of {owner}");
                }
            }
        }
        let last: Vec<FactRow> = expected.into_values().map(|row| FactRow { value: None, ..row }).collect();
        last.iter().for_each(|row| facts.put(row, None));
        assert!(facts.places.is_empty() && facts.memory_keys.is_empty() && facts.owners(FactKind::State).is_empty());
    }
}
