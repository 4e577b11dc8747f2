//! Codecs against the values they stand for, and indexes of every storage against exact ones.

use super::scalar::Scalar;
use super::*;
use crate::hnsw::tests::{Stop, built, clustered, part, recall, with_threads};
use crate::hnsw::{HnswIndex, LoadOptions, Storage};
use crate::monitor::Silent;
use crate::rng::stream;
use ndarray::{Array2, Axis};
use proptest::prelude::*;

/// Every storage but "f32", with and without the exact rows.
fn quantized() -> impl Iterator<Item = Params> {
    let kinds = Storage::ALL.into_iter().filter(|&storage| storage != Storage::F32);
    kinds.flat_map(|storage| [true, false].map(|rescore| Params { storage, rescore, ..Params::default() }))
}

fn stored(params: &Params, calls: &[Array2<f32>]) -> Vectors {
    let mut vectors = Vectors::new(calls[0].ncols(), params);
    for rows in calls {
        let start = vectors.len() as u32;
        let slots: Vec<u32> = (start..start + rows.nrows() as u32).collect();
        vectors.store(&slots, rows.view());
    }
    vectors
}

/// Distances in `f64`.
fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
    match metric {
        Metric::L2 => dot(a, a) - 2.0 * dot(a, b) + dot(b, b),
        Metric::Ip => 1.0 - dot(a, b),
        Metric::Cosine => 1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
    }
}

/// Calls with ranges that grow, a dimension that is constant at first, and one that stays so.
fn growing(dim: usize, rows: usize, seed: u64) -> Vec<Array2<f32>> {
    let mut rng = stream(seed, "test growing", 0);
    let call = |call: usize| {
        Array2::from_shape_fn((rows, dim), |(_, d)| match d % 5 {
            0 if call == 0 => 0.25,
            1 => 1.5,
            _ => (1.0 + call as f32) * rng.normal() as f32 + d as f32 * 0.1,
        })
    };
    (0..3).map(call).collect()
}

