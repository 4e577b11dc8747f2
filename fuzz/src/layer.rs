//! Layers as the `ruvector` package writes them in JSON.

use crate::rng::Rng;
use crate::{Mutate, put};
use ruvector_gnn::Error;
use ruvector_gnn::autograd::{Tensor, no_grad};
use ruvector_gnn::graph::Graph;
use ruvector_gnn::nn::{Module as _, RuvectorLayer};
use ruvector_gnn::real::Real;
use serde_json::{Value, json};

/// Wider layers are only read.
const MAX_WIDTH: usize = 64;

/// Reads a layer in both precisions; one that is accepted must run on a graph, with and without a tape.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    check_in::<f32>(text);
    check_in::<f64>(text);
}

fn check_in<T: Real>(text: &str) {
    let (layer, dropout) = match RuvectorLayer::<T>::from_ruvector_json(text) {
        Ok(read) => read,
        Err(Error::Format(_)) => return,
        Err(error) => panic!("not a format error: {error}"),
    };
    assert!((0.0..1.0).contains(&dropout), "dropout is {dropout}");
    assert!(layer.norm.eps.is_finite() && layer.norm.eps >= 0.0, "eps is {}", layer.norm.eps);
    for (name, parameter) in layer.named_parameters() {
        assert!(parameter.to_vec().iter().all(|value| value.is_finite()), "{name} is not finite");
    }
    let (hidden, ins) = (layer.w_msg.weight.dims()[0], layer.w_msg.weight.dims()[1]);
    if hidden > MAX_WIDTH || ins > MAX_WIDTH {
        return;
    }
    let x: Vec<T> = (0..3 * ins).map(|at| T::of(at as f64 * 0.25 - 1.0)).collect();
    let x = Tensor::new(x, &[3, ins]).unwrap();
    let weights = [T::of(1.0), T::of(0.5), T::of(2.0)].map(|weight| weight.wide() as f32);
    for weights in [None, Some(&weights[..])] {
        let graph = Graph::from_edges(&[0, 0, 2], &[1, 2, 2], 3, 3, weights).unwrap();
        let taped = layer.forward(&x, &graph, None).unwrap();
        assert_eq!(taped.dims(), [3, hidden]);
        let _guard = no_grad();
        assert_eq!(layer.forward(&x, &graph, None).unwrap().dims(), [3, hidden]);
    }
}

/// Half of the time replaces a value of the text, which stays JSON; else leaves it to libFuzzer.
pub fn mutate(data: &mut [u8], size: usize, seed: u32, mutate: Mutate<'_>) -> usize {
    let mut rng = Rng::new(seed);
    if rng.one_in(2)
        && let Ok(mut root) = serde_json::from_slice::<Value>(&data[..size])
    {
        for _ in 0..1 + rng.below(3) {
            if rng.one_in(4) {
                resize_tensor(&mut root, &mut rng);
            } else {
                let leaves = count(&root);
                let mut left = rng.below(leaves);
                replace(&mut root, &mut left, &mut rng);
            }
        }
        if let Some(size) = put(root.to_string().as_bytes(), data) {
            return size;
        }
    }
    mutate(data, size)
}

/// Number of values, containers among them.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0usize,
    }
}

/// Replaces the value that comes after `left` others.
fn replace(value: &mut Value, left: &mut usize, rng: &mut Rng) -> bool {
    if *left == 0 {
        *value = other(value, rng);
        return true;
    }
    *left -= 1;
    match value {
        Value::Array(list) => list.iter_mut().any(|inner| replace(inner, left, rng)),
        Value::Object(fields) => fields.values_mut().any(|inner| replace(inner, left, rng)),
        _ => false,
    }
}

fn other(value: &Value, rng: &mut Rng) -> Value {
    let numbers = [0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 1e-320, 1e39, -1e39, 1.7e308, 4.3e9, 1.8e19, 9.3e18];
    match value {
        Value::Number(_) => rng.pick(&numbers.map(|number| json!(number)).each_ref()).clone(),
        Value::Array(list) if !list.is_empty() => {
            let mut list = list.clone();
            match rng.below(4) {
                0 => drop(list.pop()),
                1 => list.push(list[0].clone()),
                2 => list.clear(),
                _ => list.truncate(1),
            }
            Value::Array(list)
        }
        Value::Object(fields) if !fields.is_empty() => {
            let mut fields = fields.clone();
            let key = fields.keys().nth(rng.below(fields.len())).cloned().unwrap_or_default();
            fields.remove(&key);
            Value::Object(fields)
        }
        _ => json!(rng.pick(&[0, 1])),
    }
}

/// Gives one of the tensors of a layer another shape, with as many values as that has.
fn resize_tensor(root: &mut Value, rng: &mut Rng) {
    fn tensors<'a>(value: &'a mut Value, found: &mut Vec<&'a mut Value>) {
        if value.get("data").is_some() && value.get("dim").is_some() {
            found.push(value);
        } else if let Value::Object(fields) = value {
            fields.values_mut().for_each(|inner| tensors(inner, found));
        }
    }
    let mut found = Vec::new();
    tensors(root, &mut found);
    if found.is_empty() {
        return;
    }
    let at = rng.below(found.len());
    let dims: Vec<usize> = (0..rng.below(4)).map(|_| rng.below(4)).collect();
    let data = vec![0.5; dims.iter().product()];
    *found[at] = json!({"data": data, "dim": dims});
}

/// Layers of a few widths and heads.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let tensor = |dims: &[usize]| {
        let data: Vec<f64> =
            (0..dims.iter().product()).map(|at: usize| (at % 5) as f64 * 0.5 - 0.75).collect();
        json!({"v": 1, "dim": dims, "data": data})
    };
    let layer = |ins: usize, hidden: usize, heads: usize| {
        let linear = |ins: usize| json!({"weights": tensor(&[hidden, ins]), "bias": tensor(&[hidden])});
        json!({"layer": {
            "w_msg": linear(ins),
            "w_agg": linear(hidden),
            "attention": {"num_heads": heads, "q_linear": linear(hidden), "k_linear": linear(hidden),
                "v_linear": linear(hidden), "out_linear": linear(hidden)},
            "w_update": {"w_z": linear(hidden), "u_z": linear(hidden), "w_r": linear(hidden),
                "u_r": linear(hidden), "w_h": linear(hidden), "u_h": linear(hidden)},
            "norm": {"gamma": tensor(&[hidden]), "beta": tensor(&[hidden]), "eps": 1e-5},
            "dropout": 0.1,
        }})
    };
    let shapes = [(1, 1, 1), (3, 2, 1), (2, 2, 2), (1, 4, 2), (2, 6, 6), (0, 2, 1), (1, 0, 1)];
    let named = |&(ins, hidden, heads): &(usize, usize, usize)| {
        (format!("{ins}-{hidden}-{heads}"), layer(ins, hidden, heads).to_string().into_bytes())
    };
    shapes.iter().map(named).collect()
}
