//! Indexing as NumPy: places, ranges with steps, new axes, and rows by number or by mask along the first axis.

#![forbid(unsafe_code)]

use crate::autograd::tape::record;
use crate::autograd::{Shape, Tensor};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::memory;
use crate::real::Real;
use std::sync::Arc;

/// One part of an index.
#[derive(Clone, Debug)]
pub enum Index {
    /// One place of an axis, which goes; counted from the end when negative.
    At(isize),
    /// `start:stop:step` of an axis, cut to its length.
    Range {
        /// First place; the end that the step walks from when `None`.
        start: Option<isize>,
        /// The place before which to stop; the other end when `None`.
        stop: Option<isize>,
        /// Not zero.
        step: isize,
    },
    /// All axes that the other parts leave.
    Ellipsis,
    /// A new axis of length 1.
    NewAxis,
    /// Places of the first axis in an array of shape `dims`, counted from the end when negative.
    Rows {
        /// The places.
        rows: Vec<i64>,
        /// The shape of their array.
        dims: Vec<usize>,
    },
    /// The set places of the first axes, whose lengths are `dims`.
    Mask {
        /// Row-major.
        mask: Vec<bool>,
        /// The shape of the mask.
        dims: Vec<usize>,
    },
}

impl Index {
    /// Axes of the tensor that this part speaks of.
    fn axes(&self) -> usize {
        match self {
            Self::Ellipsis | Self::NewAxis => 0,
            Self::At(_) | Self::Range { .. } | Self::Rows { .. } => 1,
            Self::Mask { dims, .. } => dims.len(),
        }
    }
}

/// The places `start, start + step, ..` of an axis.
#[derive(Clone, Copy)]
struct Walk {
    start: isize,
    step: isize,
    count: usize,
}

impl Walk {
    /// Python's `slice.indices`.
    fn of(start: Option<isize>, stop: Option<isize>, step: isize, length: usize) -> Result<Self> {
        let length = length as isize;
        let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
        let held =
            |place: isize| if place < 0 { place.saturating_add(length).max(low) } else { place.min(high) };
        let (first, last) = if step > 0 { (low, high) } else { (high, low) };
        let (start, stop) = (start.map_or(first, held), stop.map_or(last, held));
        let count = match step {
            0 => return Err(Error::Config("index: the step of a range must not be 0".into())),
            1.. => (stop - start).max(0).unsigned_abs().div_ceil(step.unsigned_abs()),
            _ => (start - stop).max(0).unsigned_abs().div_ceil(step.unsigned_abs()),
        };
        Ok(Self { start, step, count })
    }

    fn place(self, number: usize) -> usize {
        (self.start + number as isize * self.step) as usize
    }
}

impl<T: Real> Tensor<T> {
    /// The part of the tensor that `key` names, as NumPy's `x[key]`. Arrays are taken along the first axis only.
    ///
    /// ```
    /// use ruvector_gnn::autograd::{Index, Tensor};
    /// let x = Tensor::new(vec![1.0f32, 2.0, 3.0, 4.0], &[2, 2])?;
    /// let last = [Index::At(-1), Index::Range { start: None, stop: None, step: -1 }];
    /// assert_eq!(x.index(&last)?.to_vec(), [4.0, 3.0]);
    /// # Ok::<(), ruvector_gnn::Error>(())
    /// ```
    pub fn index(&self, key: &[Index]) -> Result<Self> {
        let named: usize = key.iter().map(Index::axes).sum();
        let dots = key.iter().filter(|part| matches!(part, Index::Ellipsis)).count();
        if named > self.dims().len() || dots > 1 {
            let message = format!("index: {named} axes and {dots} ellipses for shape {}", self.shape());
            return Err(Error::Row(message));
        }
        let (mut out, mut axis) = (self.clone(), 0);
        // The shape of the result; new axes appear in it at the end only, when others may have gone.
        let mut dims: Vec<usize> = Vec::new();
        for (number, part) in key.iter().enumerate() {
            match part {
                Index::Ellipsis => {
                    let passed = axis + self.dims().len() - named;
                    dims.extend(&out.dims()[axis..passed]);
                    axis = passed;
                }
                Index::NewAxis => dims.push(1),
                &Index::At(place) => out = out.at(axis, place)?,
                &Index::Range { start, stop, step } => {
                    let walk = Walk::of(start, stop, step, out.dims()[axis])?;
                    dims.push(walk.count);
                    (out, axis) = (out.walk(axis, walk)?, axis + 1);
                }
                Index::Rows { rows, dims: of_rows } if number == 0 => {
                    dims.extend(of_rows);
                    (out, axis) = (out.rows_at(rows)?, 1);
                }
                Index::Mask { mask, dims: of_mask } if number == 0 => {
                    out = out.rows_where(mask, of_mask)?;
                    dims.push(out.dims()[0]);
                    axis = 1;
                }
                Index::Rows { .. } | Index::Mask { .. } => {
                    return Err(Error::Config("index: an array may stand at the first axis only".into()));
                }
            }
        }
        dims.extend(&out.dims()[axis..]);
        if *out.dims() == dims[..] { Ok(out) } else { out.reshape(&dims) }
    }

