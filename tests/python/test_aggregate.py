"""Aggregations over graphs and segments against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import ruvector_gnn as rg
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_tensor import VALUES, close


def by_node(array: np.ndarray, groups: np.ndarray, count: int, reduce: str) -> np.ndarray:
    """The definition of an aggregation, row by row."""
    out = np.zeros((count, array.shape[1]))
    for group in range(count):
        rows = array[groups == group].astype(np.float64)
        if len(rows):
            shares = np.exp(rows - rows.max(0))
            softmax = (shares / shares.sum(0) * rows).sum(0)
            plain = {"sum": rows.sum, "mean": rows.mean, "max": rows.max}
            out[group] = softmax if reduce == "softmax" else plain[reduce](0)
    return out


@settings(deadline=None)
@given(
    array=hnp.arrays(np.float32, st.tuples(st.integers(0, 12), st.integers(0, 20)), elements=VALUES),
    count=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_aggregations_match_their_definitions(array: np.ndarray, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, count, len(array))
    for name in ("sum", "mean", "max"):
        close(getattr(rg, f"segment_{name}")(array, groups, count), by_node(array, groups, count, name), 5e-6)
    sources = rng.integers(0, max(len(array), 1), len(array))
    nodes = max(len(array), count)
    features = np.zeros((nodes, array.shape[1]), np.float32)
    features[: len(array)] = array
    weights = rng.uniform(-2, 2, len(array)).astype(np.float32)
    for given_weights in (None, weights):
        graph = rg.Graph.from_edge_index([sources, groups], nodes, given_weights)
        messages = features[sources] * (1 if given_weights is None else weights[:, None])
        for name in ("sum", "mean", "max", "softmax"):
            expected = by_node(messages, groups, nodes, name)
            close(rg.aggregate(features, graph, reduce=name), expected, 5e-6)
            if given_weights is not None:
                bare = rg.Graph.from_edge_index([sources, groups], nodes)
                ordered = weights[bare.edge_order]
                close(rg.aggregate(features, bare, reduce=name, weights=ordered), expected, 5e-6)


def test_wrong_aggregations_name_themselves() -> None:
    graph = rg.Graph.from_adjacency([[1], [0]])
    with pytest.raises(rg.ShapeError, match=r"aggregate: x of shape \(3, 1\) over a graph of 2 nodes"):
        rg.aggregate(np.ones((3, 1)), graph, "max")
    with pytest.raises(rg.ConfigError, match="sum, mean, max or softmax"):
        rg.aggregate(np.ones((2, 1)), graph, "median")  # type: ignore[arg-type] # the wrong value is the test
    with pytest.raises(rg.ShapeError, match="segment_max"):
        rg.segment_max(np.ones((2, 1)), [0], 1)
    with pytest.raises(rg.RowError, match="segment_max: segment 1 of 1"):
        rg.segment_max(np.ones((1, 1)), [1], 1)
