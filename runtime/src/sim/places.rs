//! The ids of a journal's events in order, and where each is, for the account of a simulation.
//!
//! It promises to take little room and to touch little memory: a run has millions of events, each is put in here once and
//! looked for once or twice. What is there is never moved when it grows.

use atra_bus::EventId;
use hashbrown::{HashTable, hash_table::Entry};

/// Ids in a piece of the list.
const PIECE: usize = 16_384;

/// The list, and each id's place in it by half a hash.
#[derive(Default)]
pub(crate) struct Ids {
    /// Seq n at place n − 1; all pieces but the last are full.
    pieces: Vec<Vec<EventId>>,
    places: HashTable<(u32, u32)>,
}

impl Ids {
    pub(crate) fn len(&self) -> usize {
        self.pieces.last().map_or(0, |last| (self.pieces.len() - 1) * PIECE + last.len())
    }

    /// The id at a seq.
    pub(crate) fn at(&self, seq: u64) -> Option<&EventId> {
        id_at(&self.pieces, usize::try_from(seq.checked_sub(1)?).ok()?)
    }

    /// The seq of an id; the first one, if it is there twice.
    pub(crate) fn seq_of(&self, id: &EventId) -> Option<u64> {
        let half = half(id);
        let is_it = |&(of, place): &(u32, u32)| of == half && id_at(&self.pieces, place as usize) == Some(id);
        let (_, place) = self.places.find(hash(half), is_it)?;
        Some(u64::from(*place) + 1)
    }

    /// Adds an id at the end; gives the seq that it has been at before, if it has.
    pub(crate) fn push(&mut self, id: EventId) -> Option<u64> {
        let (half, place) = (half(&id), self.len() as u32);
        let Self { pieces, places } = self;
        let is_it = |&(of, place): &(u32, u32)| of == half && id_at(pieces, place as usize) == Some(&id);
        let first = match places.entry(hash(half), is_it, |&(half, _)| hash(half)) {
            Entry::Vacant(empty) => {
                empty.insert((half, place));
                None
            }
            Entry::Occupied(first) => Some(u64::from(first.get().1) + 1),
        };
        if first.is_some() {
            places.insert_unique(hash(half), (half, place), |&(half, _)| hash(half));
        }
        if pieces.last().is_none_or(|last| last.len() == PIECE) {
            pieces.push(Vec::with_capacity(PIECE));
        }
        if let Some(last) = pieces.last_mut() {
            last.push(id);
        }
        first
    }

    /// Leaves the first `n`.
    pub(crate) fn truncate(&mut self, n: usize) {
        while self.len() > n {
            let id = self.pieces.last_mut().and_then(Vec::pop);
            if self.pieces.last().is_some_and(Vec::is_empty) {
                self.pieces.pop();
            }
            let Some(half) = id.as_ref().map(half) else { return };
            let place = self.len() as u32;
            if let Ok(found) = self.places.find_entry(hash(half), |known| *known == (half, place)) {
                found.remove();
            }
        }
    }
}

fn id_at(pieces: &[Vec<EventId>], place: usize) -> Option<&EventId> {
    pieces.get(place / PIECE)?.get(place % PIECE)
}

fn half(id: &EventId) -> u32 {
    (id.seed() >> 32) as u32
}

/// The table looks at the highest bits and at the lowest.
fn hash(half: u32) -> u64 {
    u64::from(half).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use atra_bus::Name;

    use super::*;

    /// Also of two ids whose kept halves are equal, and of one that is there twice, as no journal should have it.
    #[test]
    fn an_id_is_found_where_it_is() {
        let name = Name::new("a").expect("a name");
        let n = 2 * PIECE as u64 + 5;
        let mut list: Vec<EventId> = (0..n).map(|n| EventId::of(&name, &n.to_string())).collect();
        let twin = {
            let mut bytes = *list[7].as_bytes();
            // Both halves of the seed change by the same bits, so it stays.
            (bytes[5], bytes[13]) = (bytes[5] ^ 1, bytes[13] ^ 1);
            EventId::from_slice(&bytes).expect("an id")
        };
        assert!(twin != list[7] && twin.seed() == list[7].seed());
        list.push(twin);
        let mut ids = Ids::default();
        assert!(list.iter().all(|id| ids.push(*id).is_none()));
        assert_eq!(ids.push(list[3]), Some(4), "it is there already");
        assert_eq!(ids.len(), list.len() + 1);
        for (seq, id) in (1..).zip(&list) {
            assert_eq!((ids.seq_of(id), ids.at(seq)), (Some(seq), Some(id)));
        }
        assert_eq!((ids.at(0), ids.at(n + 3)), (None, None));
        // What was put in last goes first, and can come again.
        ids.truncate(list.len() - 1);
        assert_eq!((ids.seq_of(&list[3]), ids.seq_of(&twin), ids.seq_of(&list[7])), (Some(4), None, Some(8)));
        assert_eq!(ids.places.len(), ids.len(), "what is gone takes no room");
        ids.truncate(PIECE);
        assert_eq!((ids.len(), ids.seq_of(&list[PIECE]), ids.at(PIECE as u64 + 1)), (PIECE, None, None));
        assert_eq!((ids.push(twin), ids.seq_of(&twin)), (None, Some(PIECE as u64 + 1)));
        ids.truncate(0);
        assert_eq!((ids.len(), ids.seq_of(&list[0])), (0, None));
    }
}
