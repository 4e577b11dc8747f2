//! Loops in plain Rust, compiled once for each instruction set and chosen at run time.
//!
//! Where [`simd`](crate::simd) names registers, these leave it to the compiler to find them: they hold the exponentials and
//! gates of attention and recurrent units, over rows that are in the cache. Nothing is reordered or fused, so all sets
//! give the same bits.
//!
//! ```text
//! softmax    over the edges of a node, head by head
//! factored   additive attention without an exponential per edge
//! edges      scores of additive attention from the terms of sources, targets and edges
//! units      gates of recurrent units, normalization of rows, messages of a softmax aggregation
//! ```

#![allow(unsafe_code)]
// Several rows are read at the same place; iterators over four of them hide that.
#![allow(clippy::needless_range_loop)]

/// Values per pass over scores: a register of the widest set.
const LANES: usize = 16;

/// Stands for `sum alpha dalpha` of a node with a single edge, whose weight is 1 whatever its score: no sum of products is
/// the largest `f32`.
pub fn lone<T: Real>() -> T {
    T::of(f64::from(f32::MAX))
}

/// Defines functions whose body is compiled for each set; generics stand in brackets, first declared, then passed on.
macro_rules! vectorized {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident[$($declared:tt)*][$($passed:tt)*]
        ($($argument:ident: $kind:ty),* $(,)?) $body:block)*) => {$(
        $(#[$meta])*
        $vis fn $name<$($declared)*>($($argument: $kind),*) {
            #[inline(always)]
            fn body<$($declared)*>($($argument: $kind),*) $body
            #[cfg(all(feature = "simd", target_arch = "x86_64"))]
            {
                #[target_feature(enable = "avx2,fma")]
                fn avx2<$($declared)*>($($argument: $kind),*) {
                    body::<$($passed)*>($($argument),*);
                }
                #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512<$($declared)*>($($argument: $kind),*) {
                    body::<$($passed)*>($($argument),*);
                }
                match crate::simd::kernels().isa {
                    // SAFETY: kernels() has seen that the processor has the set.
                    crate::simd::Isa::Avx2 => return unsafe { avx2::<$($passed)*>($($argument),*) },
                    // SAFETY: as above.
                    crate::simd::Isa::Avx512 => return unsafe { avx512::<$($passed)*>($($argument),*) },
                    _ => {}
                }
            }
            body::<$($passed)*>($($argument),*);
        }
    )*};
}

/// Calls `$f::<T, HEADS>($arguments)` with the number of heads known to the compiler where it is a usual one, else
/// `$f::<T, 0>`, which reads it from the last argument.
macro_rules! by_heads {
    ($heads:expr, $f:ident($($argument:expr),*)) => {
        match $heads {
            1 => $f::<T, 1>($($argument),*, 1),
            2 => $f::<T, 2>($($argument),*, 2),
            4 => $f::<T, 4>($($argument),*, 4),
            8 => $f::<T, 8>($($argument),*, 8),
            16 => $f::<T, 16>($($argument),*, 16),
            heads => $f::<T, 0>($($argument),*, heads),
        }
    };
}

mod edges;
mod factored;
mod softmax;
mod units;

pub use edges::*;
pub use factored::*;
pub use softmax::*;
pub use units::*;

use crate::real::{Real, larger};

/// A sum in eight lanes.
#[inline(always)]
pub fn sum<T: Real>(values: &[T]) -> T {
    let (eights, rest) = values.as_chunks::<8>();
    let mut lanes = [T::ZERO; 8];
    for eight in eights {
        for lane in 0..8 {
            lanes[lane] += eight[lane];
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += value;
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// The largest of `values` and `first`, in sixteen lanes.
#[inline(always)]
pub fn largest_of<T: Real>(values: &[T], first: T) -> T {
    let (registers, rest) = values.as_chunks::<LANES>();
    let mut lanes = [first; LANES];
    for register in registers {
        for lane in 0..LANES {
            lanes[lane] = larger(lanes[lane], register[lane]);
        }
    }
    lanes.iter().chain(rest).fold(first, |max, &value| larger(max, value))
}

/// Work that [`run`] compiles for each set; its `run` is `#[inline(always)]`.
pub trait Task {
    /// Does it.
    fn run(self);
}

vectorized! {
    /// Runs a task.
    pub fn run[K: Task][K](task: K) {
        task.run();
    }
}
