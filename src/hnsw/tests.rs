//! The index as a whole, against brute force and against itself.

use super::traverse::Lists;
use super::*;
use crate::error::Error;
use crate::monitor::{Monitor, Silent};
use crate::rng::stream;
use ndarray::{Array2, ArrayView1, ArrayView2, Axis, Slice};
use proptest::prelude::*;
use std::ops::Range;

mod files;
#[cfg(feature = "mmap")]
mod mapped;
mod memory;
mod optimize;
mod removal;
mod select;
mod sharing;
mod sketch;

/// `n` vectors around `centres` centres, in the order of their centres.
pub(super) fn clustered(n: usize, dim: usize, centres: usize, seed: u64) -> Array2<f32> {
    let mut rng = stream(seed, "test centres", 0);
    let centres = Array2::from_shape_fn((centres, dim), |_| rng.normal() as f32);
    Array2::from_shape_fn((n, dim), |(i, j)| {
        centres[[i * centres.nrows() / n, j]] + 0.4 * rng.normal() as f32
    })
}

fn shuffled(vectors: &Array2<f32>) -> Array2<f32> {
    let mut order: Vec<usize> = (0..vectors.nrows()).collect();
    stream(1, "test order", 0).shuffle(&mut order);
    vectors.select(Axis(0), &order)
}

pub(super) fn part(vectors: &Array2<f32>, rows: Range<usize>) -> ArrayView2<'_, f32> {
    vectors.slice_axis(Axis(0), Slice::from(rows))
}

pub(super) fn params(metric: Metric) -> Params {
    Params { metric, ..Params::default() }
}

pub(super) fn built(vectors: &Array2<f32>, params: Params) -> HnswIndex {
    let mut index = HnswIndex::new(vectors.ncols(), params).unwrap();
    index.add(vectors.view(), &mut Silent).unwrap();
    index
}

pub(super) fn recall(index: &HnswIndex, queries: &Array2<f32>, k: usize, filter: Option<Filter<'_>>) -> f64 {
    let hits = index.search(queries.view(), k, None, filter).unwrap();
    share_found(&hits, &index.exact_search(queries.view(), k, filter).unwrap())
}

fn share_found(hits: &Hits, exact: &Hits) -> f64 {
    let found = hits.rows.outer_iter().zip(exact.rows.outer_iter());
    let common: usize =
        found.map(|(got, want)| want.iter().filter(|row| got.iter().any(|g| &g == row)).count()).sum();
    common as f64 / exact.rows.len() as f64
}

#[test]
fn finds_the_nearest_under_every_metric_in_any_order() {
    let sorted = clustered(6_000, 32, 60, 0);
    let queries = clustered(200, 32, 60, 0) + 0.05;
    for metric in Metric::ALL {
        for vectors in [sorted.clone(), shuffled(&sorted)] {
            let index = built(&vectors, params(metric));
            let recall = recall(&index, &queries, 10, None);
            assert!(recall >= 0.95, "{metric:?}: recall {recall}");
            assert_eq!(index.stats().unreachable, 0);
        }
    }
}

#[test]
fn finds_the_largest_inner_products_among_uneven_norms() {
    let mut vectors = clustered(5_000, 24, 40, 3);
    let mut rng = stream(5, "test norms", 0);
    vectors.outer_iter_mut().for_each(|mut row| row *= (0.8 * rng.normal()).exp() as f32);
    let queries = clustered(200, 24, 40, 4);
    let recall = recall(&built(&vectors, params(Metric::Ip)), &queries, 10, None);
    assert!(recall >= 0.95, "recall {recall}");
}

#[test]
fn the_graph_does_not_depend_on_threads() {
    let vectors = clustered(4_000, 16, 30, 1);
    let build = |threads| {
        with_threads(threads, || {
            let mut index = HnswIndex::new(16, Params::default()).unwrap();
            index.add(part(&vectors, 0..1_500), &mut Silent).unwrap();
            index.add(part(&vectors, 1_500..4_000), &mut Silent).unwrap();
            index.to_bytes()
        })
    };
    let one = build(1);
    assert!(one == build(2) && one == build(4));
}

/// Runs a task with a bound on threads, and puts the bound back.
pub(super) fn with_threads<R>(threads: usize, task: impl FnOnce() -> R) -> R {
    let before = crate::threads::num_threads();
    crate::threads::set_num_threads(threads).unwrap();
    let result = task();
    crate::threads::set_num_threads(before).unwrap();
    result
}

