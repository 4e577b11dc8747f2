//! The learner as a whole, on a small world where what to learn is known.

use super::*;
use crate::hnsw::{Params, Storage};
use crate::monitor::Silent;
use crate::rng::stream;
use ndarray::{Array2, Axis};

const DIM: usize = 16;

/// Documents in clusters; queries are turned by a fixed rotation away from the documents they look for, so that a
/// linear query adapter can find the way back.
struct World {
    docs: Array2<f32>,
    queries: Array2<f32>,
    clicks: Vec<(u32, i64, f32)>,
}

fn world(queries: usize, seed: u64) -> World {
    let count = 200;
    let mut fixed = stream(1, "world", 0);
    let docs = Array2::from_shape_fn((count, DIM), |_| fixed.normal() as f32);
    let mut rng = stream(seed, "world-queries", 0);
    let mut clicks = Vec::new();
    let mut asked = Array2::zeros((queries, DIM));
    for query in 0..queries {
        let doc = rng.below(count as u64) as usize;
        clicks.push((query as u32, doc as i64, 1.0));
        for column in 0..DIM {
            // The halves of the vector swap places, half of the way.
            let other = docs[(doc, (column + DIM / 2) % DIM)];
            asked[(query, column)] = 0.6 * docs[(doc, column)] + other + 0.3 * rng.normal() as f32;
        }
    }
    World { docs, queries: asked, clicks }
}

fn first(rows: &Array2<f32>, count: usize) -> ArrayView2<'_, f32> {
    rows.view().split_at(Axis(0), count).0
}

fn index(docs: &Array2<f32>, metric: Metric) -> HnswIndex {
    let mut index = HnswIndex::new(DIM, Params { metric, ..Params::default() }).unwrap();
    index.add(docs.view(), &mut Silent).unwrap();
    index
}

fn trained(metric: Metric) -> (HnswIndex, SearchLearner) {
    let past = world(600, 2);
    let index = index(&past.docs, metric);
    let mut learner = SearchLearner::new(0);
    learner.fit(&index, past.queries.view(), &past.clicks, &mut Silent).unwrap();
    (index, learner)
}

#[test]
fn untrained_ranks_as_the_index() {
    let past = world(20, 2);
    let index = index(&past.docs, Metric::Cosine);
    let hits = index.search(past.queries.view(), 10, None, None).unwrap();
    let ranked = SearchLearner::new(0).search(&index, past.queries.view(), 10, None, Order::Learned).unwrap();
    assert_eq!(ranked.rows, hits.rows);
    let off = (&ranked.scores - &hits.distances.mapv(|distance| 1.0 - distance)).mapv(f32::abs);
    assert!(off.iter().all(|&off| off <= f32::EPSILON), "distances are rounded, scores are not");
}

#[test]
fn learns_under_every_metric_and_serves_what_the_guard_saw() {
    let future = world(200, 3);
    for metric in Metric::ALL {
        let (index, learner) = trained(metric);
        let quality = |order| learner.evaluate(&index, future.queries.view(), &future.clicks, order).unwrap();
        let (plain, learned) = (quality(Order::Plain), quality(Order::Learned));
        assert!(learner.is_promoted(), "{metric:?}: {:?}", learner.report());
        assert!(learned.ndcg_10 > plain.ndcg_10 + 0.05, "{metric:?}: {plain:?} -> {learned:?}");
        let report = learner.report().unwrap();
        assert!(report.learned > report.plain && report.gain.mean > 2.0 * report.gain.error);
    }
}

#[test]
fn shuffled_clicks_change_nothing() {
    let mut past = world(600, 4);
    let mut rows: Vec<i64> = past.clicks.iter().map(|click| click.1).collect();
    stream(5, "shuffle", 0).shuffle(&mut rows);
    past.clicks.iter_mut().zip(rows).for_each(|(click, row)| click.1 = row);
    let index = index(&past.docs, Metric::Cosine);
    let mut learner = SearchLearner::new(0);
    let report = learner.fit(&index, past.queries.view(), &past.clicks, &mut Silent).unwrap();
    assert!(!report.promoted, "{report:?}");
    let plain = learner.search(&index, past.queries.view(), 10, None, Order::Plain).unwrap();
    assert_eq!(learner.search(&index, past.queries.view(), 10, None, Order::Learned).unwrap(), plain);
}

