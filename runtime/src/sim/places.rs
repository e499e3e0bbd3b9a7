//! Where each event of the journal is, found by its id, for the account of a simulation.
//!
//! It promises to take little room and to touch little memory: a run has millions of events, each is put in here once and
//! looked for once or twice. The ids themselves lie in the account's list, which every call is given.

use atra_bus::EventId;
use hashbrown::{HashTable, hash_table::Entry};

/// Where each event is, found by its id. Millions of them: a place and half a hash are kept here, the ids lie in the
/// account's list of them.
#[derive(Default)]
pub(crate) struct Places(HashTable<(u32, u32)>);

impl Places {
    pub(crate) fn get(&self, ids: &[EventId], id: &EventId) -> Option<u64> {
        let half = Self::half(id);
        let is_it = |&(of, place): &(u32, u32)| of == half && ids.get(place as usize) == Some(id);
        let (_, place) = self.0.find(Self::hash(half), is_it)?;
        Some(u64::from(*place) + 1)
    }

    /// Adds the id at the end of the list, where it will be; gives the seq that it has been at before, if it has.
    pub(crate) fn add(&mut self, ids: &[EventId], id: &EventId) -> Option<u64> {
        let half = Self::half(id);
        let (hash, new) = (Self::hash(half), (half, ids.len() as u32));
        let is_it = |&(of, place): &(u32, u32)| of == half && ids.get(place as usize) == Some(id);
        let first = match self.0.entry(hash, is_it, |&(half, _)| Self::hash(half)) {
            Entry::Vacant(empty) => {
                empty.insert(new);
                return None;
            }
            Entry::Occupied(first) => u64::from(first.get().1) + 1,
        };
        self.0.insert_unique(hash, new, |&(half, _)| Self::hash(half));
        Some(first)
    }

    pub(crate) fn remove(&mut self, id: &EventId, place: usize) {
        let half = Self::half(id);
        if let Ok(found) = self.0.find_entry(Self::hash(half), |known| *known == (half, place as u32)) {
            found.remove();
        }
    }

    fn half(id: &EventId) -> u32 {
        (id.seed() >> 32) as u32
    }

    /// The table looks at the highest bits and at the lowest.
    fn hash(half: u32) -> u64 {
        u64::from(half).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

#[cfg(test)]
mod tests {
    use atra_bus::Name;

    use super::*;

    /// Also of two ids whose kept halves are equal, and of one that is in the journal twice, as no journal should have it.
    #[test]
    fn an_id_is_found_where_it_is() {
        let name = Name::new("a").expect("a name");
        let mut ids: Vec<EventId> = (0..1_000).map(|n| EventId::of(&name, &format!("{n}"))).collect();
        let twin = {
            let mut bytes = *ids[7].as_bytes();
            // Both halves of the seed change by the same bits, so it stays.
            (bytes[5], bytes[13]) = (bytes[5] ^ 1, bytes[13] ^ 1);
            EventId::from_slice(&bytes).expect("an id")
        };
        assert!(twin != ids[7] && twin.seed() == ids[7].seed());
        ids.push(twin);
        let (mut places, mut list) = (Places::default(), Vec::new());
        for id in &ids {
            assert_eq!(places.add(&list, id), None);
            list.push(*id);
        }
        assert_eq!(places.add(&list, &ids[3]), Some(4), "it is there already");
        list.push(ids[3]);
        for (place, id) in ids.iter().enumerate() {
            assert_eq!(places.get(&list, id), Some(place as u64 + 1));
        }
        // What was put in last is taken back first.
        places.remove(&list.pop().expect("the repeated one"), 1_001);
        places.remove(&list.pop().expect("the twin"), 1_000);
        assert_eq!((places.get(&list, &ids[3]), places.get(&list, &twin)), (Some(4), None));
        assert_eq!(places.get(&list, &ids[7]), Some(8));
    }
}
