//! The candidates of a search, nearest first, in one bounded sorted array.
//!
//! A candidate is one `u64` key: the distance's bits in an order that integers compare by, then the slot, then
//! whether it has been expanded. Keys are distinct, so order, and with it every result, does not depend on how
//! ties arise. Against a pair of heaps, a sorted array wins at the sizes that a search uses: insertion is a pass of
//! vector instructions over a few cache lines without a branch, and the next candidate is found by a cursor.

use crate::lines::make_room;
use crate::simd::{Kernels, kernels};

/// A key's lowest bit.
const EXPANDED: u64 = 1;

/// Slots must fit beside that bit.
pub(super) const MAX_SLOTS: usize = 1 << 31;

/// The key of a candidate that has not been expanded.
#[inline]
pub(super) fn key(distance: f32, slot: u32) -> u64 {
    let bits = distance.to_bits();
    let ordered = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    u64::from(ordered) << 32 | u64::from(slot) << 1
}

/// The slot of a key.
#[inline]
pub(super) fn slot_of(key: u64) -> u32 {
    (key as u32) >> 1
}

/// The distance of a key.
#[inline]
pub(super) fn distance_of(key: u64) -> f32 {
    let ordered = (key >> 32) as u32;
    f32::from_bits(if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered })
}

/// Keys are kept in whole blocks of so many.
const BLOCK: usize = 8;

/// The nearest candidates seen, at most `capacity` of them.
#[derive(Debug)]
pub(super) struct Queue {
    /// A zero, the keys in order, then keys that are no less; as many whole blocks behind the zero as were needed yet.
    keys: Vec<u64>,
    len: usize,
    capacity: usize,
    /// Every candidate before it has been expanded.
    cursor: usize,
    /// Keys on their way in.
    new: Vec<u64>,
    kernels: &'static Kernels,
}

impl Default for Queue {
    fn default() -> Self {
        Self { keys: vec![0], len: 0, capacity: 0, cursor: 0, new: Vec::new(), kernels: kernels() }
    }
}

impl Queue {
    /// Empties the queue.
    pub fn reset(&mut self, capacity: usize) {
        self.keys.truncate(1);
        (self.len, self.capacity, self.cursor) = (0, capacity, 0);
    }

    /// Keys at or beyond it are not wanted.
    #[inline]
    pub fn bound(&self) -> u64 {
        self.keys.get(self.capacity).copied().unwrap_or(u64::MAX)
    }

    /// Inserts those of the keys that are among the nearest; `true` if one is now the next to expand.
    #[inline]
    pub fn insert_all(&mut self, keys: impl ExactSizeIterator<Item = u64>) -> bool {
        let bound = self.bound();
        self.new.resize(keys.len(), 0);
        let (mut wanted, mut least) = (0, bound);
        // Whether a key is wanted decides how far the write position moves, rather than where the program goes.
        for key in keys {
            self.new[wanted] = key;
            wanted += usize::from(key < bound);
            least = least.min(key);
        }
        let is_next = wanted > 0 && (self.cursor == self.len || least < self.keys[self.cursor + 1]);
        if is_next {
            while self.keys[self.cursor] > least {
                self.cursor -= 1;
            }
        }
        self.len = self.capacity.min(self.len + wanted);
        let end = self.len.next_multiple_of(BLOCK);
        if self.keys.len() <= end {
            make_room(&mut self.keys, 1 + end);
            self.keys.resize(1 + end, u64::MAX);
        }
        // Keys before the cursor are less.
        let start = self.cursor / BLOCK * BLOCK;
        (self.kernels.insert_keys)(&mut self.keys[start..=end], &self.new[..wanted]);
        is_next
    }

    /// Inserts a key if it is among the nearest.
    #[inline]
    pub fn insert(&mut self, key: u64) {
        self.insert_all([key].into_iter());
    }

    /// The nearest candidate not yet expanded, which it marks so.
    #[inline]
    pub fn expand(&mut self) -> Option<u32> {
        while self.cursor < self.len {
            self.cursor += 1;
            let key = &mut self.keys[self.cursor];
            if *key & EXPANDED == 0 {
                *key |= EXPANDED;
                return Some(slot_of(*key));
            }
        }
        None
    }

    /// The candidate that [`expand`](Self::expand) would return, as things stand.
    #[inline]
    pub fn peek(&self) -> Option<u32> {
        self.keys().get(self.cursor).filter(|&&key| key & EXPANDED == 0).map(|&key| slot_of(key))
    }

    /// All candidates, nearest first.
    pub fn keys(&self) -> &[u64] {
        &self.keys[1..=self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_order_as_distances_then_slots(a in any::<f32>(), b in any::<f32>(), i in 0u32..1 << 31, j in 0u32..1 << 31) {
            prop_assert_eq!((slot_of(key(a, i)), distance_of(key(a, i)).to_bits()), (i, a.to_bits()));
            if a < b { prop_assert!(key(a, i) < key(b, j)); }
            prop_assert_eq!(key(a, i).cmp(&key(a, j)), i.cmp(&j));
        }

        #[test]
        fn holds_the_nearest_and_expands_in_order(distances in prop::collection::vec(0u8..50, 0..60), capacity in 1usize..20, batch in 1usize..9) {
            let mut queue = Queue::default();
            queue.reset(capacity);
            let mut all: Vec<u64> = Vec::new();
            let mut expanded = std::collections::HashSet::new();
            let keys: Vec<u64> = (0..).zip(&distances).map(|(slot, &distance)| key(distance.into(), slot)).collect();
            for batch in keys.chunks(batch) {
                let has_next = queue.insert_all(batch.iter().copied());
                prop_assert_eq!(has_next, queue.peek().is_some_and(|slot| batch.iter().any(|&key| slot_of(key) == slot)));
                all.extend(batch);
                all.sort_unstable();
                all.truncate(capacity);
                let next = all.iter().map(|&key| slot_of(key)).find(|slot| !expanded.contains(slot));
                prop_assert_eq!(queue.peek().or(next), next);
                prop_assert_eq!(queue.expand(), next);
                expanded.extend(next);
                prop_assert_eq!(queue.keys().iter().map(|key| key & !EXPANDED).collect::<Vec<_>>(), all.clone());
            }
        }
    }
}