#[test]
fn many_calls_and_many_duplicates_stay_within_reach() {
    let base = clustered(300, 8, 3, 2);
    let mut index = HnswIndex::new(8, Params { m: 2, ef_construction: 8, ..params(Metric::L2) }).unwrap();
    for (i, row) in base.axis_iter(Axis(0)).enumerate() {
        let copies = row.insert_axis(Axis(0)).broadcast((1 + i % 7, 8)).unwrap().to_owned();
        index.add(copies.view(), &mut Silent).unwrap();
        assert_eq!(index.stats().unreachable, 0, "after call {i}");
    }
    let same = Array2::from_elem((3_000, 8), 0.5f32);
    index.add(same.view(), &mut Silent).unwrap();
    assert_eq!(index.stats().unreachable, 0);
}

#[test]
fn duplicates_do_not_hide_the_rest() {
    let distinct = clustered(500, 16, 10, 6);
    let rows: Vec<usize> = (0..500).flat_map(|i| [i; 30]).collect();
    let index = built(&distinct.select(Axis(0), &rows), Params::default());
    // 64 candidates would hold two distinct vectors.
    let hits = index.search(distinct.view(), 30, Some(256), None).unwrap();
    let right = hits.rows.indexed_iter().filter(|((query, _), row)| **row as usize / 30 == *query).count();
    assert!(right as f64 >= 0.97 * 15_000.0, "{right} of 15000");
}

#[test]
fn rows_that_few_others_hold_are_found() {
    let mut rng = stream(8, "test", 0);
    let vectors = Array2::from_shape_fn((6_000, 64), |_| rng.normal() as f32);
    let mut index = built(&part(&vectors, 0..3_000).to_owned(), Params { m: 8, ..params(Metric::L2) });
    index.add(part(&vectors, 3_000..6_000), &mut Silent).unwrap();
    let hits = index.search(vectors.view(), 1, Some(64), None).unwrap();
    let lost = hits.rows.iter().zip(0..).filter(|&(&hit, row)| hit != row).count();
    // Without seeking, about a hundred.
    assert!(lost <= 50, "{lost} of 6000 do not find themselves");
    assert_eq!(index.stats().unreachable, 0);
}

#[test]
fn walks_leave_many_copies_of_one_vector() {
    let others = clustered(1_000, 16, 10, 7);
    for metric in [Metric::L2, Metric::Cosine] {
        let copies = Array2::from_elem((5_000, 16), 0.1f32);
        let mut index = built(&copies, params(metric));
        index.add(others.view(), &mut Silent).unwrap();
        index.add(copies.view(), &mut Silent).unwrap();
        index.remove(&(0..1_000).collect::<Vec<_>>(), &mut Silent).unwrap();
        let hits = index.search(others.view(), 1, Some(64), None).unwrap();
        let lost = hits.rows.iter().zip(5_000..).filter(|&(&hit, row)| hit != row).count();
        assert!(lost <= 2, "{metric:?}: {lost} of 1000 do not find themselves");
    }
}

#[test]
fn filters_keep_recall_at_every_selectivity() {
    let vectors = shuffled(&clustered(5_000, 16, 50, 7));
    let queries = clustered(100, 16, 50, 8);
    let index = built(&vectors, params(Metric::L2));
    for every in [1, 2, 3, 5, 10, 100, 2_000] {
        let mask: Vec<bool> = (0..5_000).map(|row| row % every == 0).collect();
        let rows: Vec<i64> = (0..5_000).filter(|row| row % every as i64 == 0).rev().collect();
        let got = recall(&index, &queries, 10, Some(Filter::Mask(&mask)));
        assert!(got >= 0.95, "1 in {every}: {got}");
        let (by_mask, by_rows) = (
            index.search(queries.view(), 10, None, Some(Filter::Mask(&mask))).unwrap(),
            index.search(queries.view(), 10, None, Some(Filter::Rows(&rows))).unwrap(),
        );
        assert_eq!(by_mask, by_rows);
        assert!(by_mask.rows.iter().all(|&row| row == -1 || row % every as i64 == 0));
    }
}

