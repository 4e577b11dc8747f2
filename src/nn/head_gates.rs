//! A learned factor per attention head, and layers with some of their heads only (Michel et al. 2019).
//!
//! A head whose gate is 0 adds nothing to the result: taking it out of the parameters changes no output.

#![forbid(unsafe_code)]

use super::init;
use crate::autograd::Tensor;
use crate::error::{Error, Result};
use crate::memory;
use crate::real::Real;

/// The gates of a layer whose heads stand side by side in its result.
#[derive(Clone, Debug)]
pub struct HeadGates<T: Real> {
    /// One factor per head that is there.
    pub values: Tensor<T>,
    /// Which of the layer's first heads these are, rising.
    pub kept: Vec<u32>,
    /// How many heads the layer had at first: the width of its result stays theirs.
    pub total: usize,
}

impl<T: Real> HeadGates<T> {
    /// All heads, each with the factor 1.
    pub fn new(heads: usize) -> Result<Self> {
        Ok(Self {
            values: init::constant(1.0, &[heads])?,
            kept: memory::collect(0..heads as u32),
            total: heads,
        })
    }

    /// From gates as they were: `kept` holds the places of as many heads, rising, among `total`.
    pub fn from_parts(values: Tensor<T>, kept: Vec<u32>, total: usize) -> Result<Self> {
        let rising = kept.windows(2).all(|pair| pair[0] < pair[1]);
        let inside = kept.last().is_some_and(|&last| (last as usize) < total);
        if *values.dims() != [kept.len()] || !rising || !inside {
            let shape = values.shape();
            return Err(Error::Shape(format!("gates of shape {shape} for the heads {kept:?} of {total}")));
        }
        Ok(Self { values, kept, total })
    }

    /// The gates of some of the heads that are there, by their places among these.
    pub fn select(&self, heads: &[u32]) -> Result<Self> {
        let values = take_heads(&self.values, 0, 1, self.kept.len(), heads)?;
        let kept = heads.iter().map(|&head| self.kept[head as usize]).collect();
        Ok(Self { values, kept, total: self.total })
    }

    /// `out (rows, kept * width)` times the gates: `(rows, total * width)`, zero where heads are missing, or for averaged
    /// heads `(rows, width)`, missing ones counting as zero.
    pub(super) fn join(&self, out: &Tensor<T>, concat: bool) -> Result<Tensor<T>> {
        let (rows, heads) = (out.dims()[0], self.kept.len());
        let width = out.dims()[1] / heads;
        let gated = out.reshape(&[rows, heads, width])?.mul(&self.values.reshape(&[heads, 1])?)?;
        if !concat {
            return gated.sum_axis(1, false)?.affine(T::of((self.total as f64).recip()), T::ZERO);
        }
        if heads == self.total {
            return gated.reshape(&[rows, heads * width]);
        }
        let missing = Tensor::zeros(&[rows, 1, width])?;
        let piece = |head: usize| match self.kept.binary_search(&(head as u32)) {
            Ok(place) => gated.slice(1, place..place + 1),
            Err(_) => Ok(missing.clone()),
        };
        let pieces: Vec<_> = (0..self.total).map(piece).collect::<Result<_>>()?;
        Tensor::concat(&pieces, 1)?.reshape(&[rows, self.total * width])
    }
}

/// The map of joined heads, `weight (out, heads * width)`, with each head's columns times its gate, `gates (heads)`.
pub(super) fn gated_map<T: Real>(
    weight: &Tensor<T>,
    gates: Option<&Tensor<T>>,
    heads: usize,
) -> Result<Tensor<T>> {
    let Some(gates) = gates else { return Ok(weight.clone()) };
    if *gates.dims() != [heads] {
        return Err(Error::Shape(format!("head_gates: shape {} for {heads} heads", gates.shape())));
    }
    let columns = weight.shape().columns();
    let row = gates.reshape(&[heads, 1])?.broadcast_to(&[heads, columns / heads])?.reshape(&[columns])?;
    weight.mul(&row)
}

