//! Layers at 100,000 nodes, average degree 16, 128 -> 64, beside the floor: `cargo bench --bench layers`.
//!
//! On a random graph and on that of nearest neighbours. The floor of a layer is the time of its products and of a bare
//! loop's gathers alone, with their buffers at hand; beside it, the same with our own gathers. The quotients are forward :
//! floor and step : forward. `cargo bench --bench layers -- gat/ sage` times those alone.

#![allow(missing_docs, unsafe_code)]

mod turns;

use ndarray::Array2;
use ruvector_gnn::aggregate;
use ruvector_gnn::autograd::{Tensor, no_grad};
use ruvector_gnn::buffer::Buffer;
use ruvector_gnn::graph::Graph;
use ruvector_gnn::hnsw::{HnswIndex, Metric, Params};
use ruvector_gnn::linalg::{MatRef, matmul_into};
use ruvector_gnn::monitor::Silent;
use ruvector_gnn::nn::{GatLayer, GatV2Layer, GcnLayer, Module, RuvectorLayer, SageLayer};
use ruvector_gnn::optim::{AdamW, AdamWOptions, Optimizer};
use ruvector_gnn::rng::stream;
use ruvector_gnn::threads;
use std::hint::black_box;
use turns::in_turns;

const NODES: usize = 100_000;
const DEGREE: usize = 16;
const INS: usize = 128;
const OUTS: usize = 64;

const ROUNDS: usize = 41;

/// Rows per task of a bare loop.
const BAND: usize = 128;

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

/// What a bare loop needs for the sum over neighbours: the sum in registers, on all threads, without prefetching.
fn bare_sum(graph: &Graph, x: &[f32], columns: usize, out: &mut [f32]) {
    match columns {
        8 => bare_sum_of::<8>(graph, x, out),
        64 => bare_sum_of::<64>(graph, x, out),
        128 => bare_sum_of::<128>(graph, x, out),
        _ => panic!("no bare loop of {columns} columns"),
    }
}

fn bare_sum_of<const COLUMNS: usize>(graph: &Graph, x: &[f32], out: &mut [f32]) {
    #[inline(always)]
    fn rows<const COLUMNS: usize>(
        graph: &Graph,
        x: &[[f32; COLUMNS]],
        first: usize,
        out: &mut [[f32; COLUMNS]],
    ) {
        for (node, out) in out.iter_mut().enumerate() {
            let mut sum = [0.0; COLUMNS];
            for &neighbor in graph.neighbors(first + node) {
                let row = &x[neighbor as usize];
                for at in 0..COLUMNS {
                    sum[at] += row[at];
                }
            }
            *out = sum;
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn rows_avx512<const COLUMNS: usize>(
        graph: &Graph,
        x: &[[f32; COLUMNS]],
        first: usize,
        out: &mut [[f32; COLUMNS]],
    ) {
        rows(graph, x, first, out);
    }
    let x = x.as_chunks().0;
    threads::for_each_chunk(out.as_chunks_mut().0, BAND, |band, out| {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the set.
            return unsafe { rows_avx512::<COLUMNS>(graph, x, band * BAND, out) };
        }
        rows::<COLUMNS>(graph, x, band * BAND, out);
    });
}

fn aggregation(graph: &Graph) {
    for columns in [64, 128] {
        let x = Buffer::from(random(NODES * columns, 3));
        let (mut bare, mut ours) = (Buffer::zeros(NODES * columns), Buffer::zeros(NODES * columns));
        in_turns(
            &format!("aggregate/{columns}"),
            ROUNDS,
            &[0],
            &mut [
                ("bare loop", &mut || bare_sum(graph, &x, columns, black_box(&mut bare))),
                ("sum", &mut || aggregate::sum(graph, None, &x, columns, black_box(&mut ours))),
            ],
        );
    }
}

/// What a layer can't do without: products `(ins, outs)` and gathers of so many columns.
struct Floor<'a> {
    products: &'a [(usize, usize)],
    gathers: &'a [usize],
}

impl Floor<'_> {
    fn run(&self, graph: &Graph, x: &[f32], w: &[f32], out: &mut [f32], sum: Sum) {
        for &(ins, outs) in self.products {
            let (x, w) =
                (MatRef::new(&x[..NODES * ins], NODES, ins), MatRef::new(&w[..ins * outs], outs, ins));
            matmul_into(x, w.t(), &mut out[..NODES * outs], false);
        }
        for &columns in self.gathers {
            sum(graph, &x[..NODES * columns], columns, &mut out[..NODES * columns]);
        }
        black_box(out);
    }
}

/// Of rows with so many columns over neighbours.
type Sum = fn(&Graph, &[f32], usize, &mut [f32]);

