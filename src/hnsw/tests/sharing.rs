//! Searching while another thread adds, removes and updates.

use super::*;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// Sets its flag when it goes, so that those who wait for the flag stop also if an assertion fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_shared_index_becomes_what_an_exclusive_one_does() {
    let vectors = clustered(3_000, 12, 30, 40);
    for (storage, rescore) in [(Storage::F32, true), (Storage::I8, true), (Storage::Binary, false)] {
        let params = Params { storage, rescore, m: 6, ..params(Metric::L2) };
        let mut alone = HnswIndex::new(12, params.clone()).unwrap();
        let shared = SharedIndex::new(HnswIndex::new(12, params).unwrap());
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    shared.search(part(&vectors, 0..3), 5, None, None).unwrap();
                }
            });
            let finished = Done(&done);
            for (start, end) in [(0, 40), (40, 1_500), (1_500, 1_501)] {
                alone.add(part(&vectors, start..end), &mut Silent).unwrap();
                shared.add(part(&vectors, start..end), &mut Silent).unwrap();
            }
            let gone: Vec<i64> = (0..700).map(|row| row * 2).collect();
            let (many, one) = gone.split_at(699);
            for rows in [many, one] {
                alone.remove(rows, &mut Silent).unwrap();
                shared.remove(rows, &mut Silent).unwrap();
            }
            let fresh = part(&vectors, 1_501..3_000).mapv(|value| 2.0 * value);
            assert!(alone.add(fresh.view(), &mut Stop(4)).is_err());
            assert!(shared.add(fresh.view(), &mut Stop(4)).is_err());
            alone.add(fresh.view(), &mut Silent).unwrap();
            shared.add(fresh.view(), &mut Silent).unwrap();
            let rows: Vec<i64> = (1_400..1_500).filter(|row| row % 2 == 1).collect();
            let new = part(&vectors, 0..rows.len());
            alone.update(&rows, new, &mut Silent).unwrap();
            shared.update(&rows, new, &mut Silent).unwrap();
            assert!(shared.read(HnswIndex::to_bytes) == alone.to_bytes(), "{storage:?}");
            alone.compact().unwrap();
            shared.compact().unwrap();
            assert!(shared.settled(HnswIndex::to_bytes).unwrap() == alone.to_bytes(), "{storage:?}");
            drop(finished);
            reader.join().unwrap();
        });
    }
}

/// Looks at an index from the monitor of a call that changes it.
struct Look<'a> {
    index: &'a SharedIndex,
    path: PathBuf,
    held: Vec<usize>,
    refused: usize,
}

impl Monitor for Look<'_> {
    fn step(&mut self, _: usize, _: usize, _: &[(&str, f64)]) -> crate::Result<()> {
        let (held, stats) = self.index.read(|index| (index.len(), index.stats()));
        assert_eq!((stats.rows, stats.unreachable), (held, 0));
        let rows: Vec<i64> = self.index.read(|index| index.rows().map(|row| row as i64).collect());
        let vectors = self.index.read(|index| index.vectors(None)).unwrap();
        // Whatever is held is found, by a walk and by a scan.
        let hits = self.index.search(vectors.view(), 1, Some(200), None).unwrap();
        assert!(hits.rows.iter().eq(&rows));
        let exact = self.index.read(|index| index.exact_search(vectors.view(), 1, None)).unwrap();
        assert_eq!(exact, hits);
        self.held.push(held);
        let changes = [
            self.index.remove(&[0], &mut Silent),
            self.index.add(vectors.view(), &mut Silent).map(|_| ()),
            self.index.settled(|_| ()),
            self.index.compact(),
        ];
        assert!(changes.iter().all(|result| matches!(result, Err(Error::Config(_)))));
        // No half of an add is saved: rows are stored that are not linked yet.
        let is_adding = self.index.read(|index| index.len() + index.stats().free < index.core.rows.slots());
        let saved = self.index.read(|index| index.save(&self.path));
        assert_eq!(matches!(saved, Err(Error::Config(_))), is_adding);
        self.refused += usize::from(is_adding);
        Ok(())
    }
}

