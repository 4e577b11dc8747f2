//! Memory that is refused at any point of a call: the index is as it was before, and works.

use super::*;
use crate::memory::faults::refuse_after;

fn quantized(storage: Storage, rescore: bool) -> Params {
    Params { storage, rescore, ef_construction: 20, m: 4, ..params(Metric::Cosine) }
}

fn every_storage() -> [Params; 6] {
    [
        quantized(Storage::F32, true),
        quantized(Storage::F16, true),
        quantized(Storage::I8, true),
        quantized(Storage::I8, false),
        quantized(Storage::Binary, true),
        quantized(Storage::Binary, false),
    ]
}

/// Runs `test` on one thread, whose requests can be refused.
fn on_one_thread<R>(test: impl FnOnce() -> R) -> R {
    let threads = crate::threads::num_threads();
    crate::threads::set_num_threads(1).unwrap();
    let result = test();
    crate::threads::set_num_threads(threads).unwrap();
    result
}

/// Refuses the first request of `change`, then the second, and so on, until it comes to its end; returns how many times.
fn refuse_each(index: &HnswIndex, change: impl Fn(&mut HnswIndex) -> Result<()>) -> usize {
    on_one_thread(|| refuse_each_here(index, change))
}

fn refuse_each_here(index: &HnswIndex, change: impl Fn(&mut HnswIndex) -> Result<()>) -> usize {
    let before = index.to_bytes();
    for granted in 0.. {
        let mut changed = index.clone();
        match refuse_after(granted, || change(&mut changed)) {
            Err(Error::Memory(_)) => assert!(changed.to_bytes() == before, "refusal {granted} left a change"),
            Err(other) => panic!("refusal {granted}: {other}"),
            Ok(()) => {
                assert_eq!(changed.stats().unreachable, 0);
                return granted;
            }
        }
        if granted % 16 == 0 {
            change(&mut changed).unwrap();
            assert_eq!(changed.stats().unreachable, 0);
        }
    }
    unreachable!("the change ends")
}

fn hole(vectors: &Array2<f32>, params: Params) -> HnswIndex {
    let mut index = built(vectors, params);
    index.remove(&[3, 17, 40, 41], &mut Silent).unwrap();
    index
}

#[test]
fn a_refused_add_changes_nothing() {
    let (held, more) = (clustered(150, 70, 5, 90), clustered(40, 70, 5, 91));
    for params in every_storage() {
        for index in [HnswIndex::new(70, params.clone()).unwrap(), hole(&held, params.clone())] {
            let refused = refuse_each(&index, |index| index.add(more.view(), &mut Silent).map(drop));
            assert!(refused > 5, "{params:?}: {refused}");
        }
    }
}

#[test]
fn a_refused_update_or_removal_changes_nothing() {
    let (held, new) = (clustered(150, 70, 5, 92), clustered(8, 70, 5, 93));
    let rows = [5, 6, 7, 60, 61, 100, 120, 149];
    for params in every_storage() {
        let index = hole(&held, params.clone());
        // Codes that the update needs ranges for, so that a refusal can be told from a change of ranges.
        let codes_alone = !params.rescore && params.storage != Storage::F32;
        if !codes_alone {
            assert!(refuse_each(&index, |index| index.update(&rows, new.view(), &mut Silent)) > 5);
        }
        assert!(refuse_each(&index, |index| index.remove(&rows, &mut Silent)) > 1);
    }
}

#[test]
fn a_refused_compaction_changes_nothing() {
    let held = clustered(150, 70, 5, 94);
    for params in every_storage() {
        let index = hole(&held, params);
        assert!(refuse_each(&index, HnswIndex::compact) > 5);
        assert!(refuse_each(&index, HnswIndex::optimize) > 5);
        assert!(refuse_each(&index, |index| index.skip_rows(5_000)) > 0);
    }
}

#[test]
fn refused_searches_and_files_are_errors() {
    let held = clustered(150, 16, 5, 95);
    let index = built(&held, params(Metric::L2));
    let bytes = index.to_bytes();
    let reads: [(&str, &dyn Fn() -> Result<()>); 7] = [
        ("search", &|| index.search(held.view(), 3, None, None).map(drop)),
        ("filtered", &|| index.search(held.view(), 3, None, Some(Filter::Rows(&[1, 2, 3]))).map(drop)),
        ("exact", &|| index.exact_search(held.view(), 3, None).map(drop)),
        ("range", &|| index.range_search(held.view(), 1.0, false).map(drop)),
        ("vectors", &|| index.vectors(None).map(drop)),
        ("graph", &|| index.graph(0).map(drop)),
        ("read", &|| HnswIndex::from_bytes(bytes.clone()).map(drop)),
    ];
    on_one_thread(|| {
        for (name, read) in reads {
            let mut granted = 0;
            while let Err(error) = refuse_after(granted, read) {
                assert!(matches!(error, Error::Memory(_)), "{name}: {error}");
                granted += 1;
            }
            assert!(granted > 0, "{name}");
        }
    });
}
