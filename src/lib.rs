//! `ruvector_gnn`: vector search that learns.
//!
//! The flow, top to bottom; a module uses only what stands above it:
//!
//! ```text
//! error, memory, rng, threads,       the floor everything stands on
//!   shared, monitor, lines
//! simd -> linalg -> real, loops      kernels, matrix products; numbers and loops over them
//! buffer                             reused memory
//! storage                           section files with checksums, atomic replace
//! weights                           modules' weights in safetensors files, read or mapped
//! graph -> aggregate                CSR graphs, neighbour sums and their adjoints
//! hnsw                              the index, whose links are a graph
//! autograd -> nn, losses, optim     tensors with gradients, layers, training pieces
//! schedules                         learning rates, temperatures, curricula by the step
//! search                            soft search with gradients, level by level
//! metrics -> learn                  ranking quality; the learner that improves search
//! python                            (feature `python`) bindings without logic
//! ```

pub mod aggregate;
pub mod autograd;
pub mod buffer;
mod elementary;
pub mod error;
pub mod graph;
pub mod hnsw;
pub mod learn;
pub mod linalg;
pub mod lines;
pub mod loops;
pub mod losses;
pub mod memory;
pub mod metrics;
pub mod monitor;
pub mod nn;
pub mod number;
pub mod optim;
#[cfg(feature = "python")]
mod python;
pub mod real;
pub mod rng;
pub mod schedules;
pub mod search;
pub mod shared;
pub mod simd;
pub mod storage;
mod sync;
pub mod threads;
pub mod weights;

pub use error::{Error, Result};

/// The Rust blocks of the README are doctests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