#[test]
fn between_batches_an_index_is_whole_and_its_own_monitor_may_read_it() {
    let vectors = clustered(400, 8, 5, 41);
    let index = SharedIndex::new(HnswIndex::new(8, params(Metric::L2)).unwrap());
    let directory = tempfile::tempdir().unwrap();
    let look =
        || Look { index: &index, path: directory.path().join("index.rvx"), held: Vec::new(), refused: 0 };
    let mut adding = look();
    index.add(part(&vectors, 0..300), &mut adding).unwrap();
    assert!(adding.held.len() > 20 && adding.held.is_sorted() && adding.held[0] < 10);
    assert_eq!(adding.refused, adding.held.len() - 1, "all but the last step");
    let mut changing = look();
    index.remove(&(0..250).collect::<Vec<i64>>(), &mut changing).unwrap();
    index.update(&[251, 260], part(&vectors, 300..302), &mut changing).unwrap();
    assert_eq!(changing.refused, 0);
    index.add(part(&vectors, 302..400), &mut changing).unwrap();
    assert_eq!(index.read(HnswIndex::len), 148);
}

#[test]
fn a_row_that_is_alone_is_held_while_it_is_updated() {
    let vectors = clustered(2, 4, 2, 42);
    let index = built(&part(&vectors, 0..1).to_owned(), params(Metric::L2));
    let mut halfway = index;
    let changes = { halfway.plan_unlink(&[0]) };
    halfway.core.links.write(&changes);
    for filter in [None, Some(Filter::Rows(&[0]))] {
        assert_eq!(halfway.search(vectors.view(), 1, None, filter).unwrap().rows, ndarray::array![[0], [0]]);
    }
    assert_eq!(halfway.range_search(vectors.view(), f64::INFINITY, false).unwrap().rows, [0, 0]);
}

/// What a thread found out that searched beside a writer.
#[derive(Debug, Default)]
struct Seen {
    searches: usize,
    removed: usize,
    asked: usize,
    lost: usize,
}

/// Adds and removes `changes` rows, one after the other and some at a time, while another thread searches.
fn churn_beside_searches(metric: Metric, rows: usize, changes: usize) -> Seen {
    let dim = 32;
    let vectors = clustered(rows + changes, dim, 100, 43);
    let vectors = shuffled(&vectors);
    let index = SharedIndex::new(built(&part(&vectors, 0..rows).to_owned(), params(metric)));
    // Rows up to one have been acknowledged, and rows up to the other may have been removed: the oldest go first.
    let (acknowledged, going, gone) = (AtomicUsize::new(rows), AtomicUsize::new(0), AtomicUsize::new(0));
    let done = AtomicBool::new(false);
    let mut seen = Seen::default();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut first, mut last) = (0, rows);
            for (turn, left) in (0..).zip((1..=changes / 2).rev()) {
                let some = if turn % 50 == 0 { 40 } else { 1 }.min(left).min(changes / 2 + rows - last);
                if some == 0 {
                    break;
                }
                index.add(part(&vectors, last..last + some), &mut Silent).unwrap();
                last += some;
                acknowledged.store(last, Ordering::Release);
                going.store(first + some, Ordering::Release);
                let oldest: Vec<i64> = (first..first + some).map(|row| row as i64).collect();
                index.remove(&oldest, &mut Silent).unwrap();
                first += some;
                gone.store(first, Ordering::Release);
            }
            done.store(true, Ordering::Release);
        });
        let mut rng = stream(7, "test asked", 0);
        while !done.load(Ordering::Acquire) {
            let removed = gone.load(Ordering::Acquire);
            let (first, last) = (going.load(Ordering::Acquire), acknowledged.load(Ordering::Acquire));
            let row = first + rng.below((last - first) as u64) as usize;
            let hits = index.search(part(&vectors, row..row + 1), 10, None, None).unwrap();
            seen.searches += 1;
            seen.removed += hits.rows.iter().filter(|&&row| row < removed as i64).count();
            // Rows that were being removed meanwhile need not be found any more.
            if row >= going.load(Ordering::Acquire) {
                seen.asked += 1;
                seen.lost += usize::from(hits.rows[[0, 0]] != row as i64);
            }
        }
    });
    assert_eq!((index.read(HnswIndex::len), index.read(HnswIndex::stats).unreachable), (rows, 0));
    seen
}

#[test]
fn searches_beside_a_writer_find_what_is_acknowledged_and_nothing_removed() {
    for metric in [Metric::L2, Metric::Cosine] {
        let seen = churn_beside_searches(metric, 2_000, 3_000);
        assert!(seen.asked > 100 && seen.removed == 0 && seen.lost * 10_000 <= seen.asked, "{seen:?}");
    }
}

#[test]
#[ignore = "runs for minutes: 100,000 adds and removes a metric"]
fn searches_beside_100_000_adds_and_removes() {
    for metric in [Metric::L2, Metric::Cosine] {
        let seen = churn_beside_searches(metric, 20_000, 100_000);
        println!("{metric:?}: {seen:?}");
        assert!(seen.asked > 10_000 && seen.removed == 0 && seen.lost * 10_000 <= seen.asked, "{seen:?}");
    }
}