/// What a distance to a row in codes is off by at most where products of the query with steps are rounded to 127ths of the
/// greatest.
fn query_rounding(metric: Metric, scalar: &Scalar, query: &[f32], row: &[f32]) -> f64 {
    let [middle, step] = scalar.ranges().map(|range| range.iter().map(|&value| f64::from(value)));
    let scale = if metric == Metric::Cosine { f64::from(inverse_norm(query)) } else { 1.0 };
    let (mut greatest, mut codes) = (0f64, 0.0);
    for (((&query, &row), middle), step) in
        query.iter().zip(row).zip(middle).zip(step).filter(|(_, step)| *step > 0.0)
    {
        let centre = if metric == Metric::Ip { 0.0 } else { middle };
        greatest = greatest.max(((f64::from(query) * scale - centre) * step).abs());
        codes += ((f64::from(row) - middle) / step).abs();
    }
    greatest / 254.0 * codes * if metric == Metric::L2 { 2.0 } else { 1.0 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn bytes_are_off_by_half_a_step(dim in 1usize..90, rows in 1usize..20, seed in any::<u64>(), rescore in any::<bool>()) {
        let params = Params { storage: Storage::I8, metric: Metric::L2, rescore, ..Params::default() };
        let calls = growing(dim, rows, seed);
        let vectors = stored(&params, &calls);
        let (Rows::Both(codes, _) | Rows::Codes(codes, _)) = &vectors.rows else { panic!("no codes") };
        let Codes::Scalar(scalar) = codes else { panic!("other codes") };
        let given = calls.iter().flat_map(|call| call.outer_iter());
        let mut row = vec![0.0; dim];
        for (slot, given) in given.enumerate() {
            codes.decode_into(slot as u32, &mut row);
            // Without the exact rows every widening, which this many calls have at most, adds its own.
            let steps = if rescore || slot >= 2 * rows { 0.51 } else { 1.6 };
            let stretch = scalar.stretches().map_or(1.0, |(stretches, _)| stretches[slot]);
            for ((got, want), step) in row.iter().zip(given).zip(scalar.ranges()[1]) {
                let step = step * stretch;
                prop_assert!((got - want).abs() <= steps * step + 1e-6, "{got} {want} {step}");
            }
            if rescore {
                prop_assert_eq!(vectors.row(slot as u32).to_vec(), given.to_vec());
            }
        }
    }

    #[test]
    fn probes_score_what_codes_stand_for(dim in 1usize..90, seed in any::<u64>(), metric in 0usize..3) {
        let metric = Metric::ALL[metric];
        for params in quantized().filter(|params| !params.rescore) {
            let params = Params { metric, ..params };
            let calls = growing(dim, 12, seed);
            let vectors = stored(&params, &calls);
            let query = calls[1].row(3).to_vec();
            let mut room = Room::default();
            let probes = vectors.query(&query, &mut room);
            let slots: Vec<u32> = (0..36).collect();
            let (mut walk, mut last) = (vec![0.0; 36], Vec::new());
            probes.walk.score(&slots, &mut walk);
            probes.last.candidates(&slots, &mut last);
            for (&slot, (score, last)) in slots.iter().zip(walk.into_iter().zip(last)) {
                let (walk, last) = (metric.distance(f64::from(score)), metric.distance(last.score));
                let row = vectors.row(slot);
                let want = distance(metric, &query, &row);
                let mass = 1.0 + distance(Metric::L2, &query, &vec![0.0; dim]) + distance(Metric::L2, &row, &vec![0.0; dim]);
                prop_assert!((last - want).abs() <= 1e-5 * mass, "{last} {want}");
                // Under "i8" the query is rounded as well.
                let most = match &vectors.rows {
                    Rows::Codes(Codes::Scalar(scalar), _) => query_rounding(metric, scalar, &query, &row) + 1e-4 * mass,
                    _ => 1e-3 * mass,
                };
                if params.storage != Storage::Binary {
                    prop_assert!((walk - want).abs() <= most, "{walk} {want} {most}");
                }
                prop_assert_eq!(probes.walk.distance(slot), score);
            }
        }
    }
}

#[test]
fn a_dimension_that_outweighs_all_others_does_not_hide_them_from_bytes() {
    // It is the same in a fifth of the rows, among which the other dimensions decide.
    let mut rng = stream(0, "test outweighing", 0);
    let mut drawn = |rows| {
        Array2::from_shape_fn(
            (rows, 40),
            |(row, d)| if d == 7 { 30.0 * (row % 5) as f32 } else { rng.normal() as f32 },
        )
    };
    let (vectors, queries) = (drawn(3_000), drawn(100));
    for metric in [Metric::L2, Metric::Ip] {
        let index =
            built(&vectors, Params { metric, storage: Storage::I8, ef_search: 200, ..Params::default() });
        let exact = built(&vectors, Params { metric, ef_search: 200, ..Params::default() });
        let [bytes, floats] = [index, exact].map(|index| recall(&index, &queries, 10, None));
        assert!(bytes >= floats - 0.01, "{metric:?} {bytes} {floats}");
    }
}

#[test]
fn quantized_indexes_find_what_exact_ones_find() {
    let vectors = clustered(3_000, 40, 40, 0);
    let queries = clustered(100, 40, 40, 0) + 0.05;
    for metric in Metric::ALL {
        let exact = built(&vectors, Params { metric, ..Params::default() });
        let truth = exact.exact_search(queries.view(), 10, None).unwrap();
        for params in quantized() {
            // Bits rank roughly, and tie once their rows are gone.
            let (ef_search, least) = match (params.storage, params.rescore) {
                (Storage::Binary, true) => (500, 0.9),
                (Storage::Binary, false) => (500, 0.6),
                _ => (64, 0.95),
            };
            let index = built(&vectors, Params { metric, ef_search, ..params.clone() });
            assert_eq!(index.stats().unreachable, 0);
            // Against its own scan, whose distances a search repeats to the bit.
            let own = recall(&index, &queries, 10, None);
            assert!(own >= least, "{params:?} {own}");
            let hits = index.search(queries.view(), 10, None, None).unwrap();
            let scan = index.exact_search(queries.view(), 10, None).unwrap();
            for ((query, rank), row) in hits.rows.indexed_iter() {
                let at = scan.rows.row(query).iter().position(|other| other == row);
                assert!(at.is_none_or(|at| scan.distances[[query, at]] == hits.distances[[query, rank]]));
            }
            if params.rescore {
                assert_eq!(scan, truth, "{params:?}");
                assert_eq!(index.vectors(None).unwrap(), vectors);
            }
            let radius = f64::from(truth.distances[[0, 9]]);
            let (walked, all) = (
                index.range_search(queries.view(), radius, false).unwrap(),
                index.range_search(queries.view(), radius, true).unwrap(),
            );
            assert!(walked.rows.len() as f64 >= (least + 0.02).min(0.97) * all.rows.len() as f64);
        }
    }
}

#[test]
fn codes_take_their_share_of_memory() {
    let vectors = clustered(3_000, 256, 10, 1);
    let bytes = |params: Params| stored(&params, std::slice::from_ref(&vectors)).bytes();
    let exact = bytes(Params::default());
    for (storage, share) in [(Storage::F16, 2), (Storage::I8, 4), (Storage::Binary, 32)] {
        let alone = bytes(Params { storage, rescore: false, ..Params::default() });
        assert!(alone <= exact / share + 3_000 * 9 + 8_192, "{storage:?}: {alone} of {exact}");
        let both = bytes(Params { storage, ..Params::default() });
        assert!(both <= exact + exact / share + 3_000 * 9 + 8_192, "{storage:?}: {both} of {exact}");
    }
}

#[test]
fn an_interrupted_add_puts_codes_and_ranges_back() {
    let vectors = clustered(900, 12, 5, 2);
    let wider = vectors.clone() * 3.0;
    for metric in Metric::ALL {
        for params in quantized() {
            let params = Params { metric, ..params };
            let mut index = built(&part(&vectors, 0..60).to_owned(), params.clone());
            let before = index.to_bytes();
            for more in [&vectors, &wider] {
                index.add(part(more, 60..900), &mut Stop(9)).unwrap_err();
                assert!(index.to_bytes() == before, "{params:?}");
            }
            index.add(part(&wider, 60..900), &mut Silent).unwrap();
            let mut plain = built(&part(&vectors, 0..60).to_owned(), params);
            plain.add(part(&wider, 60..900), &mut Silent).unwrap();
            assert!(index.to_bytes() == plain.to_bytes());
        }
    }
}

#[test]
fn quantized_files_load_as_they_were_and_go_on_alike() {
    // Far from zero, where decoding loses digits: codes must not be made again from what they decode to.
    let vectors = clustered(500, 20, 5, 3) * 1e-4 + 7.0;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.rvx");
    for metric in Metric::ALL {
        for params in quantized() {
            let mut index = built(&vectors, Params { metric, ..params });
            index.save(&path).unwrap();
            let mut loaded = HnswIndex::load(&path, LoadOptions::default()).unwrap();
            assert_eq!(loaded.fingerprint().unwrap(), index.fingerprint().unwrap());
            assert_eq!(loaded.vectors(None).unwrap(), index.vectors(None).unwrap());
            let more = vectors.clone() * 2.0;
            index.add(more.view(), &mut Silent).unwrap();
            loaded.add(more.view(), &mut Silent).unwrap();
            assert_ne!(
                HnswIndex::load(&path, LoadOptions::default()).unwrap().fingerprint().unwrap(),
                index.fingerprint().unwrap()
            );
            assert!(loaded.to_bytes() == index.to_bytes());
        }
    }
}

#[test]
fn quantized_builds_do_not_depend_on_threads() {
    let vectors = clustered(1_500, 16, 30, 5);
    for params in quantized() {
        let build = |threads| {
            with_threads(threads, || {
                let mut index = HnswIndex::new(16, params.clone()).unwrap();
                for rows in vectors.axis_chunks_iter(Axis(0), 700) {
                    index.add(rows, &mut Silent).unwrap();
                }
                index.to_bytes()
            })
        };
        assert!(build(1) == build(3), "{params:?}");
    }
}

#[test]
fn half_precision_refuses_what_it_has_no_room_for() {
    let rows =
        |value: f32| Array2::from_shape_fn((2, 3), |(i, j)| if (i, j) == (1, 2) { value } else { 1.0 });
    for metric in Metric::ALL {
        let mut index =
            HnswIndex::new(3, Params { storage: Storage::F16, metric, ..Params::default() }).unwrap();
        index.add(rows(65_504.0).view(), &mut Silent).unwrap();
        let beyond = index.add(rows(-65_505.0).view(), &mut Silent);
        match metric {
            Metric::Cosine => assert!(beyond.is_ok()),
            _ => assert!(
                matches!(beyond, Err(Error::Shape(text)) if text.contains("row 1, column 2 is -65505"))
            ),
        }
        assert!(index.search(rows(70_000.0).view(), 1, None, None).is_ok());
    }
}

#[test]
fn bits_follow_the_means_as_rows_arrive_one_by_one() {
    let vectors = clustered(600, 64, 20, 6) + 5.0;
    let params = Params { storage: Storage::Binary, ef_search: 200, ..Params::default() };
    let mut index = HnswIndex::new(64, params).unwrap();
    for row in vectors.axis_chunks_iter(Axis(0), 1) {
        index.add(row, &mut Silent).unwrap();
    }
    assert!(recall(&index, &(vectors + 0.01), 10, None) >= 0.9);
}

/// Rows of unequal length about a mean, in dimensions of unequal spread.
fn unequal(rows: usize, dim: usize, seed: u64) -> Array2<f32> {
    let mut rng = stream(seed, "test unequal", 0);
    let lengths: Vec<f32> = (0..rows).map(|_| (0.5 * rng.normal() as f32).exp()).collect();
    Array2::from_shape_fn((rows, dim), |(row, d)| {
        lengths[row] * (1.0 + rng.normal() as f32) * if d == 0 { 5.0 } else { 1.0 }
    })
}

#[test]
fn rows_of_unequal_length_are_linked_by_an_adjusted_product() {
    let given = unequal(300, 70, 1);
    let slots: Vec<u32> = (0..300).collect();
    for (storage, rescore) in
        [(Storage::F32, true), (Storage::I8, true), (Storage::I8, false), (Storage::F16, false)]
    {
        let mut vectors =
            Vectors::new(70, &Params { metric: Metric::Ip, storage, rescore, ..Params::default() });
        let adjustment = vectors.adjustment_for(&[], given.view());
        vectors.adjust(adjustment.clone());
        vectors.store(&slots, given.view());
        assert!(vectors.is_directed());
        let entered = |slot: u32| {
            let mut row = vectors.row(slot).to_vec();
            adjustment.enter(&mut row);
            row
        };
        let sketch = vectors.new_sketch(&slots, part(&given, 0..0));
        let share = f64::from(adjustment.share());
        for (a, b) in (0..100).map(|a| (a, 299 - a)) {
            let (from, to) = (entered(a), entered(b));
            let zero = vec![0.0; 70];
            let want =
                0.5 * distance(Metric::L2, &from, &to) - 0.5 * share * distance(Metric::L2, &to, &zero);
            let mass = distance(Metric::L2, &from, &zero) + distance(Metric::L2, &to, &zero);
            // Codes compare with a rounded row.
            let off = if storage == Storage::I8 && !rescore { 1e-2 } else { 1e-4 };
            let near = |score: f32, off: f64| (f64::from(score) - want).abs() <= off * mass;
            assert!(near(vectors.pair(a, b), off), "{storage:?} {} {want}", vectors.pair(a, b));
            assert!(near(vectors.turned(vectors.pair(b, a), b, a), off), "{storage:?}");
            if let Some(sketch) = &sketch {
                assert!(near(sketch.probe(a).distance(b), 1e-2), "{storage:?}");
            }
        }
        // Rows of equal length, under any metric, are linked by what they are searched by.
        let unit = &given / &given.map_axis(Axis(1), |row| row.dot(&row).sqrt()).insert_axis(Axis(1));
        let mut equal = Vectors::new(70, &Params { metric: Metric::Ip, ..Params::default() });
        equal.adjust(equal.adjustment_for(&[], unit.view()));
        assert!(!equal.is_directed());
        let other = Vectors::new(70, &Params { metric: Metric::L2, ..Params::default() });
        assert!(
            !other.needs_adjustment(300) && vectors.needs_adjustment(600) && !vectors.needs_adjustment(599)
        );
    }
}

#[test]
fn an_adjustment_is_taken_anew_as_rows_double_and_comes_back_from_a_file() {
    let given = unequal(400, 12, 2);
    let params = Params { metric: Metric::Ip, ..Params::default() };
    let mut index = HnswIndex::new(12, params).unwrap();
    let rows_taken = |index: &HnswIndex| index.core.vectors.adjustment.as_ref().unwrap().parts().0[0];
    let mut taken = Vec::new();
    for call in given.axis_chunks_iter(Axis(0), 50) {
        index.add(call, &mut Silent).unwrap();
        taken.push(rows_taken(&index));
    }
    assert_eq!(taken, [50, 100, 100, 200, 200, 200, 200, 400]);
    let mut loaded = HnswIndex::from_bytes(index.to_bytes()).unwrap();
    for index in [&mut index, &mut loaded] {
        index.remove(&(0..40).collect::<Vec<_>>(), &mut Silent).unwrap();
        index.update(&[50, 60], part(&given, 0..2), &mut Silent).unwrap();
        index.compact().unwrap();
        index.add(part(&given, 0..40), &mut Silent).unwrap();
        assert_eq!(index.stats().unreachable, 0);
    }
    assert!(loaded.to_bytes() == index.to_bytes());
    // Rows far beyond all others are looked at by every search, and go when they are removed.
    let far: Vec<u64> =
        index.add((part(&given, 0..3).to_owned() * 1e4).view(), &mut Silent).unwrap().collect();
    let queries = part(&given, 0..40).to_owned();
    assert_eq!(index.core.vectors.far().len(), 3);
    let hits = index.search(queries.view(), 3, None, None).unwrap();
    assert_eq!(hits, index.exact_search(queries.view(), 3, None).unwrap());
    let mut loaded = HnswIndex::from_bytes(index.to_bytes()).unwrap();
    assert_eq!(loaded.core.vectors.far(), index.core.vectors.far());
    loaded.optimize().unwrap();
    assert_eq!(loaded.search(queries.view(), 3, None, None).unwrap(), hits);
    index.remove(&[far[1] as i64], &mut Silent).unwrap();
    assert_eq!(index.core.vectors.far().len(), 2);
    index.remove(&index.rows().map(|row| row as i64).collect::<Vec<_>>(), &mut Silent).unwrap();
    assert_eq!(rows_taken(&index), 0);
}

#[test]
fn far_rows_cost_bytes_and_bits_nothing() {
    let clean = clustered(3_000, 40, 40, 4);
    let queries = clustered(100, 40, 40, 4) + 0.05;
    let mut far = clean.clone();
    for (row, by) in [(17, 1e4), (1_000, 300.0), (2_000, -300.0), (2_999, 1e6)] {
        far.row_mut(row).fill(by);
        // Two rows that are far along one dimension.
        far[[row - 1, 3]] = by;
    }
    for (storage, rescore) in [(Storage::I8, true), (Storage::I8, false), (Storage::Binary, true)] {
        // Bits know nothing of the lengths that decide under the inner product.
        let metrics: &[Metric] =
            if storage == Storage::I8 { &[Metric::L2, Metric::Ip] } else { &[Metric::L2] };
        for &metric in metrics {
            let ef_search = if storage == Storage::Binary { 500 } else { 64 };
            let params = Params { storage, rescore, metric, ef_search, ..Params::default() };
            let truth = built(&far, Params { storage: Storage::F32, ..params.clone() });
            let against_rows = |rows: &Array2<f32>, truth: &HnswIndex| {
                let index = built(rows, params.clone());
                let found = index.search(queries.view(), 10, None, None).unwrap().rows;
                let wanted = truth.exact_search(queries.view(), 10, None).unwrap().rows;
                let hits = found.outer_iter().zip(wanted.outer_iter());
                let hits: usize = hits
                    .map(|(a, b)| a.iter().filter(|row| b.iter().any(|other| other == *row)).count())
                    .sum();
                (index, hits as f64 / 1000.0)
            };
            let clean_truth = built(&clean, Params { storage: Storage::F32, ..params.clone() });
            let (_, without) = against_rows(&clean, &clean_truth);
            let (index, with) = against_rows(&far, &truth);
            assert!(with >= without - 0.01, "{params:?}: {with}, {without} without far rows");
            if metric == Metric::L2 {
                // Bits do not lead to a row that is far along one dimension.
                let bytes_only: &[usize] = if storage == Storage::I8 { &[999, 1_999] } else { &[] };
                for &row in [17, 1_000, 2_000, 2_999].iter().chain(bytes_only) {
                    let hits = index.search(part(&far, row..row + 1), 1, None, None).unwrap();
                    assert_eq!(hits.rows[[0, 0]], row as i64, "{params:?}");
                }
            }
            // The same calls, with a file between, give the same bits.
            let mut loaded = HnswIndex::from_bytes(index.to_bytes()).unwrap();
            let mut index = index;
            for index in [&mut index, &mut loaded] {
                index.add(part(&far, 10..30), &mut Silent).unwrap();
                index.remove(&[17, 18], &mut Silent).unwrap();
                index.compact().unwrap();
            }
            assert!(loaded.to_bytes() == index.to_bytes());
        }
    }
}

#[test]
fn a_row_beside_copies_of_another_has_codes_of_its_own() {
    let mut index = built(
        &Array2::from_elem((900, 8), 0.5),
        Params { metric: Metric::L2, storage: Storage::I8, rescore: false, ..Params::default() },
    );
    index.add(Array2::from_elem((1, 8), 0.75).view(), &mut Silent).unwrap();
    let hits = index.search(Array2::from_elem((1, 8), 0.75).view(), 1, None, None).unwrap();
    assert_eq!((hits.rows[[0, 0]], hits.distances[[0, 0]] < 1e-4), (900, true));
}
