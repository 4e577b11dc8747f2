//! Optimizers on 10 million parameters beside the floor: `cargo bench --bench optim`.
//!
//! The floor reads a parameter, its gradient and two moments, and writes all but the gradient: the traffic of Adam with
//! hardly any arithmetic. The lines `interleaved` time both in turns, so that a drift of the machine hits both.

#![allow(missing_docs)]

use criterion::{Criterion, criterion_group, criterion_main};
use ruvector_gnn::autograd::Tensor;
use ruvector_gnn::buffer::Buffer;
use ruvector_gnn::optim::{Adam, AdamOptions, AdamW, AdamWOptions, Optimizer, Sgd, SgdOptions};
use ruvector_gnn::threads;
use std::hint::black_box;
use std::time::Instant;

const COUNT: usize = 10_000_000;
const PIECE: usize = 16 << 10;

/// Four arrays read and three written.
struct Floor([Buffer<f32>; 4]);

impl Floor {
    fn new() -> Self {
        Self([1.0, 2.0, 3.0, 4.0].map(|value| Buffer::filled(COUNT, value)))
    }

    fn run(&mut self) {
        let [p, m, v, g] = &mut self.0;
        let pieces = p.chunks_mut(PIECE).zip(m.chunks_mut(PIECE)).zip(v.chunks_mut(PIECE));
        let mut pieces: Vec<_> = pieces.zip(g.chunks(PIECE)).collect();
        threads::for_each_chunk(&mut pieces, 1, |_, pieces| {
            for (((p, m), v), g) in pieces {
                for (((p, m), v), &g) in p.iter_mut().zip(m.iter_mut()).zip(v.iter_mut()).zip(g.iter()) {
                    (*p, *m, *v) = (*p + g, *m + g, *v + g);
                }
            }
        });
        black_box(&self.0);
    }
}

fn parameter() -> Tensor<f32> {
    let parameter = Tensor::parameter(vec![1.0f32; COUNT], &[COUNT]).unwrap();
    let grad: Vec<f32> = (0..COUNT).map(|at| (at % 1000) as f32 * 1e-3 - 0.5).collect();
    parameter.set_grad(Some(grad.into())).unwrap();
    parameter
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn optimizers(c: &mut Criterion) {
    let mut all: [(&str, Box<dyn Optimizer<f32>>); 3] = [
        ("adamw", Box::new(AdamW::new(vec![parameter()], AdamWOptions::default()).unwrap())),
        ("adam", Box::new(Adam::new(vec![parameter()], AdamOptions::default()).unwrap())),
        (
            "sgd",
            Box::new(
                Sgd::new(vec![parameter()], SgdOptions { momentum: 0.9, ..Default::default() }).unwrap(),
            ),
        ),
    ];
    let mut floor = Floor::new();
    let mut group = c.benchmark_group("optim");
    group.sample_size(20);
    group.bench_function("floor", |b| b.iter(|| floor.run()));
    for (name, optimizer) in &mut all {
        group.bench_function(*name, |b| b.iter(|| optimizer.step().unwrap()));
    }
    group.finish();
    for (name, optimizer) in &mut all {
        let (mut floors, mut steps) = (Vec::new(), Vec::new());
        for _ in 0..40 {
            let begin = Instant::now();
            floor.run();
            floors.push(begin.elapsed().as_secs_f64());
            let begin = Instant::now();
            optimizer.step().unwrap();
            steps.push(begin.elapsed().as_secs_f64());
        }
        let (floor, step) = (median(floors), median(steps));
        println!(
            "interleaved {name}: {:.2} ms, floor {:.2} ms, {:.2}x",
            step * 1e3,
            floor * 1e3,
            step / floor
        );
    }
}

criterion_group!(benches, optimizers);
criterion_main!(benches);
