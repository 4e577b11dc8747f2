//! Layers at 100,000 nodes, average degree 16, 128 -> 64, beside the floor: `cargo bench --bench layers`.
//!
//! The floor of a layer is the time of its products and gathers alone, with their buffers at hand. The training row of a
//! layer is forward, backward and nothing else.

#![allow(missing_docs)]

use criterion::{Criterion, criterion_group, criterion_main};
use ruvector_gnn::aggregate;
use ruvector_gnn::autograd::{Tensor, no_grad};
use ruvector_gnn::buffer::Buffer;
use ruvector_gnn::graph::Graph;
use ruvector_gnn::linalg::{MatRef, matmul_into};
use ruvector_gnn::nn::{GcnLayer, Module, RuvectorLayer, SageLayer};
use ruvector_gnn::rng::stream;
use std::hint::black_box;

const NODES: usize = 100_000;
const DEGREE: usize = 16;
const INS: usize = 128;
const OUTS: usize = 64;

fn random(len: usize, index: u64) -> Vec<f32> {
    let mut rng = stream(1, "bench", index);
    (0..len).map(|_| rng.normal() as f32).collect()
}

fn graph() -> Graph {
    let mut rng = stream(2, "bench", 0);
    let mut node = || rng.below(NODES as u64) as u32;
    let (targets, sources): (Vec<u32>, Vec<u32>) = (0..NODES * DEGREE).map(|_| (node(), node())).unzip();
    Graph::from_edges(&targets, &sources, NODES, NODES, None).unwrap()
}

fn naive_sum(graph: &Graph, x: &[f32], columns: usize, out: &mut [f32]) {
    for (node, out) in out.chunks_exact_mut(columns).enumerate() {
        out.fill(0.0);
        for &neighbor in graph.neighbors(node) {
            let row = &x[neighbor as usize * columns..][..columns];
            out.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
    }
}

fn aggregation(c: &mut Criterion) {
    let graph = graph();
    for columns in [64, 128] {
        let (x, mut out) = (Buffer::from(random(NODES * columns, 3)), Buffer::zeros(NODES * columns));
        let mut group = c.benchmark_group(format!("aggregate/{columns}"));
        group.sample_size(20);
        group.bench_function("naive", |b| b.iter(|| naive_sum(&graph, &x, columns, black_box(&mut out))));
        group.bench_function("sum", |b| {
            b.iter(|| aggregate::sum(&graph, None, &x, columns, black_box(&mut out)));
        });
        group.finish();
    }
}

/// Times `forward` without a tape, `train` with one, and the bare products `(rows, ins, outs)` and gathers (columns).
fn layer(
    c: &mut Criterion,
    name: &str,
    parameters: &[Tensor<f32>],
    (products, gathers): (&[(usize, usize)], &[usize]),
    forward: impl Fn() -> Tensor<f32>,
) {
    let graph = graph();
    let widest = 3 * INS.max(OUTS);
    let (x, w) = (Buffer::from(random(NODES * widest, 4)), random(widest * widest, 5));
    let mut out = Buffer::zeros(NODES * widest);
    let mut group = c.benchmark_group(name);
    group.sample_size(15);
    group.bench_function("floor", |b| {
        b.iter(|| {
            for &(ins, outs) in products {
                let (x, w) =
                    (MatRef::new(&x[..NODES * ins], NODES, ins), MatRef::new(&w[..ins * outs], outs, ins));
                matmul_into(x, w.t(), &mut out[..NODES * outs], false);
            }
            for &columns in gathers {
                aggregate::sum(&graph, None, &x[..NODES * columns], columns, &mut out[..NODES * columns]);
            }
        });
    });
    group.bench_function("forward", |b| {
        let _guard = no_grad();
        b.iter(|| black_box(forward()));
    });
    let seed = random(NODES * OUTS, 6);
    group.bench_function("train", |b| {
        b.iter(|| {
            parameters.iter().for_each(Tensor::zero_grad);
            forward().backward_from(Some(seed.clone().into()), false).unwrap();
        });
    });
    group.finish();
}

fn layers(c: &mut Criterion) {
    let graph = graph();
    let x = Tensor::new(random(NODES * INS, 0), &[NODES, INS]).unwrap();
    let gcn = GcnLayer::<f32>::new(INS, OUTS, true, 1).unwrap();
    let work: (&[_], &[_]) = (&[(INS, OUTS)], &[OUTS]);
    layer(c, "gcn", &gcn.parameters(), work, || gcn.forward(&x, &graph).unwrap());
    let sage = SageLayer::<f32>::new(INS, OUTS, false, 2).unwrap();
    let work: (&[_], &[_]) = (&[(INS, OUTS), (INS, OUTS)], &[OUTS]);
    layer(c, "sage", &sage.parameters(), work, || sage.forward(&x, &graph).unwrap());
    let ruvector = RuvectorLayer::<f32>::new(INS, OUTS, 4, 3).unwrap();
    let square = (OUTS, OUTS);
    // Message, then q, k, v, out, W_agg and six maps of the unit; gathers of keys, values and messages.
    let work: (&[_], &[_]) = (&[&[(INS, OUTS)][..], &[square; 11]].concat(), &[OUTS; 3]);
    layer(c, "ruvector", &ruvector.parameters(), work, || ruvector.forward(&x, &graph, None).unwrap());
}

criterion_group!(benches, aggregation, layers);
criterion_main!(benches);
