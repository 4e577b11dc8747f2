//! Removing, updating, compacting: against a dictionary, against a fresh build, and interrupted.

use super::*;
use crate::hnsw::build::Link;
use crate::hnsw::draft::Draft;
use crate::hnsw::queue::key;
use std::collections::BTreeMap;

/// Everything that must hold of an index that holds `model`, whose highest row was below `num_rows`.
fn check(index: &HnswIndex, model: &BTreeMap<i64, Vec<f32>>, num_rows: usize) {
    let rows: Vec<i64> = index.rows().map(|row| row as i64).collect();
    assert!(rows.iter().eq(model.keys()), "{rows:?}");
    assert_eq!((index.len(), index.num_rows()), (model.len(), num_rows));
    assert!((-1..=num_rows as i64).all(|row| index.contains(row) == model.contains_key(&row)));
    let vectors = index.vectors(None).unwrap();
    assert!(vectors.outer_iter().zip(model.values()).all(|(got, want)| got.as_slice().unwrap() == want));
    let stats = index.stats();
    assert_eq!((stats.rows, stats.unreachable), (model.len(), 0));
    for level in 0..index.levels() {
        let graph = index.graph(level).unwrap();
        let nodes = graph.node_ids().unwrap();
        assert!(nodes.is_sorted() && nodes.iter().all(|node| model.contains_key(node)));
        assert!(level > 0 || nodes == rows);
    }
    let links = &index.core.links;
    let mut incoming = vec![0; links.slots()];
    for slot in 0..links.slots() as u32 {
        assert!(links.children(slot) <= index.params().m + 1);
        links.list(0, slot).iter().for_each(|&other| incoming[other as usize] += 1);
    }
    (0u32..).zip(incoming).for_each(|(slot, count)| assert_eq!(links.incoming(slot).unwrap_or(count), count));
    let loaded = HnswIndex::from_bytes(index.to_bytes()).unwrap();
    assert!(
        loaded.to_bytes() == index.to_bytes()
            && loaded.fingerprint().unwrap() == index.fingerprint().unwrap()
    );
}