    fn at(&self, axis: usize, place: isize) -> Result<Self> {
        let length = self.dims()[axis];
        let from_start = if place < 0 { place.saturating_add(length as isize) } else { place };
        if !(0..length as isize).contains(&from_start) {
            let message = format!("index: {place} is out of range for axis {axis} of shape {}", self.shape());
            return Err(Error::Row(message));
        }
        self.walk(axis, Walk { start: from_start, step: 1, count: 1 })?
            .reshape(&self.shape().reduced(axis, false))
    }

    fn rows_at(&self, rows: &[i64]) -> Result<Self> {
        let length = self.dims()[0] as i64;
        let row = |&row: &i64| match if row < 0 { row.saturating_add(length) } else { row } {
            from_start if (0..length).contains(&from_start) => Ok(from_start as u32),
            _ => Err(Error::Row(format!("index: row {row} of a tensor of shape {}", self.shape()))),
        };
        let mut chosen = memory::with_capacity(rows.len());
        for number in rows {
            chosen.push(row(number)?);
        }
        self.index_select(&chosen)
    }

    fn rows_where(&self, mask: &[bool], dims: &[usize]) -> Result<Self> {
        if dims.is_empty() || *dims != self.dims()[..dims.len()] {
            let shapes = format!("index: a mask of shape {dims:?} for shape {}", self.shape());
            return Err(Error::Row(shapes));
        }
        let rows: Vec<u32> = memory::collect((0..).zip(mask).filter(|(_, set)| **set).map(|(row, _)| row));
        let shape: Vec<usize> =
            std::iter::once(mask.len()).chain(self.dims()[dims.len()..].to_vec()).collect();
        self.reshape(&shape)?.index_select(&rows)
    }

    /// The places of a walk along `axis`.
    fn walk(&self, axis: usize, walk: Walk) -> Result<Self> {
        let (outer, length, inner) = self.shape().around(axis);
        if walk.start == 0 && walk.step == 1 && walk.count == length {
            return Ok(self.clone());
        }
        let mut dims = self.dims().to_vec();
        dims[axis] = walk.count;
        let (x, mut out) = (self.values(), Buffer::stale(outer * walk.count * inner));
        let places = move |number: usize| {
            let (block, step) = (number / walk.count, number % walk.count);
            (block * length + walk.place(step)) * inner
        };
        if inner > 0 {
            for (number, out) in out.chunks_exact_mut(inner).enumerate() {
                out.copy_from_slice(&x[places(number)..][..inner]);
            }
        }
        Ok(record("index", Arc::new(out), Shape::new(&dims)?, [self], move |grad, _| {
            let mut out = Buffer::zeros(outer * length * inner);
            if inner > 0 {
                for (number, grad) in grad.chunks_exact(inner).enumerate() {
                    out[places(number)..][..inner].copy_from_slice(grad);
                }
            }
            [Some(out)]
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    fn range(start: isize, stop: isize, step: isize) -> Index {
        Index::Range { start: Some(start), stop: Some(stop), step }
    }

    fn all() -> Index {
        Index::Range { start: None, stop: None, step: 1 }
    }

    #[test]
    fn gradients_of_every_part() {
        let x = [random(&[4, 3, 2], 0)];
        let mask = Index::Mask { mask: vec![true, false, true, true], dims: vec![4] };
        let keys = [
            vec![Index::At(-1)],
            vec![range(3, 0, -2), Index::At(1)],
            vec![Index::Ellipsis, Index::At(0), Index::NewAxis],
            vec![Index::Rows { rows: vec![2, -1, 2, 0], dims: vec![2, 2] }, range(0, 2, 1), Index::At(1)],
            vec![mask, Index::Ellipsis, range(1, 9, 1)],
            vec![all(), all(), range(-9, 9, 3)],
        ];
        for key in keys {
            gradcheck(&x, |x| x[0].index(&key)).unwrap();
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let x = random(&[4, 3], 0);
        for key in [vec![Index::At(4)], vec![Index::At(-5)], vec![all(), all(), all()]] {
            assert!(matches!(x.index(&key), Err(Error::Row(_))), "{key:?}");
        }
        let rows = || Index::Rows { rows: vec![0], dims: vec![1] };
        assert!(matches!(x.index(&[all(), rows()]), Err(Error::Config(_))));
        assert!(matches!(x.index(&[range(0, 1, 0)]), Err(Error::Config(_))));
        let mask = Index::Mask { mask: vec![true; 3], dims: vec![3] };
        assert!(matches!(x.index(&[mask]), Err(Error::Row(_))));
        assert!(matches!(x.index(&[Index::Rows { rows: vec![4], dims: vec![1] }]), Err(Error::Row(_))));
    }
}