/// The parameter of a layer that keeps `heads` of its `total` heads, in rising order: `axis` consists of `groups` equal
/// parts (queries, keys and values, say) of `total` equal parts each.
pub fn take_heads<T: Real>(
    parameter: &Tensor<T>,
    axis: usize,
    groups: usize,
    total: usize,
    heads: &[u32],
) -> Result<Tensor<T>> {
    let dims = parameter.dims();
    let rising = heads.windows(2).all(|pair| pair[0] < pair[1]);
    if heads.is_empty() || !rising || heads.iter().any(|&head| head as usize >= total) {
        return Err(Error::Config(format!(
            "heads must be some of {total}, rising and at least one, got {heads:?}"
        )));
    }
    if axis >= dims.len() || groups == 0 || !dims[axis].is_multiple_of(groups.saturating_mul(total)) {
        let shape = parameter.shape();
        return Err(Error::Shape(format!("{groups} x {total} heads along axis {axis} of shape {shape}")));
    }
    let piece = dims[axis] / (groups * total) * dims[axis + 1..].iter().product::<usize>();
    let values = parameter.values();
    let mut taken = memory::with_capacity(values.len() / total * heads.len());
    if piece > 0 {
        for group in values.chunks_exact(total * piece) {
            heads.iter().for_each(|&head| taken.extend_from_slice(&group[head as usize * piece..][..piece]));
        }
    }
    let mut dims = dims.to_vec();
    dims[axis] = dims[axis] / total * heads.len();
    let taken = Tensor::new(taken, &dims)?;
    taken.set_requires_grad(parameter.requires_grad())?;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn heads_are_taken_along_any_axis_and_group() {
        let values = Tensor::new((0..12).map(f64::from).collect::<Vec<_>>(), &[2, 6]).unwrap();
        assert_eq!(
            take_heads(&values, 1, 1, 3, &[0, 2]).unwrap().to_vec(),
            [0., 1., 4., 5., 6., 7., 10., 11.]
        );
        assert_eq!(take_heads(&values, 1, 2, 3, &[1]).unwrap().to_vec(), [1., 4., 7., 10.]);
        assert_eq!(take_heads(&values, 0, 1, 2, &[1]).unwrap().to_vec(), [6., 7., 8., 9., 10., 11.]);
        for heads in [&[][..], &[3], &[1, 0], &[1, 1]] {
            assert!(matches!(take_heads(&values, 1, 1, 3, heads), Err(Error::Config(_))));
        }
        assert!(matches!(take_heads(&values, 1, 1, 4, &[0]), Err(Error::Shape(_))));
        for (kept, total) in [(vec![0, 1, 2], 4), (vec![1, 1], 4), (vec![0, 4], 4)] {
            let gates = Tensor::new(vec![1.0, 1.0], &[2]).unwrap();
            assert!(matches!(HeadGates::from_parts(gates, kept, total), Err(Error::Shape(_))));
        }
    }

    #[test]
    fn missing_heads_are_as_heads_of_gate_zero() {
        let (all, out) = (HeadGates::<f64>::new(3).unwrap(), random(&[4, 6], 0));
        all.values.update(|gates| gates.copy_from_slice(&[0.5, 0.0, -2.0])).unwrap();
        let (kept, rest) = (all.select(&[0, 2]).unwrap(), take_heads(&out, 1, 1, 3, &[0, 2]).unwrap());
        for concat in [true, false] {
            let expected = all.join(&out, concat).unwrap();
            assert_eq!(kept.join(&rest, concat).unwrap().to_vec(), expected.to_vec());
            assert_eq!(expected.dims(), [4, if concat { 6 } else { 2 }]);
            gradcheck(&[rest.clone(), kept.values.clone()], |x| {
                HeadGates { values: x[1].clone(), ..kept.clone() }.join(&x[0], concat)
            })
            .unwrap();
        }
    }

    #[test]
    fn gates_scale_the_columns_of_their_heads() {
        let inputs = [random(&[2, 6], 0), random(&[3], 1)];
        gradcheck(&inputs, |x| gated_map(&x[0], Some(&x[1]), 3)).unwrap();
        let (weight, gates) = (inputs[0].to_vec(), inputs[1].to_vec());
        assert!(gated_map(&inputs[0], Some(&inputs[1]), 2).is_err());
        let got = gated_map(&inputs[0], Some(&inputs[1]), 3).unwrap().to_vec();
        assert!((0..12).all(|at| got[at] == weight[at] * gates[at % 6 / 2]));
    }
}
