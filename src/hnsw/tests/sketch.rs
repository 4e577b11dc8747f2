//! Graphs of many rows of many values, which are linked by codes.

use super::*;

#[test]
fn the_nearest_are_found_under_every_metric() {
    let (vectors, queries) = (clustered(6_000, 96, 60, 0), clustered(200, 96, 60, 0) + 0.05);
    for metric in Metric::ALL {
        for storage in [Storage::F32, Storage::I8] {
            let index = built(&vectors, Params { storage, ..params(metric) });
            let recall = recall(&index, &queries, 10, None);
            assert!(recall >= 0.95, "{metric:?}, {storage:?}: recall {recall}");
            assert_eq!(index.stats().unreachable, 0);
        }
    }
}

#[test]
fn rows_closer_than_codes_tell_apart_are_found() {
    // More rows to a cluster than a walk keeps; a step of the codes is some hundred times a cluster's width.
    let mut vectors = clustered(6_000, 64, 2, 1);
    let mut rng = stream(7, "test centres", 0);
    let centres = Array2::from_shape_fn((2, 64), |_| 100.0 * rng.normal() as f32);
    for (i, mut row) in vectors.outer_iter_mut().enumerate() {
        row *= 0.01;
        row += &centres.row(i * 2 / 6_000);
    }
    let vectors = shuffled(&vectors);
    let index = built(&vectors, params(Metric::L2));
    let found = recall(&index, &vectors.slice_axis(Axis(0), Slice::from(0..200)).to_owned(), 10, None);
    assert!(found >= 0.95, "recall {found}");
}

#[test]
fn the_graph_does_not_depend_on_threads() {
    let vectors = clustered(4_000, 64, 30, 1);
    let build = |threads| {
        with_threads(threads, || {
            let mut index = HnswIndex::new(64, Params::default()).unwrap();
            for rows in [0..1_500, 1_500..1_501, 1_501..4_000] {
                index.add(part(&vectors, rows), &mut Silent).unwrap();
            }
            index.to_bytes()
        })
    };
    let one = build(1);
    assert!(one == build(2) && one == build(4));
}

#[test]
fn an_interrupted_call_leaves_no_trace() {
    let vectors = clustered(2_000, 64, 10, 1);
    let mut index = built(&part(&vectors, 0..800).to_owned(), params(Metric::Cosine));
    let before = index.to_bytes();
    assert!(index.add(part(&vectors, 800..2_000), &mut Stop(4)).is_err());
    assert!(index.to_bytes() == before);
}