#[test]
fn only_fair_clicks_judge() {
    let mut past = world(600, 7);
    let index = index(&past.docs, Metric::Cosine);
    let shown = index.search(past.queries.view(), 1, None, None).unwrap().rows;
    // The others always click what stands on top.
    past.clicks
        .iter_mut()
        .filter(|click| click.0 < 400)
        .for_each(|click| click.1 = shown[(click.0 as usize, 0)]);
    let judged: Vec<(u32, i64, f32)> = past.clicks.iter().copied().filter(|click| click.0 >= 400).collect();
    let learn = |judged| {
        let snapshot = Snapshot::of(&index).unwrap();
        let mut learner = SearchLearner::new(0);
        learner.install(snapshot.learn(past.queries.view(), &past.clicks, judged, 0, &mut Silent).unwrap());
        let future = world(200, 8);
        learner.evaluate(&index, future.queries.view(), &future.clicks, Order::Learned).unwrap().ndcg_10
    };
    let (naive, fair) = (learn(None), learn(Some(&judged[..])));
    assert!(fair > naive + 0.02, "{naive} {fair}");
    let snapshot = Snapshot::of(&index).unwrap();
    let wrong = snapshot.learn(past.queries.view(), &past.clicks, Some(&[(0, 999, 1.0)]), 0, &mut Silent);
    assert!(matches!(wrong, Err(Error::Row(_))));
}

#[test]
fn the_same_bits_on_any_number_of_threads() {
    let mut files = Vec::new();
    for threads in [1, 2, 4] {
        crate::threads::set_num_threads(threads).unwrap();
        let (index, learner) = trained(Metric::Cosine);
        files.push(learner.to_bytes(&index).unwrap());
    }
    assert!(files[0] == files[1] && files[1] == files[2]);
}

#[test]
fn a_saved_learner_serves_the_same_and_only_beside_its_index() {
    let (trained_on, learner) = trained(Metric::Cosine);
    let loaded = SearchLearner::from_bytes(learner.to_bytes(&trained_on).unwrap(), &trained_on).unwrap();
    let future = world(50, 6);
    let found = |learner: &SearchLearner| {
        learner.search(&trained_on, future.queries.view(), 7, None, Order::Learned).unwrap()
    };
    assert_eq!(found(&loaded), found(&learner));
    assert_eq!(loaded.report(), learner.report());
    let other = index(&future.queries, Metric::Cosine);
    assert!(matches!(
        SearchLearner::from_bytes(learner.to_bytes(&trained_on).unwrap(), &other),
        Err(Error::Config(_))
    ));
    let mut grown = trained_on.clone();
    grown.add(future.queries.view(), &mut Silent).unwrap();
    let beside_more = SearchLearner::from_bytes(learner.to_bytes(&trained_on).unwrap(), &grown).unwrap();
    let old: Vec<i64> = trained_on.rows().map(|row| row as i64).collect();
    let only = Some(Filter::Rows(&old));
    let among_old = beside_more.search(&grown, future.queries.view(), 7, only, Order::Learned).unwrap();
    assert_eq!(among_old, found(&learner));
    let bytes = learner.to_bytes(&trained_on).unwrap();
    for at in (0..bytes.len()).step_by(bytes.len() / 97) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert!(
            matches!(SearchLearner::from_bytes(damaged, &trained_on), Err(Error::Format(_))),
            "byte {at}"
        );
    }
    let untrained =
        SearchLearner::from_bytes(SearchLearner::new(9).to_bytes(&trained_on).unwrap(), &trained_on).unwrap();
    assert_eq!((untrained.seed(), untrained.report()), (9, None));
}

#[test]
fn a_saved_learner_follows_removals_and_updates_as_one_in_memory_does() {
    let (mut index, learner) = trained(Metric::Cosine);
    let future = world(50, 6);
    let found = |learner: &SearchLearner, index: &HnswIndex| {
        learner.search(index, future.queries.view(), 7, None, Order::Learned).unwrap()
    };
    let before = learner.to_bytes(&index).unwrap();
    let rows: Vec<i64> = (0..200).collect();
    let others = world(200, 9).queries;
    let beside = |bytes: &[u8], index: &HnswIndex| SearchLearner::from_bytes(bytes.to_vec(), index);
    for changed in [0, 40, 80] {
        index.update(&rows[changed..changed + 40], first(&others, 40), &mut Silent).unwrap();
        index.remove(&rows[150 + changed / 8..155 + changed / 8], &mut Silent).unwrap();
        // Updated are 40 of 195 rows, 80 of 190, 120 of 185.
        match beside(&before, &index) {
            Ok(loaded) => assert!(changed < 80 && found(&loaded, &index) == found(&learner, &index)),
            Err(Error::Config(_)) => assert_eq!(changed, 80),
            Err(other) => panic!("{other}"),
        }
        let after = beside(&learner.to_bytes(&index).unwrap(), &index).unwrap();
        assert_eq!(found(&after, &index), found(&learner, &index));
    }
    index.remove(&index.rows().map(|row| row as i64).collect::<Vec<_>>(), &mut Silent).unwrap();
    assert!(beside(&before, &index).is_ok(), "of no row is anything else known than that it was removed");
    index.add(first(&others, 1), &mut Silent).unwrap();
    assert!(beside(&before, &index).is_ok());
    let mut fewer = HnswIndex::new(DIM, Params::default()).unwrap();
    fewer.add(first(&future.docs, 199), &mut Silent).unwrap();
    assert!(matches!(beside(&before, &fewer), Err(Error::Config(_))));
}

