//! Weights that the `ruvector` package's `GnnLayer.to_json()` wrote.
//!
//! Maps hold `weights` and `bias`, each `{"data": [..], "dim": [..]}` in row-major order; the norm holds `gamma`, `beta` and
//! `eps`.

#![forbid(unsafe_code)]

use super::{NeighborAttention, RuvectorLayer};
use crate::autograd::Tensor;
use crate::error::{Error, Result};
use crate::nn::{GruCell, LayerNorm, Linear};
use crate::real::Real;
use serde_json::Value;

impl<T: Real> RuvectorLayer<T> {
    /// The layer that the text describes, and its dropout rate.
    pub fn from_ruvector_json(text: &str) -> Result<(Self, f64)> {
        let root: Value =
            serde_json::from_str(text).map_err(|error| Error::Format(format!("ruvector JSON: {error}")))?;
        let file = Place { value: &root, path: String::new() };
        let layer = file.at("layer")?;
        let (attention, update, norm) = (layer.at("attention")?, layer.at("w_update")?, layer.at("norm")?);
        let gate = |name: &str| update.at(name)?.linear();
        let loaded = Self {
            w_msg: layer.at("w_msg")?.linear()?,
            w_agg: layer.at("w_agg")?.linear()?,
            attention: NeighborAttention {
                q: attention.at("q_linear")?.linear()?,
                k: attention.at("k_linear")?.linear()?,
                v: attention.at("v_linear")?.linear()?,
                out: attention.at("out_linear")?.linear()?,
                heads: attention.at("num_heads")?.number()? as usize,
                head_gates: None,
            },
            w_update: GruCell {
                w_z: gate("w_z")?,
                u_z: gate("u_z")?,
                w_r: gate("w_r")?,
                u_r: gate("u_r")?,
                w_h: gate("w_h")?,
                u_h: gate("u_h")?,
            },
            norm: LayerNorm {
                weight: norm.at("gamma")?.tensor()?,
                bias: norm.at("beta")?.tensor()?,
                eps: norm.at("eps")?.number()?,
            },
        };
        loaded.check_json_shapes()?;
        Ok((loaded, layer.at("dropout")?.number()?))
    }

    /// Every map but the first takes `hidden` to `hidden`, and the heads divide it.
    fn check_json_shapes(&self) -> Result<()> {
        use crate::nn::Module as _;
        let (hidden, ins) = self.w_msg.weight.shape().matrix("ruvector JSON", "w_msg.weights")?;
        for (name, parameter) in self.named_parameters() {
            let expected: &[usize] = match parameter.dims().len() {
                2 if name == "w_msg.weight" => &[hidden, ins],
                2 => &[hidden, hidden],
                _ => &[hidden],
            };
            if parameter.dims() != expected {
                let message = format!("{name} has shape {}, expected {expected:?}", parameter.shape());
                return Err(Error::Format(format!("ruvector JSON: {message}")));
            }
        }
        let heads = self.attention.heads;
        if heads == 0 || !hidden.is_multiple_of(heads) {
            return Err(Error::Format(format!("ruvector JSON: {heads} heads do not divide {hidden}")));
        }
        Ok(())
    }
}

/// A value of the file and the way to it.
struct Place<'a> {
    value: &'a Value,
    path: String,
}

impl<'a> Place<'a> {
    fn at(&self, key: &str) -> Result<Place<'a>> {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        match self.value.get(key) {
            Some(value) => Ok(Place { value, path }),
            None => Err(Error::Format(format!("ruvector JSON: {path} is missing"))),
        }
    }

    fn number(&self) -> Result<f64> {
        let number = self.value.as_f64();
        number.ok_or_else(|| Error::Format(format!("ruvector JSON: {} is not a number", self.path)))
    }

    fn numbers(&self) -> Result<Vec<f64>> {
        let list = self.value.as_array();
        let numbers = list.and_then(|list| list.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>());
        numbers.ok_or_else(|| Error::Format(format!("ruvector JSON: {} is not a list of numbers", self.path)))
    }

    fn tensor<T: Real>(&self) -> Result<Tensor<T>> {
        let values: Vec<T> = self.at("data")?.numbers()?.into_iter().map(T::of).collect();
        let dims: Vec<usize> = self.at("dim")?.numbers()?.into_iter().map(|dim| dim as usize).collect();
        Tensor::parameter(values, &dims)
            .map_err(|error| Error::Format(format!("ruvector JSON: {}: {error}", self.path)))
    }

    fn linear<T: Real>(&self) -> Result<Linear<T>> {
        Ok(Linear { weight: self.at("weights")?.tensor()?, bias: Some(self.at("bias")?.tensor()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        let message = |text: &str| RuvectorLayer::<f32>::from_ruvector_json(text).unwrap_err().to_string();
        assert!(message("{").starts_with("ruvector JSON: EOF"));
        assert_eq!(message("{}"), "ruvector JSON: layer is missing");
        let broken = r#"{"layer": {"attention": {}, "w_update": {}, "norm": {},
            "w_msg": {"weights": {"data": [1, "x"], "dim": [1, 2]}}}}"#;
        assert_eq!(message(broken), "ruvector JSON: layer.w_msg.weights.data is not a list of numbers");
    }
}
