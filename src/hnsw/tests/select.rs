//! The choice of neighbours.

use super::*;
use crate::hnsw::access::Access;
use crate::hnsw::build::insert_segment;
use crate::hnsw::queue::{distance_of, key, slot_of};
use crate::hnsw::select::{Before, Ruler, Selection, shadows};

/// The rule as it is written.
fn reference(index: &HnswIndex, candidates: &[u64], limit: usize, must: impl Fn(u32) -> bool) -> Vec<u64> {
    let pair = |a: u64, b: u64| index.core.vectors.pair(slot_of(a), slot_of(b));
    let mut owed = candidates.iter().filter(|&&key| must(slot_of(key))).count();
    let (mut chosen, mut left): (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());
    for &key in candidates {
        if must(slot_of(key)) {
            owed -= 1;
            chosen.push(key);
        } else if chosen.len() + owed < limit {
            let near = |&other: &u64| shadows(pair(key, other), distance_of(key), || distance_of(other));
            if chosen.iter().any(near) { left.push(key) } else { chosen.push(key) }
        }
    }
    let room = limit.saturating_sub(chosen.len());
    chosen.extend(left.into_iter().take(room));
    chosen
}

/// Rows as keys by their distance from row 0, nearest first.
fn keys(index: &HnswIndex, slots: impl Iterator<Item = u32>) -> Vec<u64> {
    let mut keys: Vec<u64> = slots.map(|slot| key(index.core.vectors.pair(0, slot), slot)).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn neighbours_are_chosen_by_the_rule() {
    for (seed, copies) in (0..20).flat_map(|seed| [(seed, 1), (seed, 3)]) {
        let distinct = clustered(120, 6, 3, seed);
        let index = built(
            &distinct.select(Axis(0), &(0..120).map(|i| i / copies).collect::<Vec<_>>()),
            params(Metric::L2),
        );
        let candidates = keys(&index, 1..120);
        let mut selection = Selection::default();
        for limit in [1, 5, 16, 200] {
            selection.choose(Ruler::Rows(&index.core.vectors), &candidates, limit);
            assert_eq!(selection.keys, reference(&index, &candidates, limit, |_| false), "{limit}");
        }
    }
}

#[test]
fn what_is_known_of_candidates_does_not_change_the_choice() {
    const LIMIT: usize = 12;
    for (seed, copies) in (0..30).flat_map(|seed| [(seed, 1), (seed, 2)]) {
        let distinct = clustered(300, 5, 4, seed);
        let index = built(
            &distinct.select(Axis(0), &(0..300).map(|i| i / copies).collect::<Vec<_>>()),
            params(Metric::L2),
        );
        let ruler = Ruler::Rows(&index.core.vectors);
        let mut rng = stream(seed, "test", 0);
        let mut selection = Selection::default();
        let mut list: Vec<(u32, Before)> = Vec::new();
        let mut next = 1;
        while next < 300 {
            // A few rows more, and others that must stay than last time.
            let more = 1 + rng.below(3) as u32;
            list.extend((next..300.min(next + more)).map(|slot| (slot, Before::Unseen)));
            next += more;
            let kept = rng.below(4) as u32;
            let must = |slot: u32| slot % 5 == kept;
            let candidates = keys(&index, list.iter().map(|&(slot, _)| slot));
            let before = |slot| list.iter().find(|(other, _)| *other == slot).unwrap().1;
            selection.candidates = candidates.iter().map(|&key| (key, before(slot_of(key)))).collect();
            selection.choose_again(ruler, LIMIT, must);
            assert_eq!(selection.keys, reference(&index, &candidates, LIMIT, must));
            let slots: Vec<u32> = selection.keys.iter().map(|&key| slot_of(key)).collect();
            let fates = selection.fates.iter().map(|fate| fate.in_list(&slots));
            list = slots.iter().copied().zip(fates).collect();
        }
    }
}

#[test]
fn notes_do_not_change_the_graph() {
    let vectors = clustered(3_000, 12, 20, 5);
    for metric in Metric::ALL {
        let noted = built(&vectors, params(metric));
        let mut plain = HnswIndex::new(12, params(metric)).unwrap();
        plain.adjust(vectors.view());
        insert_segment(&mut plain, vectors.view(), &mut None, &mut |_| Ok(())).unwrap();
        assert!(noted.to_bytes() == plain.to_bytes(), "{metric:?}");
    }
}
