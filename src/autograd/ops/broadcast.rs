//! NumPy broadcasting: how two shapes meet, and how a gradient comes back to the smaller one.
//!
//! Both operands are walked along the result, with stride 0 on the axes where an operand repeats. Axes that run on
//! in both operands are merged first, so equal shapes are one long row and a bias is a row under a matrix.

#![forbid(unsafe_code)]

use crate::autograd::{CHUNK, Shape};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::memory;
use crate::real::Real;
use crate::threads;

/// Strides of one operand along the merged axes of the result.
pub(super) type Strides = [usize; 3];

/// How two operands meet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) shape: Shape,
    dims: [usize; 3],
    pub(super) left: Strides,
    pub(super) right: Strides,
}

impl Plan {
    /// Lines two shapes up at their last axes, or fails naming `op` and both.
    pub(super) fn new(op: &str, left: Shape, right: Shape) -> Result<Self> {
        let (a, b) = (aligned(left), aligned(right));
        let fits = a.iter().zip(&b).all(|(&x, &y)| x == y || x == 1 || y == 1);
        if !fits {
            return Err(Error::Shape(format!("{op}: shapes {left} and {right} do not broadcast")));
        }
        let dims: [usize; 3] = std::array::from_fn(|axis| if a[axis] == 1 { b[axis] } else { a[axis] });
        let shape = Shape::new(&dims[3 - left.len().max(right.len())..])?;
        Ok(merged(shape, dims, strides(a), strides(b)))
    }

    /// Runs `visit(offset in the piece, length, offset in the left, in the right)` over the parts of rows that make
    /// up the piece of the result from `start` with `len` values.
    fn segments(&self, start: usize, len: usize, mut visit: impl FnMut(usize, usize, usize, usize)) {
        let mut done = 0;
        while done < len {
            let (row, column) = ((start + done) / self.dims[2], (start + done) % self.dims[2]);
            let run = (self.dims[2] - column).min(len - done);
            let at = |strides: &Strides| self.offset(strides, row) + column * strides[2];
            visit(done, run, at(&self.left), at(&self.right));
            done += run;
        }
    }

    fn offset(&self, strides: &Strides, row: usize) -> usize {
        row / self.dims[1] * strides[0] + row % self.dims[1] * strides[1]
    }

    /// `f(left, right)` for each value of the result.
    pub(super) fn zip<T: Real>(&self, a: &[T], b: &[T], f: impl Fn(T, T) -> T + Sync) -> Buffer<T> {
        let mut out = Buffer::stale(self.shape.count());
        threads::for_each_chunk(&mut out, CHUNK, |chunk, out| {
            self.segments(chunk * CHUNK, out.len(), |at, run, i, j| {
                let steps = (self.left[2], self.right[2]);
                zip_run(&mut out[at..at + run], &a[i..], &b[j..], steps, &f);
            });
        });
        out
    }

    /// `f(grad, left, right)` for each value of the result, summed over the places where the operand with
    /// `strides` and `count` values repeats: that operand's gradient.
    pub(super) fn pull<T: Real>(
        &self,
        strides: &Strides,
        count: usize,
        grad: &[T],
        (a, b): (&[T], &[T]),
        f: impl Fn(T, T, T) -> T + Sync,
    ) -> Buffer<T> {
        let fill = |start: usize, out: &mut [T]| {
            self.segments(start, out.len(), |at, run, i, j| {
                let (a, b, grad) = (&a[i..], &b[j..], &grad[start + at..][..run]);
                for (k, (out, &grad)) in out[at..at + run].iter_mut().zip(grad).enumerate() {
                    *out = f(grad, a[k * self.left[2]], b[k * self.right[2]]);
                }
            });
        };
        self.fold(strides, count, fill)
    }

    /// The sum of `grad` over the places where the operand repeats.
    pub(super) fn fold_grad<T: Real>(&self, strides: &Strides, count: usize, grad: Buffer<T>) -> Buffer<T> {
        if count == grad.len() {
            return grad;
        }
        self.fold(strides, count, |start, out| out.copy_from_slice(&grad[start..][..out.len()]))
    }

    /// Sums what `fill(start, piece)` writes for pieces of the result into the operand's places. The pieces and the
    /// order of the sums depend on the shape alone.
    fn fold<T: Real>(
        &self,
        strides: &Strides,
        count: usize,
        fill: impl Fn(usize, &mut [T]) + Sync,
    ) -> Buffer<T> {
        let total = self.shape.count();
        if count == total {
            let mut out = Buffer::stale(total);
            threads::for_each_chunk(&mut out, CHUNK, |chunk, out| fill(chunk * CHUNK, out));
            return out;
        }
        if total == 0 {
            return Buffer::zeros(count);
        }
        if count == 1 {
            let partial = threads::map_init(
                total.div_ceil(CHUNK),
                || memory::vec![T::ZERO; CHUNK],
                |scratch, piece| {
                    let start = piece * CHUNK;
                    let scratch = &mut scratch[..CHUNK.min(total - start)];
                    fill(start, scratch);
                    vec![sum(scratch)]
                },
            );
            return tree(partial).into();
        }
        self.fold_rows(strides, count, &fill)
    }

