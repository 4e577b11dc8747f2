//! How long a search takes while another thread adds and removes, beside how long it takes when none does:
//! `cargo bench --bench latency`.
//!
//! 20,000 clustered 64-d vectors, l2. One thread asks for the 10 nearest of one vector after the other, the other
//! replaces the oldest rows by new ones, 1 or 1,000 a call, each on one thread. Quiet and busy seconds alternate. Where
//! other programs need the processors too, a search may be interrupted by them; under Linux there is a second row of the
//! searches that were not.

#![allow(missing_docs)]

use ndarray::{Array2, ArrayView2, Axis, Slice};
use ruvector_gnn::hnsw::{HnswIndex, Metric, Params, SharedIndex};
use ruvector_gnn::monitor::Silent;
use ruvector_gnn::rng::stream;
use ruvector_gnn::threads::set_num_threads;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const ROWS: usize = 20_000;
const DIM: usize = 64;
const ROUNDS: usize = 10;
const ROUND: Duration = Duration::from_secs(1);

fn clustered(rows: usize, index: u64) -> Array2<f32> {
    let (mut rng, mut middle) = (stream(1, "bench", index), stream(1, "bench centres", 0));
    let centres = Array2::from_shape_fn((200, DIM), |_| middle.normal() as f32);
    let which: Vec<usize> = (0..rows).map(|_| rng.below(200) as usize).collect();
    Array2::from_shape_fn((rows, DIM), |(i, j)| centres[[which[i], j]] + 0.7 * rng.normal() as f32)
}

fn part(vectors: &Array2<f32>, rows: Range<usize>) -> ArrayView2<'_, f32> {
    vectors.slice_axis(Axis(0), Slice::from(rows))
}

/// How often the system took the processor from this thread.
#[cfg(target_os = "linux")]
fn interruptions() -> Option<i64> {
    // SAFETY: all zeros is a valid value of this plain struct, which the call only writes to.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::getrusage(libc::RUSAGE_THREAD, &mut usage) == 0).then_some(usage)
    };
    usage.map(|usage| usage.ru_nivcsw)
}

#[cfg(not(target_os = "linux"))]
fn interruptions() -> Option<i64> {
    None
}

/// Microseconds of searches: of all, and of those that were not interrupted.
#[derive(Default)]
struct Times {
    all: Vec<f64>,
    undisturbed: Vec<f64>,
}

impl Times {
    fn search(&mut self, index: &SharedIndex, queries: &Array2<f32>, time: Duration) {
        let begin = Instant::now();
        for query in queries.axis_chunks_iter(Axis(0), 1).cycle().take_while(|_| begin.elapsed() < time) {
            let (before, start) = (interruptions(), Instant::now());
            index.search(query, 10, None, None).unwrap();
            let micros = start.elapsed().as_secs_f64() * 1e6;
            self.all.push(micros);
            if interruptions() == before && before.is_some() {
                self.undisturbed.push(micros);
            }
        }
    }
}

fn percentiles(times: &mut [f64]) -> [f64; 3] {
    times.sort_unstable_by(f64::total_cmp);
    [0.5, 0.99, 1.0].map(|share| times[((times.len() - 1) as f64 * share) as usize])
}

/// Replaces the oldest rows until it is told to stop; returns how many it replaced.
fn replace(index: &SharedIndex, vectors: &Array2<f32>, each: usize, stop: &AtomicBool) -> usize {
    let mut replaced = 0;
    while !stop.load(Ordering::Relaxed) {
        let at = replaced % (ROWS - each + 1);
        index.add(part(vectors, at..at + each), &mut Silent).unwrap();
        let oldest: Vec<i64> = index.read(|index| index.rows().take(each).map(|row| row as i64).collect());
        index.remove(&oldest, &mut Silent).unwrap();
        replaced += each;
    }
    replaced
}

fn main() {
    set_num_threads(1).unwrap();
    let (vectors, queries) = (clustered(ROWS, 0), clustered(5_000, 1));
    println!("microseconds a search      p50    p99      max   searches");
    for each in [1, 1_000] {
        let mut index = HnswIndex::new(DIM, Params { metric: Metric::L2, ..Params::default() }).unwrap();
        index.add(vectors.view(), &mut Silent).unwrap();
        let index = SharedIndex::new(index);
        let (mut quiet, mut busy, mut replaced) = (Times::default(), Times::default(), 0);
        for _ in 0..ROUNDS {
            quiet.search(&index, &queries, ROUND);
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let writer = scope.spawn(|| replace(&index, &vectors, each, &stop));
                busy.search(&index, &queries, ROUND);
                stop.store(true, Ordering::Relaxed);
                replaced += writer.join().unwrap();
            });
        }
        println!("{each} replaced a call, {} a second", replaced / ROUNDS);
        for (what, quiet, busy) in [
            ("all", &mut quiet.all, &mut busy.all),
            ("undisturbed", &mut quiet.undisturbed, &mut busy.undisturbed),
        ] {
            if quiet.is_empty() || busy.is_empty() {
                continue;
            }
            let [before, beside] = [percentiles(quiet), percentiles(busy)];
            for (name, [p50, p99, max], searches) in
                [("quiet", before, quiet.len()), ("busy", beside, busy.len())]
            {
                println!("  {what:>11} {name:>5} {p50:10.1} {p99:6.1} {max:8.0} {searches:10}");
            }
            println!("  {:>17} {:10.2} {:6.2}", "ratio", beside[0] / before[0], beside[1] / before[1]);
        }
    }
}
