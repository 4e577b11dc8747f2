//! Optimizers on 10 million parameters beside the floor: `cargo bench --bench optim`.
//!
//! The floor reads a parameter, its gradient and two moments, and writes all but the gradient: the traffic of Adam with
//! hardly any arithmetic.

#![allow(missing_docs)]

mod turns;

use ruvector_gnn::autograd::Tensor;
use ruvector_gnn::buffer::Buffer;
use ruvector_gnn::optim::{Adam, AdamOptions, AdamW, AdamWOptions, Optimizer, Sgd, SgdOptions};
use ruvector_gnn::threads;
use std::hint::black_box;
use turns::in_turns;

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

fn main() {
    let momentum = SgdOptions { momentum: 0.9, ..Default::default() };
    let optimizers: [(&str, Box<dyn Optimizer<f32>>); 3] = [
        ("adamw", Box::new(AdamW::new(vec![parameter()], AdamWOptions::default()).unwrap())),
        ("adam", Box::new(Adam::new(vec![parameter()], AdamOptions::default()).unwrap())),
        ("sgd", Box::new(Sgd::new(vec![parameter()], momentum).unwrap())),
    ];
    let mut floor = Floor::new();
    for (name, mut optimizer) in optimizers {
        let step = &mut || optimizer.step().unwrap();
        in_turns(name, 41, &[0], &mut [("floor", &mut || floor.run()), ("step", step)]);
    }
}
