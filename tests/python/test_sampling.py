"""Sampling: blocks of neighbours, layer-wise sampling, random walks, and GraphSAGE on mini-batches."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import ruvector_gnn as rg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ruvector_gnn import nn


def random_graph(nodes: int, edges: int, seed: int, weighted: bool = False) -> rg.Graph:
    """Unsorted edges with duplicates and loops; the last node is isolated where there are several."""
    rng = np.random.default_rng(seed)
    index = rng.integers(0, max(nodes - 1, 1), size=(2, edges if nodes else 0))
    weights = rng.uniform(0.1, 2, index.shape[1]) if weighted else None
    return rg.Graph.from_edge_index(index, nodes, weights)


def given_edges(graph: rg.Graph) -> NDArray[np.int64]:
    """Sources and targets in the order as given."""
    given = np.empty((2, graph.num_edges), np.int64)
    given[:, graph.edge_order] = graph.to_edge_index()
    return given


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 30),
    st.integers(0, 150),
    st.lists(st.integers(0, 29), max_size=8),
    st.lists(st.sampled_from([-1, 0, 1, 3, None]), min_size=1, max_size=3),
    st.booleans(),
    st.integers(0, 99),
)
def test_blocks_are_parts_of_the_graph(
    nodes: int, edges: int, batch: list[int], fanouts: list[int | None], weighted: bool, seed: int
) -> None:
    graph = random_graph(nodes, edges, seed, weighted)
    batch = [node % nodes for node in batch]
    blocks = graph.sample(batch, fanouts, seed)
    assert len(blocks) == len(fanouts)
    np.testing.assert_array_equal(blocks[-1].target_nodes, batch)
    for outer, inner in pairwise(blocks):
        np.testing.assert_array_equal(outer.target_nodes, inner.source_nodes)
    given = given_edges(graph)
    values = np.empty(graph.num_edges, np.float32)
    if weighted:
        values[graph.edge_order] = graph.weights
    for block, fanout in zip(reversed(blocks), fanouts, strict=True):
        np.testing.assert_array_equal(block.target_nodes, block.source_nodes[: block.num_nodes])
        sources, targets = block.to_edge_index()
        ends = np.stack([block.source_nodes[sources], block.target_nodes[targets]])
        np.testing.assert_array_equal(ends, given[:, block.edge_ids])
        if weighted:
            np.testing.assert_array_equal(block.weights, values[block.edge_ids])
        limit = np.iinfo(np.int64).max if fanout in (-1, None) else fanout
        np.testing.assert_array_equal(block.degrees, np.minimum(graph.degrees[block.target_nodes], limit))
        for row in range(block.num_nodes):
            ids = block.edge_ids[block.indptr[row] : block.indptr[row + 1]]
            assert len(set(ids.tolist())) == len(ids), "drawn without replacement"
        new = block.source_nodes[block.num_nodes :]
        assert len(set(new.tolist())) == len(new)
        assert not set(new.tolist()) & set(block.target_nodes.tolist())


def test_samples_depend_on_seed_and_node_and_not_on_threads() -> None:
    graph = random_graph(3000, 40_000, 0)

    def edges(batch: list[int], seed: int) -> list[list[int]]:
        return [block.edge_ids.tolist() for block in graph.sample(batch, [4, 3], seed)]

    batch = list(range(1200))
    threads, drawn = rg.num_threads(), []
    for count in (1, 2, 4):
        rg.set_num_threads(count)
        drawn.append(edges(batch, 5))
    rg.set_num_threads(threads)
    assert drawn[0] == drawn[1] == drawn[2]
    assert drawn[0] != edges(batch, 6)
    (alone,) = graph.sample([7], [4], 5)
    (together,) = graph.sample([9, 7, 7], [4], 5)
    rows = np.split(together.edge_ids, together.indptr[1:-1])
    np.testing.assert_array_equal(rows[1], alone.edge_ids)
    np.testing.assert_array_equal(rows[2], alone.edge_ids)


def test_empty_batches_isolated_nodes_and_no_nodes() -> None:
    graph = rg.Graph.from_adjacency([[1], [0], []])
    (block,) = graph.sample([], [3])
    assert (block.num_nodes, block.num_sources, block.num_edges) == (0, 0, 0)
    (block,) = graph.sample([2], [3])
    assert (block.num_nodes, block.num_sources, block.num_edges) == (1, 1, 0)
    nothing = rg.Graph.from_adjacency([])
    assert nothing.sample([], [2])[0].num_sources == 0
    assert nothing.layer_sample([], [2])[0].num_sources == 0
    ((part, weights),) = nothing.random_walk_subgraphs(2, 3, 1)
    assert part.num_nodes == len(weights) == 0
    assert graph.layer_sample([2], [2])[0].num_edges == 0


def test_blocks_name_their_targets_and_pickle() -> None:
    graph = random_graph(20, 60, 1, weighted=True).with_node_ids(np.arange(20) * 10)
    (block,) = graph.sample([3, 5], [2], 0)
    np.testing.assert_array_equal(block.node_ids, [30, 50])
    copy = pickle.loads(pickle.dumps(block))
    assert isinstance(copy, rg.Block)
    assert repr(copy) == repr(block)
    assert copy.num_graph_nodes == 20
    for name in ("indptr", "indices", "weights", "source_nodes", "target_nodes", "edge_ids", "node_ids"):
        np.testing.assert_array_equal(getattr(copy, name), getattr(block, name))


def test_what_cannot_be_sampled_is_refused() -> None:
    graph, rectangle = random_graph(5, 9, 0), rg.Graph.from_csr([0, 1], [3], num_sources=4)
    with pytest.raises(rg.RowError, match="nodes"):
        graph.sample([5], [1])
    with pytest.raises(rg.RowError):
        graph.sample([-1], [1])
    with pytest.raises(rg.ConfigError, match="fanouts"):
        graph.sample([0], [-2])
    with pytest.raises(rg.ConfigError, match="fanouts"):
        graph.sample([0], [])
    with pytest.raises(rg.ShapeError, match="sample"):
        rectangle.sample([0], [1])
    for sizes in ([], [0], [-1]):
        with pytest.raises(rg.ConfigError, match="sizes"):
            graph.layer_sample([0], sizes)
    for options in ((0, 1, 1), (1, 1, 0), (1, -1, 1)):
        with pytest.raises(rg.ConfigError):
            graph.random_walk_subgraphs(*options)


def test_layer_sampling_estimates_the_sum_without_bias() -> None:
    graph, rng = random_graph(40, 300, 3, weighted=True), np.random.default_rng(0)
    x, batch, size = rng.normal(size=(40, 2)).astype(np.float32), [0, 7, 39, 7], 6
    whole = rg.aggregate(x, graph).numpy()[batch]
    draws = []
    for seed in range(4000):
        (block,) = graph.layer_sample(batch, [size], seed)
        assert len(set(block.indices.tolist())) <= size
        draws.append(rg.aggregate(x[block.source_nodes], block).numpy())
    mean, error = np.mean(draws, axis=0), np.std(draws, axis=0) / np.sqrt(len(draws))
    assert (np.abs(mean - whole) <= 5 * error + 1e-6).all()
    assert error[0].min() > 0, "it does sample"
    (block,) = graph.layer_sample(batch, [1000], 0)
    np.testing.assert_allclose(rg.aggregate(x[block.source_nodes], block), whole, atol=1e-5)
    outer, inner = graph.layer_sample(batch, [4, 5], 1)
    np.testing.assert_array_equal(outer.target_nodes, inner.source_nodes)


def test_walks_with_their_coefficients_are_exact_over_what_they_cover() -> None:
    graph, rng = random_graph(30, 120, 2, weighted=True), np.random.default_rng(1)
    values, x = rng.normal(size=30), rng.normal(size=(30, 2)).astype(np.float32)
    batches = graph.random_walk_subgraphs(roots=8, walk_length=3, num_batches=200, seed=4)
    held = np.zeros(30)
    loss, sums = 0.0, np.zeros((30, 2))
    for part, weights in batches:
        nodes = part.source_nodes
        assert len(nodes) == len(set(nodes.tolist())) <= 8 * 4
        held[nodes] += 1
        loss += float(weights @ values[nodes]) / len(batches)
        sums[nodes] += rg.aggregate(x[nodes], part).numpy()
    covered = held > 0
    assert loss == pytest.approx(values[covered].sum() / 30, abs=1e-5)
    # Every edge between covered nodes was met, so the averages are the sums of the whole graph.
    whole = rg.aggregate(x, graph).numpy()
    met = {edge for part, _ in batches for edge in part.edge_ids.tolist()}
    assert len(met) == graph.num_edges
    np.testing.assert_allclose((sums[covered].T / held[covered]).T, whole[covered], atol=1e-4)
    plain = graph.random_walk_subgraphs(8, 3, 2, seed=4, normalize=False)
    for (part, _), (bare, _) in zip(batches[:2], plain, strict=True):
        np.testing.assert_array_equal(part.source_nodes, bare.source_nodes)
        expected = graph.subgraph(bare.source_nodes)
        np.testing.assert_array_equal(bare.weights, expected.weights)
        np.testing.assert_array_equal(bare.edge_ids, expected.edge_ids)


def test_walks_stay_where_no_edge_leads_on() -> None:
    graph = rg.Graph.from_adjacency([[1], [], [0]])
    for part, _ in graph.random_walk_subgraphs(1, 5, 20, seed=1):
        nodes = part.source_nodes.tolist()
        assert nodes in ([0, 1], [1], [2, 0, 1])


def sage(**settings: object) -> tuple[nn.GraphSAGE, np.ndarray, rg.Graph]:
    x = np.random.default_rng(5).normal(size=(60, 6)).astype(np.float32)
    options = {"hidden_dim": 5, "sample_sizes": (-1, -1), "seed": 3, **settings}
    return nn.GraphSAGE(6, 4, **options), x, random_graph(60, 500, 7)  # type: ignore[arg-type]


@pytest.mark.parametrize("aggregator", ["mean", "sum", "max", "lstm"])
def test_with_all_neighbours_a_minibatch_is_the_whole_graph(aggregator: str) -> None:
    model, x, graph = sage(aggregator=aggregator)
    batch = [59, 3, 14, 3]
    whole = model(x, graph).numpy()
    rows = model.forward_minibatch(x, graph, batch, seed=0).numpy()
    np.testing.assert_allclose(rows, whole[batch], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    first, second = model.layers
    hidden = np.maximum(first(x, graph).numpy(), 0)
    expected = second(hidden, graph).numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(whole, expected, atol=1e-5)


def test_minibatch_gradients_are_those_of_the_whole_graph() -> None:
    model, x, graph = sage(normalize=False)
    batch, found = [59, 3, 14, 3], []
    for forward in (
        lambda x: model(x, graph).index_select(batch),
        lambda x: model.forward_minibatch(x, graph, batch, seed=0),
    ):
        model.zero_grad()
        features = rg.tensor(x, requires_grad=True)
        (forward(features) ** 2.0).sum().backward()
        found.append([features.grad, *[parameter.grad for parameter in model.parameters()]])
    for whole, part in zip(*found, strict=True):
        np.testing.assert_allclose(part, whole, atol=1e-4)
    model.zero_grad()
    (model.forward_minibatch(x, graph, batch, seed=0) ** 2.0).sum().backward()
    for whole, parameter in zip(found[0][1:], model.parameters(), strict=True):
        np.testing.assert_allclose(parameter.grad, whole, atol=1e-4)


def test_a_minibatch_reads_the_rows_it_needs_of_any_array(tmp_path: Path) -> None:
    model, x, graph = sage(sample_sizes=(3, 2))
    batch = [1, 2]
    expected = model.forward_minibatch(x, graph, batch, seed=9).numpy()
    needed = graph.sample(batch, model.sample_sizes, 9)[0].source_nodes
    broken = x.copy()
    broken[np.setdiff1d(np.arange(60), needed)] = np.nan
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=broken.shape)
    mapped[:] = broken
    half = np.memmap(tmp_path / "half", np.float16, "w+", shape=broken.shape)
    half[:] = broken
    unaligned = np.frombuffer(b"\0" + broken.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    whole = (rg.tensor(x), x.tolist())
    for features in (broken, mapped, broken.astype(float), np.asfortranarray(broken), unaligned, *whole):
        rows = model.forward_minibatch(features, graph, batch, seed=9)
        np.testing.assert_allclose(rows, expected, atol=1e-6)
    np.testing.assert_allclose(model.forward_minibatch(half, graph, batch, seed=9), expected, atol=1e-2)
    broken[needed[-1], 2] = np.inf
    for features in (broken, broken.astype(np.float64)):
        with pytest.raises(rg.ShapeError, match="finite"):
            model.forward_minibatch(features, graph, batch, seed=9)
    with pytest.raises(rg.ShapeError, match=r"\(60, d\)"):
        model.forward_minibatch(x[:59], graph, batch, seed=9)
    with pytest.raises(rg.ShapeError, match="5 columns, expected 6"):
        model.forward_minibatch(np.ascontiguousarray(x[:, :5]), graph, batch, seed=9)
    with pytest.raises(rg.ShapeError, match=r"\(8, 5\)"):
        model.forward_minibatch(x[:, :5], graph, batch, seed=9)


def test_minibatch_training_is_the_same_on_any_number_of_threads_and_learns() -> None:
    graph, rng = random_graph(2000, 20_000, 1), np.random.default_rng(0)
    x = rng.normal(size=(2000, 16)).astype(np.float32)
    labels = (rg.aggregate(x, graph, reduce="mean").numpy()[:, 0] > 0).astype(int)
    threads, results = rg.num_threads(), []
    for count in (1, 2, 4):
        rg.set_num_threads(count)
        model = nn.GraphSAGE(16, 2, hidden_dim=32, sample_sizes=(-1, 3), normalize=False, seed=1)
        optimizer, losses = rg.optim.AdamW(model.parameters(), lr=0.03), []
        for step in range(40):
            batch = np.random.default_rng(step).choice(1000, 256, replace=False)
            loss = rg.losses.cross_entropy(model.forward_minibatch(x, graph, batch, step), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        results.append([losses, *[value.tolist() for value in model.state_dict().values()]])
    rg.set_num_threads(threads)
    assert results[0] == results[1] == results[2]
    unseen = np.arange(1000, 1999)
    guess = model.forward_minibatch(x, graph, unseen, seed=0).numpy().argmax(1)
    assert (guess == labels[unseen]).mean() > 0.8, "inductive: these nodes were not trained on"


def test_settings_of_graphsage() -> None:
    model, x, graph = sage(num_layers=3)
    names = ["lin_l.weight", "lin_l.bias", "lin_r.weight"]
    assert list(model.state_dict())[:3] == [f"convs.0.{name}" for name in names]
    assert model(x, graph).shape == (60, 4)
    with pytest.raises(rg.ConfigError, match="sample_sizes"):
        model.forward_minibatch(x, graph, [0], seed=0)
    assert nn.GraphSAGE(6, 4, seed=0).layers[0].lin_l.weight.shape == (4, 6)
    with pytest.raises(rg.ConfigError, match="num_layers"):
        nn.GraphSAGE(6, 4, num_layers=0)
    with pytest.raises(rg.ConfigError, match="aggregator"):
        nn.GraphSAGE(6, 4, aggregator="median")  # type: ignore[arg-type] # the wrong value is the test
    two, x, graph = sage()
    assert two.forward_minibatch(x, graph, [], seed=0).shape == (0, 4)


def test_layers_take_blocks() -> None:
    _, x, graph = sage()
    (block,) = graph.sample([4, 59, 8], [-1])
    layer = nn.SAGELayer(6, 3, seed=0)
    whole = layer(x, graph).numpy()
    np.testing.assert_allclose(layer(x[block.source_nodes], block), whole[[4, 59, 8]], atol=1e-6)
    with pytest.raises(rg.ShapeError):
        layer(x, block)
    with pytest.raises(rg.ShapeError, match="among the sources"):
        layer(np.ones((1, 6)), rg.Graph.from_csr([0, 1, 1], [0], num_sources=1))


def test_ctrl_c_stops_long_draws():
    graph = rg.Graph.from_edge_index(np.random.default_rng(0).integers(20_000, size=(2, 200_000)), 20_000)
    # A process started in the background may ignore the signal.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    begin = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            graph.random_walk_subgraphs(roots=2000, walk_length=20, num_batches=10**9)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert time.monotonic() - begin < 5