/// What a scan of the dictionary says, against searches with and without filters.
fn check_searches(index: &HnswIndex, model: &BTreeMap<i64, Vec<f32>>, queries: &Array2<f32>) {
    let mask: Vec<bool> = (0..index.num_rows()).map(|row| row % 3 != 0).collect();
    let some: Vec<i64> = model.keys().copied().filter(|row| row % 3 != 0).rev().collect();
    for filter in [None, Some(Filter::Mask(&mask)), Some(Filter::Rows(&some))] {
        let exact = index.exact_search(queries.view(), 7, filter).unwrap();
        assert_eq!(index.search(queries.view(), 7, Some(1_000), filter).unwrap(), exact);
        for (query, (rows, distances)) in
            queries.outer_iter().zip(exact.rows.outer_iter().zip(exact.distances.outer_iter()))
        {
            let squared =
                |vector: &[f32]| query.iter().zip(vector).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
            let allowed = model.iter().filter(|(row, _)| filter.is_none() || **row % 3 != 0);
            let mut wanted: Vec<f32> = allowed.map(|(_, vector)| squared(vector)).collect();
            wanted.sort_by(f32::total_cmp);
            wanted.resize(7, f32::INFINITY);
            for ((&row, &got), want) in rows.iter().zip(distances).zip(wanted) {
                assert!(got == want || (got - want).abs() <= 1e-4 * want.max(1.0), "{got} {want}");
                assert_eq!(row == -1, got == f32::INFINITY);
                assert!(row == -1 || (squared(&model[&row]) - got).abs() <= 1e-4 * got.max(1.0));
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Add(usize),
    AddInterrupted(usize),
    Remove(usize),
    RemoveEntry,
    RemoveAll,
    Update(usize),
    Compact,
    Optimize,
    Reload,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..60).prop_map(Step::Add),
        1 => (20usize..60).prop_map(Step::AddInterrupted),
        5 => (0usize..40).prop_map(Step::Remove),
        2 => Just(Step::RemoveEntry),
        1 => Just(Step::RemoveAll),
        3 => (0usize..30).prop_map(Step::Update),
        1 => Just(Step::Compact),
        1 => Just(Step::Optimize),
        1 => Just(Step::Reload),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn follows_a_dictionary(
        steps in prop::collection::vec(step(), 1..25), m in 2usize..6, dim in 1usize..12, seed in any::<u64>(),
    ) {
        let params = Params { m, ef_construction: 10, seed, ..params(Metric::L2) };
        let mut index = HnswIndex::new(dim, params).unwrap();
        let (mut model, mut num_rows) = (BTreeMap::new(), 0);
        let mut rng = stream(seed, "test steps", 0);
        for (i, step) in steps.into_iter().enumerate() {
            let fresh = |n: usize| clustered(n.max(1), dim, 3, seed ^ i as u64).slice_axis(Axis(0), Slice::from(..n)).to_owned();
            let mut held: Vec<i64> = model.keys().copied().collect();
            rng.shuffle(&mut held);
            match step {
                Step::Add(n) => {
                    let vectors = fresh(n);
                    let rows = index.add(vectors.view(), &mut Silent).unwrap();
                    prop_assert_eq!(&rows, &(num_rows as u64..(num_rows + n) as u64));
                    model.extend(rows.map(|row| row as i64).zip(vectors.outer_iter().map(|v| v.to_vec())));
                    num_rows += n;
                }
                Step::AddInterrupted(n) => {
                    let before = index.to_bytes();
                    prop_assert!(index.add(fresh(n).view(), &mut Stop(n / 20)).is_err());
                    prop_assert!(index.to_bytes() == before);
                }
                Step::Remove(n) => {
                    held.truncate(n);
                    index.remove(&held, &mut Silent).unwrap();
                    held.iter().for_each(|row| _ = model.remove(row));
                }
                Step::RemoveEntry if !model.is_empty() => {
                    let row = index.core.rows.row(index.core.links.entry());
                    index.remove(&[row], &mut Silent).unwrap();
                    model.remove(&row);
                }
                Step::RemoveEntry => {}
                Step::RemoveAll => {
                    index.remove(&held, &mut Silent).unwrap();
                    model.clear();
                }
                Step::Update(n) => {
                    held.truncate(n);
                    let vectors = fresh(held.len());
                    index.update(&held, vectors.view(), &mut Silent).unwrap();
                    model.extend(held.into_iter().zip(vectors.outer_iter().map(|v| v.to_vec())));
                }
                Step::Optimize => {
                    index.optimize().unwrap();
                    prop_assert_eq!(index.stats().free, 0);
                }
                Step::Compact => {
                    let queries = fresh(5);
                    let before = index.search(queries.view(), 9, None, None).unwrap();
                    index.compact().unwrap();
                    prop_assert_eq!(index.search(queries.view(), 9, None, None).unwrap(), before);
                    prop_assert_eq!(index.stats().free, 0);
                }
                Step::Reload => index = HnswIndex::from_bytes(index.to_bytes()).unwrap(),
            }
            check(&index, &model, num_rows);
        }
        check_searches(&index, &model, &clustered(4, dim, 3, !seed));
    }
}

/// Replaces rows in rounds, in each as many as `fresh` has for it.
fn churned(index: &mut HnswIndex, fresh: &Array2<f32>, rounds: usize, seed: u64) {
    let each = fresh.nrows() / rounds;
    for round in 0..rounds {
        let mut held: Vec<i64> = index.rows().map(|row| row as i64).collect();
        stream(seed, "test churn", round as u64).shuffle(&mut held);
        index.remove(&held[..each], &mut Silent).unwrap();
        index.add(part(fresh, round * each..(round + 1) * each), &mut Silent).unwrap();
    }
}

#[test]
fn churn_costs_no_recall_no_reach_and_no_memory() {
    let vectors = shuffled(&clustered(6_000, 24, 40, 20));
    for metric in Metric::ALL {
        let mut index = built(&part(&vectors, 0..1_500).to_owned(), params(metric));
        churned(&mut index, &part(&vectors, 1_500..6_000).to_owned(), 15, 21);
        assert_eq!((index.len(), index.num_rows()), (1_500, 6_000));
        let held = index.vectors(None).unwrap();
        let fresh = built(&held, params(metric));
        let queries = clustered(300, 24, 40, 20) + 0.1;
        let (old, new) = (recall(&index, &queries, 10, None), recall(&fresh, &queries, 10, None));
        assert!(old >= new - 0.005, "{metric:?}: recall {old}, of a fresh build {new}");
        let (stats, of_fresh) = (index.stats(), fresh.stats());
        assert_eq!((stats.unreachable, stats.free), (0, 0));
        assert!(stats.bytes as f64 <= 1.2 * of_fresh.bytes as f64, "{} {}", stats.bytes, of_fresh.bytes);
        if metric != Metric::Ip {
            let hits = index.search(held.view(), 1, Some(64), None).unwrap();
            let missed = index.rows().zip(&hits.rows).filter(|(row, hit)| *row as i64 != **hit).count();
            assert_eq!(missed, 0, "{metric:?}: rows that do not find themselves");
        }
    }
}

#[test]
fn what_remains_of_a_few_clusters_is_found() {
    let vectors = clustered(4_000, 16, 20, 23);
    for metric in Metric::ALL {
        let mut index = built(&vectors, params(metric));
        let gone: Vec<i64> = (0..4_000).filter(|row| row / 200 % 4 != 0 && row % 50 != 0).collect();
        for rows in gone.chunks(700) {
            index.remove(rows, &mut Silent).unwrap();
            assert_eq!(index.stats().unreachable, 0);
        }
        let queries = clustered(200, 16, 20, 23) + 0.05;
        let found = recall(&index, &queries, 10, None);
        assert!(found >= 0.97, "{metric:?}: recall {found}");
        index.compact().unwrap();
        assert_eq!(recall(&index, &queries, 10, None), found);
    }
}

#[test]
fn the_entry_point_may_go_again_and_again() {
    let vectors = clustered(300, 8, 4, 24);
    let mut index = built(&vectors, Params { m: 3, ..params(Metric::L2) });
    let mut model: BTreeMap<i64, Vec<f32>> = (0..).zip(vectors.outer_iter().map(|v| v.to_vec())).collect();
    while !index.is_empty() {
        let row = index.core.rows.row(index.core.links.entry());
        index.remove(&[row], &mut Silent).unwrap();
        model.remove(&row);
        check(&index, &model, 300);
    }
    assert_eq!(
        (index.levels(), index.stats().bytes),
        (0, index.core.vectors.bytes() + index.core.rows.bytes())
    );
    assert_eq!(index.add(part(&vectors, 0..2), &mut Silent).unwrap(), 300..302);
}

#[test]
fn copies_of_one_vector_may_go() {
    let same = Array2::from_elem((600, 4), 0.5f32);
    let mut index = built(&same, Params { m: 2, ef_construction: 8, ..params(Metric::L2) });
    for first in (0..560).step_by(7) {
        index.remove(&(first..first + 7).collect::<Vec<i64>>(), &mut Silent).unwrap();
        assert_eq!(index.stats().unreachable, 0);
    }
    let hits = index.search(part(&same, 0..1), 40, None, None).unwrap();
    assert!(hits.rows.iter().all(|&row| row >= 560));
}

#[test]
fn the_graph_after_removals_does_not_depend_on_threads() {
    let vectors = clustered(5_000, 16, 30, 25);
    let run = |threads| {
        with_threads(threads, || {
            let mut index = built(&part(&vectors, 0..3_000).to_owned(), Params::default());
            // One row at a time is found by walks, many by a scan.
            (0..60).for_each(|row| index.remove(&[row * 37], &mut Silent).unwrap());
            index.remove(&(2_300..3_000).collect::<Vec<i64>>(), &mut Silent).unwrap();
            index.add(part(&vectors, 3_000..4_500), &mut Silent).unwrap();
            index
                .update(&(3_000..3_500).collect::<Vec<i64>>(), part(&vectors, 4_500..5_000), &mut Silent)
                .unwrap();
            let before = index.to_bytes();
            index.compact().unwrap();
            (before, index.to_bytes())
        })
    };
    let one = run(1);
    assert!(one == run(2) && one == run(4));
}

#[test]
fn updated_rows_are_where_their_new_vectors_are() {
    let (old, new) = (clustered(3_000, 16, 30, 26), clustered(3_000, 16, 30, 27));
    for metric in [Metric::Cosine, Metric::L2] {
        let mut index = built(&old, params(metric));
        let rows: Vec<i64> = (0..3_000).filter(|row| row % 3 != 1).collect();
        let places: Vec<usize> = rows.iter().map(|&row| row as usize).collect();
        let replacing = new.select(Axis(0), &places);
        index.update(&rows, replacing.view(), &mut Silent).unwrap();
        assert_eq!((index.len(), index.num_rows(), index.stats().unreachable), (3_000, 3_000, 0));
        assert_eq!(index.vectors(Some(&rows)).unwrap(), replacing);
        let hits = index.search(replacing.view(), 1, None, None).unwrap();
        assert!(hits.rows.iter().eq(&rows), "{metric:?}");
        assert!(recall(&index, &(clustered(200, 16, 30, 27) + 0.05), 10, None) >= 0.97);
    }
}

#[test]
fn interrupted_removals_and_updates_keep_a_prefix() {
    let vectors = clustered(900, 8, 5, 28);
    let mut model: BTreeMap<i64, Vec<f32>> = (0..).zip(vectors.outer_iter().map(|v| v.to_vec())).collect();
    let mut index = built(&vectors, params(Metric::L2));
    let rows: Vec<i64> = (0..400).rev().collect();
    let stopped = index.remove(&rows, &mut Stop(3)).unwrap_err();
    let gone = 900 - index.len();
    assert!(gone > 0 && gone < 400);
    assert!(
        matches!(&stopped, Error::Interrupted(text) if text.contains(&format!("first {gone} of"))),
        "{stopped}"
    );
    rows[..gone].iter().for_each(|row| _ = model.remove(row));
    check(&index, &model, 900);
    let rows: Vec<i64> = (500..900).collect();
    let fresh = clustered(400, 8, 5, 29);
    let stopped = index.update(&rows, fresh.view(), &mut Stop(2)).unwrap_err();
    let changed = rows
        .iter()
        .zip(fresh.outer_iter())
        .take_while(|(row, new)| index.vector(**row).unwrap() == new.as_slice().unwrap());
    let done = changed.count();
    assert!(done > 0 && done < 400);
    assert!(
        matches!(&stopped, Error::Interrupted(text) if text.contains(&format!("first {done} of"))),
        "{stopped}"
    );
    model.extend(rows[..done].iter().copied().zip(fresh.outer_iter().map(|v| v.to_vec())));
    check(&index, &model, 900);
}

#[test]
fn wrong_rows_are_refused_and_change_nothing() {
    let mut index = built(&clustered(50, 4, 3, 30), Params::default());
    index.remove(&[7], &mut Silent).unwrap();
    let before = index.to_bytes();
    let message = |error: Error| match error {
        Error::Row(text) => text,
        other => panic!("{other}"),
    };
    for (rows, says) in [
        (&[1, 7][..], "row 7 was removed"),
        (&[50], "handed out 50"),
        (&[-1], "-1"),
        (&[3, 4, 3], "row 3 is given twice"),
    ] {
        assert!(message(index.remove(rows, &mut Silent).unwrap_err()).contains(says));
        let vectors = Array2::ones((rows.len(), 4));
        assert!(message(index.update(rows, vectors.view(), &mut Silent).unwrap_err()).contains(says));
    }
    for vectors in [
        Array2::ones((2, 4)),
        Array2::ones((1, 5)),
        Array2::zeros((1, 4)),
        Array2::from_elem((1, 4), f32::NAN),
    ] {
        assert!(matches!(index.update(&[3], vectors.view(), &mut Silent), Err(Error::Shape(_))));
    }
    assert!(message(index.vectors(Some(&[7])).unwrap_err()).contains("was removed"));
    let query = Array2::ones((1, 4));
    let filter = Some(Filter::Rows(&[7]));
    assert!(message(index.search(query.view(), 1, None, filter).unwrap_err()).contains("filter: row 7"));
    index.remove(&[], &mut Silent).unwrap();
    index.update(&[], Array2::zeros((0, 4)).view(), &mut Silent).unwrap();
    assert!(index.to_bytes() == before);
}

#[test]
fn removed_vectors_leave_no_trace() {
    let vectors = clustered(60, 8, 3, 31);
    let mut index = built(&vectors, Params::default());
    index.remove(&[13], &mut Silent).unwrap();
    let secret: &[u8] = bytemuck::cast_slice(vectors.row(13).to_slice().unwrap());
    assert!(!index.to_bytes().windows(secret.len()).any(|bytes| bytes == secret));
}

#[test]
fn fingerprints_tell_what_was_removed() {
    let vectors = clustered(60, 8, 3, 32);
    let whole = built(&vectors, Params::default());
    let mut index = whole.clone();
    index.remove(&[13], &mut Silent).unwrap();
    assert_ne!(index.fingerprint().unwrap(), whole.fingerprint().unwrap());
}

#[test]
fn quantized_rows_come_and_go() {
    for (storage, rescore) in [
        (Storage::F16, true),
        (Storage::F16, false),
        (Storage::I8, true),
        (Storage::I8, false),
        (Storage::Binary, true),
        (Storage::Binary, false),
    ] {
        for metric in [Metric::L2, Metric::Cosine, Metric::Ip] {
            let vectors = clustered(900, 24, 30, 5);
            let first = part(&vectors, 0..600).to_owned();
            let mut index = built(&first, Params { storage, rescore, ..params(metric) });
            let before = index.to_bytes();
            index.remove(&(0..600).step_by(3).collect::<Vec<_>>(), &mut Silent).unwrap();
            let held = index.to_bytes();
            // Twice as long, so that ranges have to grow; over free slots and beyond, and taken back.
            let longer = part(&vectors, 600..900).mapv(|value| 2.0 * value);
            let mut stop = Stop(2);
            assert!(index.add(longer.view(), &mut stop).is_err());
            assert!(index.to_bytes() == held && held != before, "{storage:?} {metric:?}");
            let rows = index.add(longer.view(), &mut Silent).unwrap();
            assert_eq!(rows, 600..900);
            index.update(&[1, 2], part(&vectors, 3..5), &mut Silent).unwrap();
            let check = |index: &HnswIndex| {
                assert_eq!(index.len(), 700);
                let got = index.vectors(Some(&[1, 4, 700])).unwrap();
                let wanted =
                    [vectors.row(3).to_owned(), vectors.row(4).to_owned(), longer.row(100).to_owned()];
                for (got, wanted) in got.outer_iter().zip(&wanted) {
                    let apart = (&got - wanted).mapv(|value| value * value).sum().sqrt();
                    let length = wanted.mapv(|value| value * value).sum().sqrt();
                    let bound = match (rescore, storage) {
                        (true, _) => 0.0,
                        (false, Storage::Binary) => length,
                        (false, _) => 0.02 * length,
                    };
                    assert!(apart <= bound, "{storage:?} {rescore} {metric:?}: {apart} of {length}");
                }
                let least = if storage == Storage::Binary { 0.6 } else { 0.9 };
                let got = recall(index, &longer, 10, None);
                assert!(got >= least, "{storage:?} {rescore} {metric:?}: {got}");
            };
            check(&index);
            let mut again = HnswIndex::from_bytes(index.to_bytes()).unwrap();
            check(&again);
            again.compact().unwrap();
            check(&again);
        }
    }
}

#[test]
fn a_pair_seen_from_both_sides_is_linked_once() {
    // Without the exact rows, a pair's distance depends on whose code is compared with whose.
    for list in [vec![], (4..12).collect::<Vec<u32>>()] {
        let mut index = built(&clustered(12, 8, 2, 33), Params { m: 4, ..Params::default() });
        index.core.links.set(0, 0, &list);
        let links = [(0.5, 3), (0.3, 2), (0.7, 3), (0.3, 2)];
        let links = links.map(|(distance, slot)| Link::new(0, 0, key(distance, slot)));
        let mut draft = Draft::new(&index.core.links);
        index.core.add_links(links.to_vec(), &mut draft, &index.pool, None);
        let changes = draft.into_changes();
        index.core.links.write(&changes);
        let found = index.core.links.list(0, 0);
        assert!((1..found.len()).all(|at| !found[..at].contains(&found[at])), "{found:?}");
        assert!(!list.is_empty() || found == [2, 3]);
    }
}

/// Independent normal values.
fn normal(rows: usize, dim: usize, seed: u64) -> Array2<f32> {
    let mut rng = stream(seed, "test", 1);
    Array2::from_shape_fn((rows, dim), |_| rng.normal() as f32)
}

#[test]
fn a_loaded_index_goes_on_as_the_one_that_was_saved() {
    let vectors = normal(700, 12, 36);
    let mut index = built(&part(&vectors, 0..400).to_owned(), Params { m: 6, ..Params::default() });
    index.remove(&(100..180).collect::<Vec<_>>(), &mut Silent).unwrap();
    index.compact().unwrap();
    let mut loaded = HnswIndex::from_bytes(index.to_bytes()).unwrap();
    for index in [&mut index, &mut loaded] {
        index.add(part(&vectors, 400..600), &mut Silent).unwrap();
        index.update(&(10..60).collect::<Vec<_>>(), part(&vectors, 600..650), &mut Silent).unwrap();
        index.add(part(&vectors, 650..700), &mut Silent).unwrap();
    }
    assert!(loaded.to_bytes() == index.to_bytes());
}