#[test]
fn walks_among_allowed_rows_keep_recall_beside_and_against_the_query() {
    let vectors = shuffled(&clustered(20_000, 8, 200, 9));
    let index = built(&vectors, params(Metric::L2));
    let along = |row: ArrayView1<'_, f32>| row.iter().take(4).sum::<f32>();
    let mut sums: Vec<f32> = vectors.rows().into_iter().map(along).collect();
    let marks = |least: f32| vectors.rows().into_iter().map(|row| along(row) >= least).collect::<Vec<_>>();
    sums.sort_by(f32::total_cmp);
    let queries = clustered(400, 8, 200, 10);
    let (beside, against): (Vec<_>, Vec<_>) = (0..400).partition(|&q| along(queries.row(q)) >= sums[9_000]);
    let mut rng = stream(0, "a fifth", 0);
    let fifth: Vec<bool> = (0..20_000).map(|_| rng.uniform() < 0.2).collect();
    let far = |rows: usize| marks(sums[20_000 - rows]);
    let walks = [
        (&beside, fifth, 13),
        (&beside, far(12_000), 40),
        (&against, far(12_000), 10),
        (&against, far(19_000), 18),
        (&against, vec![true; 20_000], 20),
    ];
    for (asked, mask, ef) in walks {
        let rows = mask.iter().filter(|&&is_allowed| is_allowed).count();
        let queries = queries.select(Axis(0), asked);
        let filter = Some(Filter::Mask(&mask));
        let hits = index.search(queries.view(), 10, Some(ef), filter).unwrap();
        assert!(hits.rows.iter().all(|&row| mask[row as usize]));
        let got = share_found(&hits, &index.exact_search(queries.view(), 10, filter).unwrap());
        assert!(got >= 0.95, "{rows} rows, ef {ef}: {got}");
    }
}

#[test]
fn too_few_rows_pad_the_result() {
    let mut index = HnswIndex::new(3, Params::default()).unwrap();
    let query = Array2::from_elem((1, 3), 1.0f32);
    let empty = index.search(query.view(), 4, None, None).unwrap();
    assert!(empty.rows.iter().all(|&row| row == -1) && empty.distances.iter().all(|&d| d == f32::INFINITY));
    assert_eq!(index.exact_search(query.view(), 4, None).unwrap(), empty);
    for k in [1, 5] {
        let none = Array2::zeros((0, 3));
        assert_eq!(index.search(none.view(), k, None, None).unwrap().rows.dim(), (0, k));
        assert_eq!(index.exact_search(none.view(), k, None).unwrap().rows.dim(), (0, k));
        assert_eq!(index.add(none.view(), &mut Silent).unwrap(), 0..0);
    }
    index.add(query.view(), &mut Silent).unwrap();
    assert_eq!(index.search(query.view(), 3, None, None).unwrap().rows.as_slice().unwrap(), [0, -1, -1]);
    let nothing = index.search(query.view(), 2, None, Some(Filter::Rows(&[]))).unwrap();
    assert_eq!(nothing.rows.as_slice().unwrap(), [-1, -1]);
}

#[test]
fn bad_input_is_refused_and_changes_nothing() {
    let mut index = built(&clustered(100, 4, 3, 9), Params::default());
    let before = index.to_bytes();
    let bad = |value: f32| Array2::from_shape_fn((2, 4), |(i, j)| if (i, j) == (1, 2) { value } else { 1.0 });
    let zero = Array2::from_shape_fn((2, 4), |(i, _)| i as f32);
    for vectors in
        [bad(f32::NAN), bad(f32::INFINITY), bad(1e30), zero, Array2::ones((1, 5)), Array2::ones((1, 0))]
    {
        assert!(matches!(index.add(vectors.view(), &mut Silent), Err(Error::Shape(_))), "{vectors}");
        assert!(matches!(index.search(vectors.view(), 1, None, None), Err(Error::Shape(_))), "{vectors}");
        assert!(matches!(index.exact_search(vectors.view(), 1, None), Err(Error::Shape(_))), "{vectors}");
    }
    let query = Array2::ones((1, 4));
    assert!(matches!(index.search(query.view(), 0, None, None), Err(Error::Config(_))));
    assert!(matches!(index.search(query.view(), usize::MAX, None, None), Err(Error::Config(_))));
    assert!(matches!(index.search(query.view(), 1, Some(0), None), Err(Error::Config(_))));
    assert!(matches!(index.search(query.view(), 1, None, Some(Filter::Mask(&[true]))), Err(Error::Shape(_))));
    for row in [-1, 100, i64::MAX] {
        assert!(matches!(
            index.search(query.view(), 1, None, Some(Filter::Rows(&[row]))),
            Err(Error::Row(_))
        ));
        assert!(matches!(index.vectors(Some(&[row])), Err(Error::Row(_))));
        assert!(!index.contains(row));
    }
    assert!(matches!(index.graph(40), Err(Error::Config(_))));
    for params in [Params { m: 1, ..params(Metric::L2) }, Params { ef_construction: 0, ..params(Metric::L2) }]
    {
        assert!(matches!(HnswIndex::new(4, params), Err(Error::Config(_))));
    }
    assert!(matches!(HnswIndex::new(0, Params::default()), Err(Error::Config(_))));
    assert!("f8".parse::<Storage>().is_err() && "l3".parse::<Metric>().is_err());
    assert!(index.to_bytes() == before);
}