/// Times the floor, `forward` without a tape, and a training step (forward, backward, AdamW).
fn layer(
    title: &str,
    graph: &Graph,
    floor: Floor<'_>,
    parameters: Vec<Tensor<f32>>,
    forward: impl Fn() -> Tensor<f32>,
) {
    let widest = INS.max(OUTS);
    let (x, w) = (Buffer::from(random(NODES * widest, 4)), random(widest * widest, 5));
    let (mut out, mut own) = (Buffer::zeros(NODES * widest), Buffer::zeros(NODES * widest));
    let seed = Buffer::from(random(NODES * OUTS, 6));
    let mut optimizer = AdamW::new(parameters, AdamWOptions::default()).unwrap();
    in_turns(
        title,
        ROUNDS,
        &[0, 0, 2],
        &mut [
            ("floor", &mut || floor.run(graph, &x, &w, &mut out, bare_sum)),
            ("floor, our gathers", &mut || {
                floor.run(graph, &x, &w, &mut own, |graph, x, columns, out| {
                    aggregate::sum(graph, None, x, columns, out);
                });
            }),
            ("forward", &mut || {
                let _guard = no_grad();
                black_box(forward());
            }),
            ("step", &mut || {
                optimizer.zero_grad();
                forward().backward_from(Some(seed.clone()), false).unwrap();
                optimizer.step().unwrap();
            }),
        ],
    );
}

/// The 16 nearest of 100,000 clustered vectors each: what an index's own graph is like.
fn nearest() -> Graph {
    let mut rng = stream(3, "bench", 0);
    let centres = Array2::from_shape_fn((1000, 32), |_| rng.normal() as f32);
    let which: Vec<usize> = (0..NODES).map(|_| rng.below(1000) as usize).collect();
    let vectors =
        Array2::from_shape_fn((NODES, 32), |(i, j)| centres[[which[i], j]] + 0.5 * rng.normal() as f32);
    let mut index = HnswIndex::new(32, Params { metric: Metric::L2, ..Params::default() }).unwrap();
    index.add(vectors.view(), &mut Silent).unwrap();
    let hits = index.search(vectors.view(), DEGREE, Some(32), None).unwrap();
    let sources: Vec<u32> = hits.rows.iter().map(|&row| row as u32).collect();
    let targets: Vec<u32> = (0..NODES as u32).flat_map(|node| [node; DEGREE]).collect();
    Graph::from_edges(&targets, &sources, NODES, NODES, None).unwrap()
}

fn main() {
    aggregation(&graph());
    let x = Tensor::new(random(NODES * INS, 0), &[NODES, INS]).unwrap();
    let x = &x;
    for (kind, graph) in [("random", graph()), ("nearest", nearest())] {
        let graph = &graph;
        let (wide, square) = ((INS, OUTS), (OUTS, OUTS));
        let gcn = GcnLayer::<f32>::new(INS, OUTS, true, 1).unwrap();
        let floor = Floor { products: &[wide], gathers: &[OUTS] };
        layer(&format!("{kind}/gcn"), graph, floor, gcn.parameters(), || gcn.forward(x, graph).unwrap());
        let first = SageLayer::<f32>::new(INS, OUTS, false, 2).unwrap();
        let second = SageLayer::<f32>::new(OUTS, OUTS, false, 3).unwrap();
        let floor = Floor { products: &[wide, wide, square, square], gathers: &[OUTS; 2] };
        let both = [first.parameters(), second.parameters()].concat();
        layer(&format!("{kind}/sage, 2 layers"), graph, floor, both, || {
            second.forward(&first.forward(x, graph).unwrap().relu().unwrap(), graph).unwrap()
        });
        let gat = GatLayer::<f32>::new(INS, 8, 8, None, 4).unwrap();
        // The features and, by two attention vectors a head, their scores; gathers of weights and features.
        let floor = Floor { products: &[wide, (OUTS, 16)], gathers: &[OUTS, 8] };
        layer(&format!("{kind}/gat"), graph, floor, gat.parameters(), || {
            gat.forward(x, graph, None, None).unwrap()
        });
        let gatv2 = GatV2Layer::<f32>::new(INS, 8, 8, None, 5).unwrap();
        let floor = Floor { products: &[wide; 2], gathers: &[OUTS; 2] };
        layer(&format!("{kind}/gatv2"), graph, floor, gatv2.parameters(), || {
            gatv2.forward(x, graph, None, None).unwrap()
        });
        let ruvector = RuvectorLayer::<f32>::new(INS, OUTS, 4, 6).unwrap();
        // Message, then q, k, v, out, W_agg and six maps of the unit; gathers of keys, values and messages.
        let products = [&[wide][..], &[square; 11]].concat();
        let floor = Floor { products: &products, gathers: &[OUTS; 3] };
        layer(&format!("{kind}/ruvector"), graph, floor, ruvector.parameters(), || {
            ruvector.forward(x, graph, None).unwrap()
        });
    }
}
