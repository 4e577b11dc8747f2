//! The index beside its naive twin, a scan: `cargo bench --bench hnsw`.
//!
//! 20,000 clustered 128-d vectors. Throughput is in queries, or in rows inserted.

#![allow(missing_docs)]

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ndarray::{Array2, Axis, Slice};
use ruvector_gnn::hnsw::{Filter, HnswIndex, Metric, Params, Storage};
use ruvector_gnn::monitor::Silent;
use ruvector_gnn::rng::stream;
use std::hint::black_box;

const ROWS: usize = 20_000;

fn clustered(rows: usize, index: u64) -> Array2<f32> {
    let (mut rng, mut middle) = (stream(1, "bench", index), stream(1, "bench centres", 0));
    let centres = Array2::from_shape_fn((200, 128), |_| middle.normal() as f32);
    let which: Vec<usize> = (0..rows).map(|_| rng.below(200) as usize).collect();
    Array2::from_shape_fn((rows, 128), |(i, j)| centres[[which[i], j]] + 0.7 * rng.normal() as f32)
}

fn built(vectors: &Array2<f32>) -> HnswIndex {
    stored(vectors, Storage::F32)
}

fn stored(vectors: &Array2<f32>, storage: Storage) -> HnswIndex {
    let params = Params { metric: Metric::L2, storage, ..Params::default() };
    let mut index = HnswIndex::new(128, params).unwrap();
    index.add(vectors.view(), &mut Silent).unwrap();
    index
}

fn build(c: &mut Criterion) {
    let vectors = clustered(ROWS, 0);
    let mut group = c.benchmark_group("build");
    group.sample_size(10).throughput(Throughput::Elements(ROWS as u64 / 4));
    let part = vectors.slice_axis(Axis(0), Slice::from(0..ROWS / 4)).to_owned();
    group.bench_function("5000 at once", |bench| bench.iter(|| built(black_box(&part))));
    let index = built(&vectors);
    group.throughput(Throughput::Elements(100));
    group.bench_function("100 one by one into 20000", |bench| {
        bench.iter_batched(
            || index.clone(),
            |mut index| {
                for row in part.axis_chunks_iter(Axis(0), 1).take(100) {
                    index.add(row, &mut Silent).unwrap();
                }
                index
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn search(c: &mut Criterion) {
    let (vectors, queries) = (clustered(ROWS, 0), clustered(100, 1));
    let index = built(&vectors);
    let query = queries.slice_axis(Axis(0), Slice::from(0..1));
    let mut group = c.benchmark_group("search");
    group.throughput(Throughput::Elements(1));
    group.bench_function("naive: scan", |bench| {
        bench.iter(|| index.exact_search(black_box(query), 10, None).unwrap())
    });
    for ef in [16usize, 64, 256] {
        group.bench_function(BenchmarkId::new("one query, ef", ef), |bench| {
            bench.iter(|| index.search(black_box(query), 10, Some(ef), None).unwrap())
        });
    }
    for storage in Storage::ALL {
        let index = stored(&vectors, storage);
        group.bench_function(BenchmarkId::new("one query, storage", storage.name()), |bench| {
            bench.iter(|| index.search(black_box(query), 10, None, None).unwrap())
        });
    }
    group.throughput(Throughput::Elements(100));
    group.bench_function("100 queries", |bench| {
        bench.iter(|| index.search(black_box(queries.view()), 10, None, None).unwrap())
    });
    for every in [2usize, 10, 100] {
        let mask: Vec<bool> = (0..ROWS).map(|row| row % every == 0).collect();
        group.bench_function(BenchmarkId::new("100 queries, filter 1 in", every), |bench| {
            bench.iter(|| {
                index.search(black_box(queries.view()), 10, None, Some(Filter::Mask(&mask))).unwrap()
            })
        });
    }
    group.finish();
}

criterion_group!(benches, build, search);
criterion_main!(benches);