/// Stops the work after some steps.
pub(super) struct Stop(pub usize);

impl Monitor for Stop {
    fn step(&mut self, _: usize, _: usize, _: &[(&str, f64)]) -> crate::Result<()> {
        self.0 -= 1;
        if self.0 == 0 { Err(Error::Interrupted("stop".into())) } else { Ok(()) }
    }
}

#[test]
fn an_interrupted_add_is_taken_back() {
    let vectors = clustered(900, 8, 5, 10);
    for metric in Metric::ALL {
        let mut index = built(&part(&vectors, 0..50).to_owned(), params(metric));
        for steps in [1, 7, 30] {
            let before = index.to_bytes();
            let stopped = index.add(part(&vectors, 50..900), &mut Stop(steps)).unwrap_err();
            assert!(
                matches!(&stopped, Error::Interrupted(text) if text.contains("holds 50 rows")),
                "{stopped}"
            );
            assert!(index.to_bytes() == before, "{metric:?} after {steps} steps");
        }
        index.add(part(&vectors, 50..900), &mut Silent).unwrap();
        let mut plain = built(&part(&vectors, 0..50).to_owned(), params(metric));
        plain.add(part(&vectors, 50..900), &mut Silent).unwrap();
        assert!(index.to_bytes() == plain.to_bytes());
    }
}

#[test]
fn what_was_saved_loads_as_it_was_and_goes_on_alike() {
    let vectors = clustered(700, 20, 5, 11);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.rvx");
    for metric in Metric::ALL {
        let mut index = built(&vectors, params(metric));
        index.save(&path).unwrap();
        let mut loaded = HnswIndex::load(&path, LoadOptions::default()).unwrap();
        assert!(loaded.to_bytes() == index.to_bytes());
        assert_eq!(loaded.fingerprint().unwrap(), index.fingerprint().unwrap());
        assert_eq!(loaded.vectors(None).unwrap(), vectors);
        index.add(vectors.view(), &mut Silent).unwrap();
        assert_ne!(loaded.fingerprint().unwrap(), index.fingerprint().unwrap());
        loaded.add(vectors.view(), &mut Silent).unwrap();
        assert!(loaded.to_bytes() == index.to_bytes());
    }
    let empty = HnswIndex::new(3, Params::default()).unwrap();
    assert!(HnswIndex::from_bytes(empty.to_bytes()).unwrap().is_empty());
}

