//! The order of slots, and what an index takes of memory.

use super::files::kinds;
use super::*;

/// What does not depend on the order of slots, where no distances are equal.
fn contents(index: &HnswIndex, queries: &Array2<f32>) -> (Hits, Hits, RangeHits, Array2<f32>, Vec<u64>) {
    let mask: Vec<bool> = (0..index.num_rows()).map(|row| row % 3 == 1).collect();
    let exact = |filter| index.exact_search(queries.view(), 9, filter).unwrap();
    let mut ranges = index.range_search(queries.view(), 0.9, true).unwrap();
    // Among thousands some distances are equal.
    for bounds in ranges.indptr.windows(2) {
        ranges.rows[bounds[0]..bounds[1]].sort_unstable();
    }
    let (all, some) = (exact(None), exact(Some(Filter::Mask(&mask))));
    (all, some, ranges, index.vectors(None).unwrap(), index.rows().collect())
}

/// Links between slots that lie far apart.
fn far(index: &HnswIndex) -> usize {
    let links = &index.core.links;
    let slots = 0..links.slots() as u32;
    slots.map(|slot| links.list(0, slot).iter().filter(|other| other.abs_diff(slot) > 100).count()).sum()
}

#[test]
fn an_ordered_index_holds_and_finds_the_same() {
    let vectors = shuffled(&clustered(2_000, 24, 40, 0));
    let queries = clustered(30, 24, 40, 1);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.rvx");
    for params in kinds() {
        // Bits tie, and equal distances may change places.
        if params.storage == Storage::Binary && !params.rescore {
            continue;
        }
        for removed in [0, 500] {
            let mut index = built(&vectors, params.clone());
            index.remove(&(0..removed).map(|row| 3 * row).collect::<Vec<_>>(), &mut Silent).unwrap();
            let (before, spread) = (contents(&index, &queries), far(&index));
            let found = index.search(queries.view(), 10, None, None).unwrap();
            let graphs: Vec<_> = (0..index.levels()).map(|level| index.graph(level).unwrap()).collect();
            index.optimize().unwrap();
            assert!(contents(&index, &queries) == before, "{params:?}");
            assert!(10 * far(&index) < 9 * spread, "{} of {spread}", far(&index));
            // Codes of a byte or a bit tie as well, and so do the walks that compare them.
            if matches!(params.storage, Storage::F32 | Storage::F16) {
                assert!(index.search(queries.view(), 10, None, None).unwrap() == found, "{params:?}");
            }
            for (level, graph) in graphs.iter().enumerate() {
                assert_eq!(index.graph(level).unwrap().indices(), graph.indices());
            }
            assert_eq!((index.stats().free, index.stats().unreachable), (0, 0));
            let bytes = index.to_bytes();
            assert!(HnswIndex::from_bytes(bytes.clone()).unwrap().to_bytes() == bytes);
            let mut again = index.clone();
            again.optimize().unwrap();
            assert!(again.to_bytes() == bytes, "an ordered index stays as it is");
            let rows = index.add(queries.view(), &mut Silent).unwrap();
            assert_eq!(rows, 2_000..2_030);
            index.save(&path).unwrap();
            let loaded = HnswIndex::load(&path, LoadOptions::default()).unwrap();
            assert!(contents(&loaded, &queries) == contents(&index, &queries));
        }
    }
    let mut empty = HnswIndex::new(3, Params::default()).unwrap();
    empty.optimize().unwrap();
    assert!(empty.is_empty());
}

#[test]
fn the_order_does_not_depend_on_threads() {
    let vectors = clustered(1_500, 16, 30, 5);
    let order = |threads| {
        with_threads(threads, || {
            let mut index = built(&vectors, Params::default());
            index.optimize().unwrap();
            index.to_bytes()
        })
    };
    assert!(order(1) == order(3));
}

#[test]
fn an_index_takes_no_more_than_its_vectors_and_160_bytes_a_row() {
    let least = |storage, rescore| Params { storage, rescore, ef_construction: 4, ..Params::default() };
    for (rows, dim, params, stored) in [
        (40_000, 128, least(Storage::F32, true), 512),
        (40_000, 128, least(Storage::I8, false), 128),
        // More than one segment.
        (150_000, 16, least(Storage::F32, true), 64),
    ] {
        let vectors = clustered(rows, dim, 100, 0);
        let mut index = built(&vectors, params);
        let most = rows * (stored + 160);
        assert!(index.stats().bytes <= most, "{} of {most}", index.stats().bytes);
        index.remove(&[0, 1], &mut Silent).unwrap();
        for index in [&mut HnswIndex::from_bytes(index.to_bytes()).unwrap(), &mut index] {
            index.compact().unwrap();
            let (held, most) = (index.stats().bytes, most - 2 * (stored + 160) + 8);
            assert!(held <= most, "{held} of {most}");
        }
    }
}
