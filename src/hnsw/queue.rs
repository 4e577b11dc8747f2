//! The candidates of a search, nearest first, in one bounded sorted array.
//!
//! A candidate is one `u64` key: the distance's bits in an order that integers compare by, then the slot, then
//! whether it has been expanded. Keys are distinct, so order, and with it every result, does not depend on how
//! ties arise. Against a pair of heaps, a sorted array wins at the sizes that a search uses: insertion is a binary
//! search and a short move within a few cache lines, and the next candidate is found by a cursor.

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

/// The nearest candidates seen, at most `capacity` of them.
#[derive(Debug, Default)]
pub(super) struct Queue {
    keys: Vec<u64>,
    capacity: usize,
    /// Every candidate before it has been expanded.
    cursor: usize,
}

impl Queue {
    /// Empties the queue.
    pub fn reset(&mut self, capacity: usize) {
        self.keys.clear();
        self.keys.reserve(capacity);
        self.capacity = capacity;
        self.cursor = 0;
    }

    /// Keys at or beyond it are not wanted.
    #[inline]
    pub fn bound(&self) -> u64 {
        if self.keys.len() < self.capacity { u64::MAX } else { self.keys.last().copied().unwrap_or(0) }
    }

    /// Inserts `key` if it is among the nearest; `true` if it is now the next to expand.
    #[inline]
    pub fn insert(&mut self, key: u64) -> bool {
        if key >= self.bound() {
            return false;
        }
        let at = self.keys.partition_point(|&other| other < key);
        if self.keys.len() == self.capacity {
            self.keys.copy_within(at..self.capacity - 1, at + 1);
            self.keys[at] = key;
        } else {
            self.keys.insert(at, key);
        }
        let next = at <= self.cursor;
        self.cursor = self.cursor.min(at);
        next
    }

    /// The nearest candidate not yet expanded, which it marks so.
    #[inline]
    pub fn expand(&mut self) -> Option<u32> {
        while let Some(key) = self.keys.get_mut(self.cursor) {
            self.cursor += 1;
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
        self.keys.get(self.cursor).filter(|&&key| key & EXPANDED == 0).map(|&key| slot_of(key))
    }

    /// All candidates, nearest first.
    pub fn keys(&self) -> &[u64] {
        &self.keys
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
        fn holds_the_nearest_and_expands_in_order(distances in prop::collection::vec(0u8..50, 0..60), capacity in 1usize..20) {
            let mut queue = Queue::default();
            queue.reset(capacity);
            let mut all: Vec<u64> = Vec::new();
            let mut expanded = std::collections::HashSet::new();
            for (slot, &distance) in distances.iter().enumerate() {
                queue.insert(key(f32::from(distance), slot as u32));
                all.push(key(f32::from(distance), slot as u32));
                all.sort_unstable();
                all.truncate(capacity);
                if slot % 3 == 0 {
                    let next = all.iter().map(|&key| slot_of(key)).find(|slot| !expanded.contains(slot));
                    prop_assert_eq!(queue.expand(), next);
                    expanded.extend(next);
                }
                prop_assert_eq!(queue.keys().iter().map(|key| key & !EXPANDED).collect::<Vec<_>>(), all.clone());
            }
        }
    }
}