    /// [`fold`](Self::fold) by bands of rows; each band sums into its own copy of the operand's places.
    fn fold_rows<T: Real>(
        &self,
        strides: &Strides,
        count: usize,
        fill: &(impl Fn(usize, &mut [T]) + Sync),
    ) -> Buffer<T> {
        let [outer, inner, columns] = self.dims;
        if (outer == 1 || strides[0] != 0) && (inner == 1 || strides[1] != 0) {
            return fold_columns(count, columns, fill);
        }
        // A band stays within one value of the first axis, unless that axis repeats too.
        let (groups, rows) = if strides[0] == 0 { (1, outer * inner) } else { (outer, inner) };
        let places = count / groups;
        let band = (CHUNK.max(4 * places) / columns).clamp(1, rows);
        let bands = rows.div_ceil(band);
        let partial = threads::map(groups * bands, |piece| {
            let (group, first) = (piece / bands, piece % bands * band);
            let mut sums = memory::vec![T::ZERO; places];
            let mut scratch = memory::vec![T::ZERO; columns];
            for row in group * rows + first..group * rows + (first + band).min(rows) {
                fill(row * columns, &mut scratch);
                let at = self.offset(strides, row) - group * strides[0];
                if strides[2] == 0 {
                    sums[at] += sum(&scratch);
                } else {
                    sums[at..at + columns].iter_mut().zip(&scratch).for_each(|(sum, &value)| *sum += value);
                }
            }
            sums
        });
        let mut partial = partial.into_iter();
        let mut out = memory::with_capacity(count);
        for _ in 0..groups {
            out.extend(tree(partial.by_ref().take(bands).collect()));
        }
        out.into()
    }
}

/// [`Plan::fold`] where only columns repeat: each row sums into its own place.
fn fold_columns<T: Real>(rows: usize, columns: usize, fill: &(impl Fn(usize, &mut [T]) + Sync)) -> Buffer<T> {
    let mut out = Buffer::stale(rows);
    let band = (CHUNK / columns).max(1);
    threads::for_each_chunk(&mut out, band, |piece, out| {
        let mut scratch = memory::vec![T::ZERO; columns];
        for (row, out) in out.iter_mut().enumerate() {
            fill((piece * band + row) * columns, &mut scratch);
            *out = sum(&scratch);
        }
    });
    out
}

fn zip_run<T: Real>(out: &mut [T], a: &[T], b: &[T], steps: (usize, usize), f: &impl Fn(T, T) -> T) {
    match steps {
        (0, 0) => out.fill(f(a[0], b[0])),
        (0, _) => out.iter_mut().zip(b).for_each(|(out, &b)| *out = f(a[0], b)),
        (_, 0) => out.iter_mut().zip(a).for_each(|(out, &a)| *out = f(a, b[0])),
        _ => out.iter_mut().zip(a.iter().zip(b)).for_each(|(out, (&a, &b))| *out = f(a, b)),
    }
}

/// A sum over eight lanes, in a fixed order.
#[inline(always)]
pub(in crate::autograd) fn sum<T: Real>(values: &[T]) -> T {
    let mut lanes = [T::ZERO; 8];
    let (eights, rest) = values.as_chunks::<8>();
    for eight in eights {
        lanes.iter_mut().zip(eight).for_each(|(lane, &value)| *lane += value);
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, &value)| *lane += value);
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// The sum of vectors, by a tree over their order.
pub(in crate::autograd) fn tree<T: Real>(mut parts: Vec<Vec<T>>) -> Vec<T> {
    while parts.len() > 1 {
        let mut next = memory::with_capacity(parts.len().div_ceil(2));
        let mut pairs = parts.into_iter();
        while let Some(mut left) = pairs.next() {
            if let Some(right) = pairs.next() {
                left.iter_mut().zip(right).for_each(|(left, right)| *left += right);
            }
            next.push(left);
        }
        parts = next;
    }
    parts.pop().unwrap_or_default()
}

fn aligned(shape: Shape) -> [usize; 3] {
    let mut dims = [1; 3];
    dims[3 - shape.len()..].copy_from_slice(&shape);
    dims
}

fn strides(dims: [usize; 3]) -> Strides {
    let full = [dims[1] * dims[2], dims[2], 1];
    std::array::from_fn(|axis| if dims[axis] == 1 { 0 } else { full[axis] })
}

/// Merges axes that run on in both operands, towards the last.
fn merged(shape: Shape, dims: [usize; 3], left: Strides, right: Strides) -> Plan {
    let mut axes: Vec<(usize, usize, usize)> = memory::with_capacity(3);
    for axis in 0..3 {
        let next = (dims[axis], left[axis], right[axis]);
        if next.0 == 1 {
            continue;
        }
        match axes.last_mut() {
            Some(last) if last.1 == next.0 * next.1 && last.2 == next.0 * next.2 => {
                *last = (last.0 * next.0, next.1, next.2);
            }
            _ => axes.push(next),
        }
    }
    while axes.len() < 3 {
        axes.insert(0, (1, 0, 0));
    }
    // A row of one value still has to be walked with a stride: any does, and 0 stays inside.
    Plan {
        shape,
        dims: std::array::from_fn(|i| axes[i].0),
        left: std::array::from_fn(|i| axes[i].1),
        right: std::array::from_fn(|i| axes[i].2),
    }
}