#[test]
fn bytes_that_are_coded_anew_are_not_another_index() {
    let past = world(600, 2);
    for storage in [Storage::F16, Storage::I8, Storage::Binary] {
        let params = Params { storage, rescore: false, ..Params::default() };
        let mut index = HnswIndex::new(DIM, params).unwrap();
        index.add(past.docs.view(), &mut Silent).unwrap();
        let mut learner = SearchLearner::new(0);
        learner.fit(&index, past.queries.view(), &past.clicks, &mut Silent).unwrap();
        let bytes = learner.to_bytes(&index).unwrap();
        let mut axis = Array2::from_elem((1, DIM), 1e-3);
        axis[(0, 0)] = 1.0;
        index.add(axis.view(), &mut Silent).unwrap(); // beyond all ranges
        assert!(SearchLearner::from_bytes(bytes, &index).is_ok(), "{storage:?}");
    }
}

#[test]
fn filters_added_rows_and_rollback() {
    let (mut index, mut learner) = trained(Metric::Cosine);
    let future = world(30, 7);
    let allowed: Vec<i64> = (0..200).filter(|row| row % 7 == 0).collect();
    let some =
        learner.search(&index, future.queries.view(), 10, Some(Filter::Rows(&allowed)), Order::Learned);
    assert!(some.unwrap().rows.iter().all(|row| *row == -1 || row % 7 == 0));
    let none: Vec<bool> = vec![false; 200];
    let empty =
        learner.search(&index, future.queries.view(), 3, Some(Filter::Mask(&none)), Order::Learned).unwrap();
    assert!(empty.rows.iter().all(|&row| row == -1) && empty.scores.iter().all(|&v| v == f32::NEG_INFINITY));
    // A row that fits a query better than any other, added after training, is found and counts as never clicked.
    let explained = learner.explain(&index, first(&future.queries, 1), 5).unwrap();
    assert!(explained.score.is_finite());
    let all = learner.search(&index, future.queries.view(), 500, None, Order::Learned).unwrap();
    assert_eq!(all.rows.row(0).iter().filter(|&&row| row >= 0).count(), 200);
    index.add(first(&future.docs, 5), &mut Silent).unwrap();
    let later = learner.search(&index, future.queries.view(), 500, None, Order::Learned).unwrap();
    assert_eq!(later.rows.row(0).iter().filter(|&&row| row >= 0).count(), 205);
    let parts = learner.explain(&index, first(&future.queries, 1), 203).unwrap();
    assert_eq!(parts.clicks, 0.0);
    learner.rollback().unwrap();
    assert!(learner.report().is_none() && learner.rollback().is_err());
}

#[test]
fn bad_arguments_change_nothing() {
    let past = world(50, 8);
    let index = index(&past.docs, Metric::Cosine);
    let mut learner = SearchLearner::new(0);
    let queries = past.queries.view();
    assert!(matches!(learner.fit(&index, queries, &[(0, 200, 1.0)], &mut Silent), Err(Error::Row(_))));
    assert!(matches!(learner.fit(&index, queries, &[(50, 0, 1.0)], &mut Silent), Err(Error::Row(_))));
    assert!(matches!(learner.fit(&index, queries, &[(0, 0, -1.0)], &mut Silent), Err(Error::Shape(_))));
    assert!(matches!(learner.fit(&index, queries, &[], &mut Silent), Err(Error::Config(_))));
    let wrong = Array2::zeros((2, DIM + 1));
    assert!(matches!(learner.fit(&index, wrong.view(), &past.clicks, &mut Silent), Err(Error::Shape(_))));
    assert!(learner.report().is_none() && learner.rollback().is_err());
}

