"""What every layer over a graph must keep, whatever it computes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ruvector_gnn as rg
from ruvector_gnn import nn

Make = Callable[[int], nn.Module]


def within(got: Any, expected: Any, tolerance: float) -> None:
    """`max|a - b| <= tolerance * max(1, max|b|)`."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max(initial=0) <= tolerance * max(1.0, np.abs(expected).max(initial=0))


def problem(nodes: int = 40, edges: int = 150, dim: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, edges with duplicates and loops, weights; the last node is isolated."""
    rng = np.random.default_rng(0)
    index = rng.integers(0, nodes - 1, size=(2, edges))
    return rng.normal(size=(nodes, dim)), index, rng.uniform(0.1, 2, edges)


def assert_layer(make: Make, folder: Path, width: int, simple: bool = False) -> None:
    """Check a layer from 5 to `width` values; `simple` keeps to graphs without duplicate edges."""
    x, index, weights = problem()
    if simple:
        index, first = np.unique(index, axis=1, return_index=True)
        weights = weights[first]
    layer, order = make(3).eval(), np.random.default_rng(1).permutation(index.shape[1])
    graph = rg.Graph.from_edge_index(index, len(x), weights)
    y = layer(x, graph).numpy()
    assert y.shape == (len(x), width)
    assert np.isfinite(y).all(), "an isolated node must not give NaN"
    shuffled = rg.Graph.from_edge_index(index[:, order], len(x), weights[order])
    within(layer(x, shuffled), y, 1e-6)
    strided = np.repeat(x, 2, axis=1)[:, ::2]
    within(layer(strided, graph), y, 0)
    within(layer(np.asfortranarray(x), graph), y, 0)
    within(layer(x.tolist(), graph), y, 0)
    within(layer(rg.tensor(x), graph), y, 0)
    within(layer(x.astype(np.float16), graph), y, 2e-2)
    assert_state(make, layer, folder, lambda other: other(x, graph))
    assert_refusals(layer, x, graph)
    alone = rg.Graph.from_adjacency([[]])
    assert np.isfinite(layer(x[:1], alone).numpy()).all(), "a single node without edges"
    assert layer(x[:0], rg.Graph.from_adjacency([])).shape == (0, width)


def assert_state(make: Make, layer: nn.Module, folder: Path, run: Callable[[nn.Module], rg.Tensor]) -> None:
    """The state goes through dictionaries, files and pickles, bit for bit."""
    y, state = run(layer).numpy(), layer.state_dict()
    assert layer.num_parameters() == sum(value.size for value in state.values())
    assert type(layer).__name__ in repr(layer)
    by_state, by_file = make(4).eval(), make(5).eval()
    by_state.load_state_dict(state)
    within(run(by_state), y, 0)
    layer.save_weights(folder / "layer.safetensors")
    by_file.load_weights(folder / "layer.safetensors")
    within(run(by_file), y, 0)
    mapped = make(6).eval()
    mapped.load_weights(folder / "layer.safetensors", mmap=True)
    within(run(mapped), y, 0)
    again = pickle.loads(pickle.dumps(layer))
    within(run(again), y, 0)
    trained = [parameter.requires_grad for parameter in layer.parameters()]
    assert [parameter.requires_grad for parameter in again.parameters()] == trained


def assert_refusals(layer: nn.Module, x: np.ndarray, graph: rg.Graph) -> None:
    """Wrong widths, wrong counts and NaN are named."""
    with pytest.raises(rg.ShapeError):
        layer(x[:, :4], graph)
    with pytest.raises(rg.ShapeError):
        layer(x[:10], graph)
    with pytest.raises(rg.ShapeError, match="finite"):
        layer(np.where(x == x[0, 0], np.nan, x), graph)


def assert_same_bits_on_any_threads(make: Make) -> None:
    """Forward and backward give the same bits on 1, 2 and 4 threads."""
    x, index, weights = problem(3000, 20_000)
    before, results = rg.num_threads(), []
    try:
        for threads in (1, 2, 4):
            rg.set_num_threads(threads)
            rg.manual_seed(9)  # of what is drawn in training
            layer, graph = make(3), rg.Graph.from_edge_index(index, len(x), weights)
            features = rg.tensor(x, requires_grad=True)
            y = layer(features, graph)
            (y * y).mean().backward()
            grads = [p.grad.numpy() for p in layer.parameters() if p.grad is not None]
            results.append([y.numpy(), features.grad.numpy(), *grads])
    finally:
        rg.set_num_threads(before)
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(first, second)
