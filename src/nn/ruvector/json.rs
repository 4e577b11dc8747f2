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
                heads: attention.at("num_heads")?.size()?,
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
                eps: norm
                    .at("eps")?
                    .number_in("a number from 0 on", |eps| eps >= 0.0 && T::of(eps).is_finite())?,
            },
        };
        loaded.check_json_shapes()?;
        Ok((loaded, layer.at("dropout")?.number_in("a rate in [0, 1)", |rate| (0.0..1.0).contains(&rate))?))
    }

    /// Every map but the first takes `hidden` to `hidden`, and the heads divide it.
    fn check_json_shapes(&self) -> Result<()> {
        use crate::nn::Module as _;
        let (hidden, ins) = match self.w_msg.weight.dims() {
            &[hidden, ins] if hidden > 0 && ins > 0 => (hidden, ins),
            dims => {
                let message =
                    format!("w_msg.weight has shape {dims:?}, expected (hidden, in), both positive");
                return Err(Error::Format(format!("ruvector JSON: {message}")));
            }
        };
        for (name, parameter) in self.named_parameters() {
            let expected: &[usize] = match name.as_str() {
                "w_msg.weight" => &[hidden, ins],
                "norm.weight" => &[hidden],
                map if map.ends_with(".weight") => &[hidden, hidden],
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

    fn wrong(&self, expected: &str) -> Error {
        Error::Format(format!("ruvector JSON: {} is not {expected}", self.path))
    }

    fn number_in(&self, expected: &str, is_valid: impl Fn(f64) -> bool) -> Result<f64> {
        self.value.as_f64().filter(|&number| is_valid(number)).ok_or_else(|| self.wrong(expected))
    }

    fn size(&self) -> Result<usize> {
        size(self.value).ok_or_else(|| self.wrong("a whole number"))
    }

    fn list<U>(&self, expected: &str, read: impl Fn(&Value) -> Option<U>) -> Result<Vec<U>> {
        let list = self.value.as_array().and_then(|list| list.iter().map(read).collect());
        list.ok_or_else(|| self.wrong(expected))
    }

    fn tensor<T: Real>(&self) -> Result<Tensor<T>> {
        let number = |value: &Value| value.as_f64().map(T::of).filter(|number| number.is_finite());
        let values = self.at("data")?.list("a list of numbers", number)?;
        let dims = self.at("dim")?.list("a list of whole numbers", size)?;
        Tensor::parameter(values, &dims)
            .map_err(|error| Error::Format(format!("ruvector JSON: {}: {error}", self.path)))
    }

    fn linear<T: Real>(&self) -> Result<Linear<T>> {
        Ok(Linear { weight: self.at("weights")?.tensor()?, bias: Some(self.at("bias")?.tensor()?) })
    }
}

fn size(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|size| usize::try_from(size).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_wrong_is_named() {
        let message = |text: &str| RuvectorLayer::<f32>::from_ruvector_json(text).unwrap_err().to_string();
        assert!(message("{").starts_with("ruvector JSON: EOF"));
        assert_eq!(message("{}"), "ruvector JSON: layer is missing");
        let broken = r#"{"layer": {"attention": {}, "w_update": {}, "norm": {},
            "w_msg": {"weights": {"data": [1, "x"], "dim": [1, 2]}}}}"#;
        assert_eq!(message(broken), "ruvector JSON: layer.w_msg.weights.data is not a list of numbers");
    }

    /// A layer of one input, two hidden values and one head.
    fn layer() -> Value {
        let tensor = |dims: &[usize]| json!({"data": vec![0.5; dims.iter().product()], "dim": dims});
        let linear = |ins: usize| json!({"weights": tensor(&[2, ins]), "bias": tensor(&[2])});
        let maps = |names: &[&str]| names.iter().map(|&name| (name.to_owned(), linear(2))).collect::<Value>();
        let mut attention = maps(&["q_linear", "k_linear", "v_linear", "out_linear"]);
        attention["num_heads"] = json!(1);
        json!({"layer": {
            "w_msg": linear(1), "w_agg": linear(2), "attention": attention,
            "w_update": maps(&["w_z", "u_z", "w_r", "u_r", "w_h", "u_h"]),
            "norm": {"gamma": tensor(&[2]), "beta": tensor(&[2]), "eps": 1e-5}, "dropout": 0.1,
        }})
    }

    #[test]
    fn layers_that_could_not_run_are_refused() {
        let read = |root: &Value| RuvectorLayer::<f32>::from_ruvector_json(&root.to_string());
        assert_eq!(read(&layer()).unwrap().1, 0.1);
        let tensor = |data: Value, dims: Value| json!({"data": data, "dim": dims});
        let whole = "is not a list of whole numbers";
        for (place, value, message) in [
            ("w_agg/weights", tensor(json!([1, 1]), json!([2])), "w_agg.weight has shape"),
            ("w_agg/bias", tensor(json!([1, 1, 1, 1]), json!([2, 2])), "w_agg.bias has shape"),
            ("norm/gamma", tensor(json!([1, 1, 1, 1]), json!([2, 2])), "norm.weight has shape"),
            ("w_msg/weights", tensor(json!([1, 1]), json!([2])), "w_msg.weight has shape"),
            ("w_msg/weights", tensor(json!([]), json!([2, 0])), "w_msg.weight has shape"),
            ("w_msg/weights", tensor(json!([]), json!([0, 1])), "w_msg.weight has shape"),
            ("w_agg/weights/dim", json!([2.5, 2]), whole),
            ("w_agg/weights/dim", json!([-1, 2]), whole),
            ("w_agg/weights/data", json!([1, 1, 1, 1e39]), "data is not a list of numbers"),
            ("attention/num_heads", json!(0.5), "num_heads is not a whole number"),
            ("attention/num_heads", json!(0), "0 heads"),
            ("norm/eps", json!(-1), "eps is not"),
            ("norm/eps", json!(1e39), "eps is not"),
            ("dropout", json!(1), "dropout is not a rate in [0, 1)"),
        ] {
            let mut root = layer();
            *root.pointer_mut(&format!("/layer/{place}")).unwrap() = value;
            let error = read(&root).unwrap_err();
            assert!(matches!(&error, Error::Format(text) if text.contains(message)), "{place}: {error}");
        }
    }
}
