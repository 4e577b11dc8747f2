//! Kernels and products beside their naive twins: `cargo bench --bench kernels`.
//!
//! Throughput is in elements read (kernels) or in floating-point operations (products).

#![allow(missing_docs)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ruvector_gnn::linalg::{MatRef, matmul_into};
use ruvector_gnn::rng::stream;
use ruvector_gnn::simd::{Isa, kernels_for};
use std::hint::black_box;

fn random(len: usize, index: u64) -> Vec<f32> {
    let mut rng = stream(1, "bench", index);
    (0..len).map(|_| rng.normal() as f32).collect()
}

fn vectors(c: &mut Criterion) {
    for dim in [128usize, 384] {
        let (a, b) = (random(dim, 0), random(dim, 1));
        let mut group = c.benchmark_group(format!("dot/{dim}"));
        group.throughput(Throughput::Elements(dim as u64));
        group.bench_function("naive", |bench| {
            bench.iter(|| black_box(&a).iter().zip(black_box(&b)).map(|(x, y)| x * y).sum::<f32>());
        });
        for set in Isa::ALL.into_iter().filter_map(kernels_for) {
            group.bench_function(set.isa.name(), |bench| {
                bench.iter(|| (set.dot)(black_box(&a), black_box(&b)))
            });
        }
        group.finish();
    }
}

fn gathers(c: &mut Criterion) {
    let (nodes, degree) = (100_000usize, 16usize);
    for dim in [64usize, 128] {
        let table = random(nodes * dim, 2);
        let mut rng = stream(2, "bench", 0);
        let rows: Vec<u32> = (0..nodes * degree / 10).map(|_| rng.below(nodes as u64) as u32).collect();
        let mut out = vec![0.0; dim];
        let mut group = c.benchmark_group(format!("gather_sum/{dim}"));
        group.throughput(Throughput::Elements((rows.len() * dim) as u64));
        group.sample_size(20);
        group.bench_function("naive", |bench| {
            bench.iter(|| {
                for rows in rows.chunks(degree) {
                    out.fill(0.0);
                    for &row in rows {
                        let values = &table[row as usize * dim..][..dim];
                        out.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                    }
                    black_box(&mut out);
                }
            });
        });
        for set in Isa::ALL.into_iter().filter_map(kernels_for) {
            group.bench_function(set.isa.name(), |bench| {
                bench.iter(|| {
                    for rows in rows.chunks(degree) {
                        (set.gather_sum)(&table, rows.into(), &mut out);
                        black_box(&mut out);
                    }
                });
            });
        }
        group.finish();
    }
}

fn products(c: &mut Criterion) {
    let shapes = [
        ("layer forward", 100_000usize, 128usize, 64usize, false, false),
        ("layer weight gradient", 64, 100_000, 128, true, false),
        ("scores", 128, 384, 3266, false, true),
        ("score gradient", 128, 3266, 384, false, false),
        ("document gradient", 3266, 128, 384, true, false),
        ("square", 1024, 1024, 1024, false, false),
    ];
    let mut group = c.benchmark_group("matmul");
    group.sample_size(20);
    for (name, m, k, n, left_transposed, right_transposed) in shapes {
        let (a, b) = (random(m * k, 3), random(k * n, 4));
        let left = if left_transposed { MatRef::new(&a, k, m).t() } else { MatRef::new(&a, m, k) };
        let right = if right_transposed { MatRef::new(&b, n, k).t() } else { MatRef::new(&b, k, n) };
        let mut out = vec![0.0f32; m * n];
        group.throughput(Throughput::Elements(2 * (m * k * n) as u64));
        group.bench_function(BenchmarkId::new(name, format!("{m}x{k}x{n}")), |bench| {
            bench.iter(|| matmul_into(left, right, black_box(&mut out), false));
        });
    }
    group.finish();
}

criterion_group!(benches, vectors, gathers, products);
criterion_main!(benches);