#[test]
fn graphs_list_links_by_node() {
    let index = built(&clustered(400, 6, 4, 13), params(Metric::L2));
    assert!(index.levels() >= 2);
    for level in 0..index.levels() {
        let graph = index.graph(level).unwrap();
        let stats = &index.stats().levels[level];
        assert_eq!((graph.num_nodes(), graph.num_edges()), (stats.rows, stats.links));
        assert!(graph.node_ids().unwrap().is_sorted());
        for node in 0..graph.num_nodes() {
            let list = graph.neighbors(node);
            assert!(
                list.is_sorted()
                    && list.iter().all(|&other| (other as usize) < stats.rows && other != node as u32)
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Small indexes are searched exactly, whatever their parameters.
    #[test]
    fn equals_brute_force_when_ef_covers_all(
        n in 1usize..120, dim in 1usize..20, m in 2usize..6, seed in any::<u64>(), metric in 0usize..3, calls in 1usize..5,
    ) {
        let vectors = clustered(n, dim, 3, seed);
        let metric = Metric::ALL[metric];
        let params = Params { m, ef_construction: 10, ef_search: 200, seed, metric, ..Params::default() };
        let mut index = HnswIndex::new(dim, params).unwrap();
        for chunk in vectors.axis_chunks_iter(Axis(0), n.div_ceil(calls)) {
            index.add(chunk, &mut Silent).unwrap();
        }
        prop_assert_eq!(index.stats().unreachable, 0);
        let queries = clustered(5, dim, 3, seed ^ 1);
        let exact = index.exact_search(queries.view(), 7, None).unwrap();
        prop_assert_eq!(index.search(queries.view(), 7, None, None).unwrap(), exact.clone());
        for (query, distances) in queries.outer_iter().zip(exact.distances.outer_iter()) {
            let mut expected: Vec<f64> = vectors.outer_iter().map(|row| {
                let dot: f64 = query.iter().zip(row).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                let norm = |v: ndarray::ArrayView1<'_, f32>| v.iter().map(|&a| f64::from(a).powi(2)).sum::<f64>();
                match metric {
                    Metric::Ip => 1.0 - dot,
                    Metric::Cosine => 1.0 - dot / (norm(query) * norm(row)).sqrt(),
                    Metric::L2 => query.iter().zip(row).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum(),
                }
            }).collect();
            expected.sort_by(f64::total_cmp);
            for (got, want) in distances.iter().zip(expected) {
                prop_assert!((f64::from(*got) - want).abs() < 1e-4 * want.abs().max(1.0), "{got} {want}");
            }
        }
    }
}

/// What `f32` rounds away may put any of these first: all rows of one sign are parallel, and distances repeat.
#[test]
fn ties_that_rounding_breaks_are_ranked_as_by_brute_force() {
    for seed in 0..40 {
        let (vectors, queries) = (clustered(100, 1, 3, seed), clustered(20, 1, 3, seed + 1_000));
        for metric in Metric::ALL {
            let index = built(&vectors, Params { m: 4, ef_search: 200, ..params(metric) });
            let exact = index.exact_search(queries.view(), 7, None).unwrap();
            assert_eq!(index.search(queries.view(), 7, None, None).unwrap(), exact, "{metric:?} {seed}");
        }
    }
}

#[test]
fn ranges_hold_what_brute_force_finds() {
    let vectors = clustered(6_000, 16, 30, 3);
    let queries = clustered(40, 16, 30, 3) + 0.03;
    for metric in Metric::ALL {
        let index = built(&vectors, params(metric));
        let all = index.exact_search(queries.view(), vectors.nrows(), None).unwrap();
        // Radii that hold nothing, about 10, 300 and 3,000 rows of the first query, and everything.
        let radii = [10, 300, 3_000].map(|rank| f64::from(all.distances[[0, rank]]));
        for radius in [&[f64::NEG_INFINITY][..], &radii, &[f64::INFINITY]].concat() {
            let exact = index.range_search(queries.view(), radius, true).unwrap();
            let found = index.range_search(queries.view(), radius, false).unwrap();
            let (mut common, mut wanted) = (0, 0);
            for query in 0..queries.nrows() {
                let inside = all.distances.row(query).iter().filter(|&&d| f64::from(d) <= radius).count();
                let own = exact.indptr[query]..exact.indptr[query + 1];
                assert_eq!(exact.rows[own.clone()], all.rows.row(query).to_vec()[..inside]);
                assert_eq!(exact.distances[own.clone()], all.distances.row(query).to_vec()[..inside]);
                let got = &found.rows[found.indptr[query]..found.indptr[query + 1]];
                assert!(got.iter().all(|row| exact.rows[own.clone()].contains(row)), "{metric:?} {radius}");
                (common, wanted) = (common + got.len(), wanted + inside);
            }
            assert!(common as f64 >= 0.97 * wanted as f64, "{metric:?} {radius}: {common} of {wanted}");
        }
        assert!(matches!(index.range_search(queries.view(), f64::NAN, false), Err(Error::Config(_))));
    }
    let empty = HnswIndex::new(16, Params::default()).unwrap();
    assert_eq!(empty.range_search(queries.view(), 1.0, false).unwrap().indptr, [0; 41]);
}