#[test]
fn untrained_edges_and_neighbours_enter_the_score_as_written_and_survive_a_file() {
    for metric in [Metric::Cosine, Metric::L2, Metric::Ip] {
        let (index, mut learner) = trained(metric);
        let state = std::sync::Arc::get_mut(learner.state.as_mut().unwrap()).unwrap();
        let graph = index.graph(0).unwrap();
        let docs = state.space.enter(index.vectors(None).unwrap().as_slice().unwrap());
        let mut means = vec![0.0f32; docs.len()];
        for node in 0..index.len() {
            let neighbors = graph.neighbors(node);
            for &other in neighbors {
                for column in 0..DIM {
                    means[node * DIM + column] +=
                        docs[other as usize * DIM + column] / neighbors.len() as f32;
                }
            }
        }
        state.candidate = guard::Candidate { centroid: 0.5, pull: 1.5, smooth: -0.2, ..state.candidate };
        let sums = state.clicks.sums().to_vec();
        state.clicked.get_or_insert(state::Table::Few(sums));
        state.neighbors = state::Neighbors { rows: (0..index.len() as u32).collect(), means: means.clone() };
        let state = learner.state.clone().unwrap();
        let query = world(1, 9).queries;
        let own = state.space.enter(query.as_slice().unwrap());
        for row in 0..index.len() {
            let mut moved = docs[row * DIM..][..DIM].to_vec();
            if let Some(at) = state.clicks.place(row as u32) {
                for (value, sum) in moved.iter_mut().zip(&state.clicks.sums()[at * DIM..]) {
                    *value += 1.5 * sum / (state.clicks.counts()[at] + 1.0);
                }
                state.space.settle(&mut moved);
            }
            let parts = learner.explain(&index, query.view(), row as i64).unwrap();
            let (centroid, neighbors) =
                (state.space.score(&own, &moved), state.space.score(&own, &means[row * DIM..][..DIM]));
            let close = |a: f32, b: f32| (a - b).abs() < 1e-4 * b.abs().max(1.0);
            assert!(close(parts.centroid.unwrap(), centroid), "{metric:?} {row}");
            assert!(close(parts.neighbors.unwrap(), neighbors), "{metric:?} {row}");
            let base = state.candidate.edge.map_or(parts.plain, |share| {
                share * parts.edges.unwrap_or(0.0) + (1.0 - share) * parts.adapter.unwrap()
            });
            let rest = state.candidate.memory * parts.votes + parts.bonus - 0.2 * neighbors;
            assert!(close(parts.score, 0.5 * base + 0.5 * centroid + rest), "{metric:?} {row}");
        }
        let loaded = SearchLearner::from_bytes(learner.to_bytes(&index).unwrap(), &index).unwrap();
        let rank =
            |learner: &SearchLearner| learner.search(&index, query.view(), 20, None, Order::Learned).unwrap();
        assert_eq!(rank(&loaded), rank(&learner));
    }
}

#[test]
fn untrained_edges_alone_serve_without_models() {
    let past = world(600, 2);
    let index = index(&past.docs, Metric::Cosine);
    let candidate = guard::Candidate { centroid: 0.5, ..guard::Candidate::PLAIN };
    let snapshot = Snapshot::of(&index).unwrap();
    let space = Space::of(snapshot.geometry, &snapshot.vectors, DIM);
    let docs = space.enter(&snapshot.vectors);
    let clicks = past.clicks.iter().map(|&(query, row, grade)| (query, row as u32, grade)).collect();
    let log = Log::new(past.queries.as_slice().unwrap(), DIM, clicks).unwrap();
    let log = log.mapped(&space.enter(log.queries()), Some);
    let fitted =
        fit::Fitted { candidate, models: None, report: Report { promoted: true, ..Report::default() } };
    let served = state::Served {
        space,
        docs: &docs,
        neighbors: Vec::new(),
        rows: &snapshot.rows,
        log: &log,
        origin: state::Origin { digests: snapshot.origin.digests.clone() },
    };
    let mut learner = SearchLearner::new(0);
    learner.install(Learned(std::sync::Arc::new(State::new(fitted, served, 0, &mut Silent).unwrap())));
    let future = world(200, 3);
    let quality =
        |order| learner.evaluate(&index, future.queries.view(), &future.clicks, order).unwrap().ndcg_10;
    assert!(quality(Order::Learned) > quality(Order::Plain) + 0.1);
    let loaded = SearchLearner::from_bytes(learner.to_bytes(&index).unwrap(), &index).unwrap();
    let rank = |learner: &SearchLearner| {
        learner.search(&index, future.queries.view(), 10, None, Order::Learned).unwrap()
    };
    assert_eq!(rank(&loaded), rank(&learner));
}
