"""Research layers: against NumPy, against PyTorch's layer where it has one, and what each must keep."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import ruvector_gnn as rg
from assert_layer import assert_layer, assert_same_bits_on_any_threads, assert_state, problem, within
from hypothesis import given, settings
from hypothesis import strategies as st
from ruvector_gnn import nn
from scipy.linalg import expm

GOLDEN = np.load(Path(__file__).resolve().parents[1] / "golden" / "research.npz")

LAYERS: dict[str, tuple[int, Callable[[int], nn.Module]]] = {
    "transformer": (5, lambda seed: nn.GraphTransformerLayer(5, 5, pe_dim=3, seed=seed)),
    "transformer plain": (
        5,
        lambda seed: nn.GraphTransformerLayer(5, 1, 7, pe_dim=0, dropout=0.1, seed=seed),
    ),
    "sparse": (5, lambda seed: nn.SparseAttentionLayer(5, 5, num_global=3, seed=seed)),
    "sparse gates": (
        5,
        lambda seed: nn.SparseAttentionLayer(5, 5, 1, dropout=0.2, head_gates=True, seed=seed),
    ),
    "poincare": (3, lambda seed: nn.PoincareLayer(5, 3, seed=seed)),
    "poincare curved": (4, lambda seed: nn.PoincareLayer(5, 4, 0.3, "tanh", bias=False, seed=seed)),
    "poincare points": (
        3,
        lambda seed: nn.Sequential(
            nn.PoincareLayer(5, 4, seed=seed), nn.PoincareLayer(4, 3, inputs="points", seed=seed)
        ),
    ),
    "ode": (5, lambda seed: nn.NeuralODELayer(5, seed=seed)),
    "ode field": (5, lambda seed: nn.NeuralODELayer(5, nn.GraphConv(5, 5, seed=seed), time=0.2, steps=2)),
    "experts": (4, lambda seed: nn.MixtureOfExpertsLayer(5, 4, num_experts=3, top_k=2, seed=seed)),
    "expert": (4, lambda seed: nn.MixtureOfExpertsLayer(5, 4, num_experts=2, top_k=1, seed=seed)),
    "gat gates": (8, lambda seed: nn.GATLayer(5, 4, num_heads=2, head_gates=True, seed=seed)),
    "gatv2 gates": (
        3,
        lambda seed: nn.GATv2Layer(5, 3, num_heads=2, concat_heads=False, head_gates=True, seed=seed),
    ),
    "attention gates": (5, lambda seed: nn.MultiheadAttention(5, 5, head_gates=True, seed=seed)),
    "ruvector gates": (8, lambda seed: nn.RuvectorLayer(5, 8, num_heads=2, head_gates=True, seed=seed)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer(name: str, tmp_path: Path) -> None:
    width, make = LAYERS[name]
    assert_layer(make, tmp_path, width)


@pytest.mark.parametrize("name", LAYERS)
def test_bits_do_not_depend_on_the_number_of_threads(name: str) -> None:
    assert_same_bits_on_any_threads(LAYERS[name][1])


def differences(loss: Callable[[], float], array: np.ndarray, at: tuple[int, ...], step: float) -> float:
    kept = array[at]
    values = []
    for sign in (1, -1):
        array[at] = kept + sign * step
        values.append(loss())
    array[at] = kept
    return (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_point_along_differences(name: str) -> None:
    """The public path: float32, so coarse; the Rust tests check every layer in float64."""
    x, index, weights = problem(12, 30)
    x, graph = x.astype(np.float32), rg.Graph.from_edge_index(index, len(x), weights)
    layer = LAYERS[name][1](3).eval()
    factors = np.random.default_rng(5).normal(size=(len(x), LAYERS[name][0]))

    def loss() -> float:
        return float((layer(x, graph).numpy().astype(float) * factors).sum())

    features = rg.tensor(x, requires_grad=True)
    (layer(features, graph) * factors).sum().backward()
    gradient = features.grad.numpy()
    for at in [(0, 0), (3, 2), (11, 4)]:
        expected = differences(loss, x, at, 1e-2)
        assert gradient[at] == pytest.approx(expected, abs=2e-2 * max(1.0, float(np.abs(gradient).max())))


# Full attention


def test_without_encodings_it_is_pytorchs_layer() -> None:
    layer = nn.GraphTransformerLayer(8, num_heads=2, ffn_dim=12, pe_dim=0)
    state = {key.removeprefix("param/"): GOLDEN[key] for key in GOLDEN.files if key.startswith("param/")}
    layer.load_state_dict(state)
    x = rg.tensor(GOLDEN["x"], requires_grad=True)
    batch, graph = GOLDEN["batch"], rg.Graph.from_adjacency([[]] * len(GOLDEN["x"]))
    y = layer(x, graph, batch)
    within(y, GOLDEN["y"], 1e-5)
    y.backward(GOLDEN["grad_y"])
    within(x.grad, GOLDEN["grad_x"], 1e-4)
    for key, parameter in layer.named_parameters():
        within(parameter.grad, GOLDEN[f"grad/{key}"], 1e-4)


def test_a_batch_is_its_graphs_one_by_one() -> None:
    rng = np.random.default_rng(0)
    graphs = [rg.Graph.from_edge_index(rng.integers(0, n, (2, 3 * n)), n) for n in (7, 1, 90, 12)]
    both, batch = rg.Graph.batch(graphs)
    x, order = rng.normal(size=(both.num_nodes, 8)), rng.permutation(both.num_nodes)
    ends = np.cumsum([0, *(graph.num_nodes for graph in graphs)])
    for layer in (nn.GraphTransformerLayer(8, 2, pe_dim=3, seed=0), nn.SparseAttentionLayer(8, 2, seed=0)):
        layer.eval()
        together = layer(x, both, batch).numpy()
        for number, graph in enumerate(graphs):
            own = slice(ends[number], ends[number + 1])
            within(layer(x[own], graph), together[own], 1e-5)
        # Nodes in any order, with their graphs' numbers beside them.
        place = np.argsort(order)
        shuffled = rg.Graph.from_edge_index(place[both.to_edge_index()], both.num_nodes)
        if isinstance(layer, nn.SparseAttentionLayer):
            within(layer(x[order], shuffled, batch[order] * 5), together[order], 1e-5)
        else:
            pe = both.laplacian_positional_encoding(3)
            within(layer(x[order], shuffled, batch[order] * 5, pe[order]), together[order], 1e-5)
    with pytest.raises(rg.ShapeError, match="batch"):
        nn.SparseAttentionLayer(8, 2)(x, both, batch[:3])
    with pytest.raises(rg.RowError):
        nn.GraphTransformerLayer(8, 2, pe_dim=0)(x, both, batch - 1)


def test_encodings_are_eigenvectors_of_each_part() -> None:
    rng = np.random.default_rng(0)
    index = rng.integers(0, 40, (2, 160))
    graph = rg.Graph.from_edge_index(np.concatenate([index, index[::-1]], axis=1), 43)
    pe = graph.laplacian_positional_encoding(4)
    laplacian = graph.laplacian().toarray()
    assert (pe[40:] == 0).all()
    values = np.diag(pe.T @ laplacian @ pe)
    within(laplacian @ pe, pe * values, 1e-5)
    within(pe.T @ pe, np.eye(4), 1e-5)
    within(values, np.linalg.eigvalsh(laplacian[:40, :40])[1:5], 1e-5)
    assert (pe[np.abs(pe).argmax(0), range(4)] > 0).all()
    alone = rg.Graph.from_edge_index(np.concatenate([index, index[::-1]], axis=1), 40)
    both, _ = rg.Graph.batch([rg.Graph.from_adjacency([[1], [0]]), alone])
    within(np.abs(both.laplacian_positional_encoding(4)[2:]), np.abs(pe[:40]), 1e-4)
    assert both.laplacian_positional_encoding(4)[:2, 1:].any() == 0
    assert rg.Graph.from_adjacency([]).laplacian_positional_encoding(2).shape == (0, 2)
    path = rg.Graph.from_adjacency(
        [[n for n in (node - 1, node + 1) if 0 <= n < 3000] for node in range(3000)]
    )
    exact = 1 - np.cos(np.pi * np.arange(4) / 2999)
    within(path.laplacian_eigenvalues(4), exact, 1e-8)
    large = rg.Graph.from_edge_index(rng.integers(0, 900, (2, 9000)), 900)
    vectors, matrix = large.laplacian_positional_encoding(2), large.laplacian()
    within(matrix @ vectors, vectors * np.diag(vectors.T @ (matrix @ vectors)), 1e-4)
    with pytest.raises(rg.ConfigError):
        graph.laplacian_positional_encoding(0)
    with pytest.raises(rg.ConfigError, match="negative"):
        rg.Graph.from_edge_index([[0], [1]], 2, [-1.0]).laplacian_positional_encoding(1)


def test_signs_are_drawn_in_training_alone() -> None:
    x, index, _ = problem()
    graph, layer = rg.Graph.from_edge_index(index, len(x)), nn.GraphTransformerLayer(5, 5, pe_dim=4, seed=0)
    drawn = {layer(x, graph).numpy().tobytes() for _ in range(20)}
    assert 4 < len(drawn) <= 16
    layer.flip_signs = False
    kept = layer(x, graph).numpy()
    np.testing.assert_array_equal(layer.eval()(x, graph), kept)
    assert kept.tobytes() in drawn
    with pytest.raises(rg.ConfigError, match="pe_dim"):
        nn.GraphTransformerLayer(5, 5, pe_dim=0)(x, graph, pe=x)
    for wrong in (x, x[:, :1], x[:1, :4], x[0, :4]):
        with pytest.raises(rg.ShapeError, match="pe of shape"):
            layer(x, graph, pe=wrong)
    with pytest.raises(rg.ShapeError, match="x has 1 columns"):
        layer(x[:, :1], graph)


@given(sizes=st.lists(st.integers(1, 70), min_size=1, max_size=3), heads=st.sampled_from([1, 2, 4]))
@settings(max_examples=20, deadline=None)
def test_full_attention_is_that_of_numpy(sizes: list[int], heads: int) -> None:
    rng = np.random.default_rng(sum(sizes))
    layer = nn.MultiheadAttention(8, heads, seed=1)
    outer = nn.GraphTransformerLayer(8, heads, pe_dim=0, seed=1).eval()
    outer.self_attn.load_state_dict(layer.state_dict())
    x, batch = rng.normal(size=(sum(sizes), 8)), np.repeat(np.arange(len(sizes)), sizes)
    attended = np.concatenate([layer(part).numpy() for part in np.split(x, np.cumsum(sizes)[:-1])])
    u = outer.norm1(x + attended)
    expected = outer.norm2(u + outer.linear2(outer.linear1(u).relu()))
    within(outer(x, rg.Graph.from_adjacency([[]] * len(x)), batch), expected, 1e-5)


def test_sparse_attention_is_that_of_numpy() -> None:
    x, index, _ = problem()
    graph, layer = rg.Graph.from_edge_index(index, len(x)), nn.SparseAttentionLayer(5, 5, 2, seed=1).eval()
    tokens = layer.tokens + layer.gather(layer.tokens, x)
    seen = np.zeros((len(x), len(x) + 2), dtype=int)
    np.add.at(seen, (index[1], index[0]), 1)
    np.fill_diagonal(seen, 1)
    seen[:, -2:] = 1
    sources = np.concatenate([x, tokens.numpy()])
    maps = [
        rows @ weight.T + bias
        for rows, weight, bias in zip(
            (x, sources, sources),
            np.split(layer.self_attn.in_proj_weight.numpy(), 3),
            np.split(layer.self_attn.in_proj_bias.numpy(), 3),
            strict=True,
        )
    ]
    # Width 1 per head: scores are products of numbers.
    scores = maps[0][:, None] * maps[1][None]
    weights = np.exp(scores) * seen[:, :, None]
    weights /= weights.sum(axis=1, keepdims=True)
    attended = layer.self_attn.out_proj((weights * maps[2][None]).sum(axis=1))
    u = layer.norm1(x + attended.numpy())
    within(layer(x, graph), layer.norm2(u + layer.linear2(layer.linear1(u).relu())), 1e-5)


# Gates


@pytest.mark.parametrize("name", [name for name in LAYERS if "gates" in name])
def test_pruning_needs_gates_and_changes_no_output(name: str, tmp_path: Path) -> None:
    x, index, weights = problem()
    graph = rg.Graph.from_edge_index(index, len(x), weights)
    layer = LAYERS[name][1](3).eval()
    heads, before = layer.num_heads, layer.num_parameters()
    layer.head_gates.copy_(np.linspace(0, 1, heads, dtype=np.float32))
    y, names = layer(x, graph).numpy(), list(layer.state_dict())
    kept = layer.prune_heads()
    assert kept == layer.kept_heads == list(range(1, heads))
    assert layer.num_heads == len(kept)
    assert layer.num_parameters() < before
    assert list(layer.state_dict()) == names, "parameters keep their order"
    within(layer(x, graph), y, 1e-6)
    with rg.no_grad():
        within(layer(x, graph), y, 1e-6)
    (layer(x, graph) ** 2).sum().backward()
    without = [name for name, parameter in layer.named_parameters() if parameter.grad is None]
    assert without == (["attention.k.bias"] if "ruvector" in name else []), "which the softmax does not see"
    within(pickle.loads(pickle.dumps(layer))(x, graph), y, 1e-6)

    def pruned(seed: int) -> nn.Module:
        other = LAYERS[name][1](seed)
        other.select_heads(kept)
        return other

    assert_state(pruned, layer, tmp_path, lambda other: other(x, graph))
    assert layer.prune_heads(keep=1) == [heads - 1]
    assert layer.prune_heads(threshold=1e9) == [heads - 1], "one always stays"
    with pytest.raises(rg.ConfigError):
        layer.prune_heads(keep=0)
    with pytest.raises(rg.ConfigError):
        layer.select_heads([heads])
    with pytest.raises(rg.ConfigError):
        layer.select_heads([])
    with pytest.raises(TypeError):
        layer.select_heads([float(heads - 1)])
    holder = layer if "head_gates" in layer._parameters else layer._attention()
    holder.head_gates = nn.Parameter(np.ones(3))
    with pytest.raises(rg.ShapeError, match="gates"):
        layer(x, graph)


def test_layers_without_gates_keep_their_heads() -> None:
    for layer in (nn.GATLayer(4, 2), nn.MultiheadAttention(4, 2), nn.RuvectorLayer(4, 4, 2)):
        assert "head_gates" not in "".join(layer.state_dict())
        for prune in (layer.prune_heads, lambda layer=layer: layer.select_heads([0])):
            with pytest.raises(rg.ConfigError, match="head_gates=True"):
                prune()


def test_a_penalty_leaves_the_heads_that_matter() -> None:
    """One head suffices for this task: the penalty finds that out, and pruning costs nothing."""
    rng = np.random.default_rng(0)
    index = rng.integers(0, 200, (2, 1200))
    graph, x = rg.Graph.from_edge_index(index, 200), rng.normal(size=(200, 8)).astype(np.float32)
    target = rg.aggregate(x, graph.add_self_loops(), "mean").numpy()[:, :1]
    layer = nn.GATLayer(8, 1, num_heads=8, concat_heads=False, head_gates=True, seed=0)
    optimizer = rg.optim.Adam(layer.parameters(), lr=0.02)
    for _ in range(400):
        loss = ((layer(x, graph) - target) ** 2).mean() + 0.003 * layer.head_gates.abs().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    before = float(((layer(x, graph).numpy() - target) ** 2).mean())
    assert len(layer.prune_heads(threshold=0.05)) < 8
    after = float(((layer(x, graph).numpy() - target) ** 2).mean())
    assert after < before + 0.01 < 0.2 * target.var()


# Hyperbolic space


def ball(rng: np.random.Generator, shape: tuple[int, ...], c: float) -> np.ndarray:
    directions = rng.normal(size=shape)
    lengths = rng.uniform(0, 0.8 / np.sqrt(c), (*shape[:-1], 1))
    return directions / np.linalg.norm(directions, axis=-1, keepdims=True) * lengths


def add(x: np.ndarray, y: np.ndarray, c: float) -> np.ndarray:
    xy, xx, yy = ((a * b).sum(-1, keepdims=True) for a, b in ((x, y), (x, x), (y, y)))
    return ((1 + 2 * c * xy + c * yy) * x + (1 - c * xx) * y) / (1 + 2 * c * xy + c * c * xx * yy)


@given(seed=st.integers(0, 10_000), c=st.sampled_from([0.25, 1.0, 3.0]), dim=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_the_ball_is_that_of_numpy(seed: int, c: float, dim: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = ball(rng, (7, dim), c), ball(rng, (7, dim), c)
    within(nn.mobius_add(x, y, c), add(x, y, c), 1e-4)
    gap = np.linalg.norm(add(-x, y, c), axis=-1)
    expected = 2 / np.sqrt(c) * np.arctanh(np.minimum(np.sqrt(c) * gap, 1 - 1e-12))
    within(nn.poincare_distance(x, y, c), expected, 2e-3)
    norms = np.linalg.norm(x, axis=-1, keepdims=True)
    tangents = np.arctanh(np.sqrt(c) * norms) / (np.sqrt(c) * norms) * x
    within(nn.poincare_log(x, c), tangents, 1e-3)
    within(nn.poincare_exp(tangents, c), x, 1e-4)


def test_points_stay_inside_and_layers_are_their_equation() -> None:
    x, index, weights = problem()
    graph, c = rg.Graph.from_edge_index(index, len(x), weights), 0.5
    layer = nn.PoincareLayer(5, 3, c, "tanh", seed=0)
    layer.bias.copy_(np.array([0.3, -0.2, 0.1], np.float32))
    far = layer(1e6 * x, graph)
    assert np.linalg.norm(far.numpy(), axis=1).max() < 1 / np.sqrt(c)
    far.sum().backward()
    assert np.isfinite(layer.lin.weight.grad.numpy()).all()

    def exp(v: np.ndarray) -> np.ndarray:
        r = np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-12)
        return np.tanh(np.sqrt(c) * r) / (np.sqrt(c) * r) * v

    x = 0.3 * x
    points = add(exp(x @ layer.lin.weight.numpy().T), exp(layer.bias.numpy())[None], c)
    factors = 2 / (1 - c * (points**2).sum(1, keepdims=True))
    matrix = graph.add_self_loops().to_scipy()
    middle = (matrix @ (factors * points)) / (matrix @ (factors - 1))
    middle = middle / (1 + np.sqrt(1 - c * (middle**2).sum(1, keepdims=True)))
    r = np.linalg.norm(middle, axis=1, keepdims=True)
    expected = exp(np.tanh(np.arctanh(np.sqrt(c) * r) / (np.sqrt(c) * r) * middle))
    within(layer(x, graph), expected, 1e-4)
    within(nn.poincare_midpoint(points, graph.add_self_loops(), c), middle, 1e-4)


def test_points_outside_and_wrong_settings_are_refused() -> None:
    graph = rg.Graph.from_adjacency([[1], [0]])
    # Where sums are taken, points outside count as the nearest inside.
    inside = nn.poincare_exp([[9.0, 0.0], [0.1, 0.0]]).numpy()
    within(nn.mobius_add([[1.0, 0.0]], [[-2.0, 0.0]]), [[0.0, 0.0]], 1e-6)
    within(
        nn.poincare_midpoint([[1.5, 0.0], [0.1, 0.0]], graph),
        nn.poincare_midpoint(np.concatenate([inside[:1], [[0.1, 0.0]]]), graph),
        1e-6,
    )
    within(nn.poincare_exp([[1e30, 0.0]]), inside[:1], 1e-6)
    near = np.array([[1e-8, 0.0], [1e-6, 0.0], [1e-4, 0.0]])
    np.testing.assert_allclose(nn.poincare_distance(near, 0 * near), 2 * near[:, 0], rtol=1e-5)
    with pytest.raises(rg.ShapeError, match="row 1 has norm"):
        nn.PoincareLayer(2, 2, inputs="points")([[0.1, 0.1], [2.0, 0.0]], graph)
    with pytest.raises(rg.ConfigError, match="negative"):
        nn.PoincareLayer(2, 2)([[0.1, 0.1]] * 2, rg.Graph.from_edge_index([[0], [1]], 2, [-1.0]))
    for wrong in (
        lambda: nn.PoincareLayer(2, 2, curvature=0.0),
        lambda: nn.PoincareLayer(2, 2, inputs="rows"),  # type: ignore[arg-type] # the wrong value is the test
        lambda: nn.PoincareLayer(2, 2, activation="swish"),
        lambda: nn.GraphTransformerLayer(6, 4),
        lambda: nn.GraphTransformerLayer(8, 4, pe_dim=-1),
        lambda: nn.SparseAttentionLayer(8, 4, num_global=0),
        lambda: nn.NeuralODELayer(2, steps=0),
        lambda: nn.NeuralODELayer(2, abs),  # type: ignore[arg-type] # the wrong value is the test
        lambda: nn.EGNNLayer(2, 2, edge_dim=0),
        lambda: nn.MixtureOfExpertsLayer(2, 2, 2, 3),
        lambda: nn.MixtureOfExpertsLayer(2, 2, 2, 0),
    ):
        with pytest.raises(rg.ConfigError):
            wrong()


def test_a_tree_fits_the_ball_better_than_the_plane() -> None:
    """A binary tree's distances, embedded in two dimensions either way with the same steps."""
    parents = [(node - 1) // 2 for node in range(63)]
    graph = rg.Graph.from_adjacency([[parents[node]] if node else [] for node in range(63)])
    both = graph.to_edge_index()
    graph = rg.Graph.from_edge_index(np.concatenate([both, both[::-1]], axis=1), 63)
    apart = np.stack([graph.distances(node, 64) for node in range(63)]).astype(float)
    rows, columns = np.triu_indices(63, 1)

    def error(distance: Callable[[rg.Tensor, rg.Tensor], rg.Tensor]) -> float:
        start = np.random.default_rng(0).normal(size=(63, 2)).astype(np.float32)
        x = nn.Parameter(0.1 * start)
        optimizer = rg.optim.Adam([x], lr=0.02)
        for _ in range(400):
            found = distance(x.index_select(rows), x.index_select(columns))
            loss = ((found / apart[rows, columns] - 1) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    def hyperbolic(x: rg.Tensor, y: rg.Tensor) -> rg.Tensor:
        return nn.poincare_distance(nn.poincare_exp(x), nn.poincare_exp(y))

    assert error(hyperbolic) < 0.5 * error(lambda x, y: (x - y).norm())


# Continuous depth


class Linear(nn.Module):
    def forward(self, h: rg.Tensor, graph: rg.Graph) -> rg.Tensor:
        return rg.aggregate(h, graph, "sum")


def test_a_linear_field_gives_the_matrix_exponential() -> None:
    x, index, _ = problem(10, 20, 3)
    graph = rg.Graph.from_edge_index(index, 10, np.full(20, 0.1))
    exact = expm(graph.to_scipy().toarray() * 1.5) @ x
    errors = [
        np.abs(nn.NeuralODELayer(3, Linear(), time=1.5, steps=steps)(x, graph).numpy() - exact).max()
        for steps in (1, 2, 8)
    ]
    assert errors[0] > 4 * errors[1]
    assert errors[2] < 1e-5
    there = nn.NeuralODELayer(3, Linear(), time=1.5, steps=8)(x, graph)
    within(nn.NeuralODELayer(3, Linear(), time=-1.5, steps=8)(there, graph), x, 1e-4)


def test_what_a_field_raises_is_raised() -> None:
    class Broken(nn.Module):
        def forward(self, h: rg.Tensor, graph: rg.Graph) -> rg.Tensor:
            raise KeyError("lost")

    class Narrow(nn.Module):
        def forward(self, h: rg.Tensor, graph: rg.Graph) -> rg.Tensor:
            return h[:, :1]

    graph = rg.Graph.from_adjacency([[1], [0]])
    with pytest.raises(KeyError, match="lost"):
        nn.NeuralODELayer(2, Broken())([[1.0, 2.0]] * 2, graph)
    with pytest.raises(rg.ShapeError, match="the field gives"):
        nn.NeuralODELayer(2, Narrow())([[1.0, 2.0]] * 2, graph)


# Coordinates


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize("edge_dim", [None, 2])
def test_egnn_is_its_equation(edge_dim: int | None, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, index, _ = problem()
    pos, features = rng.normal(size=(len(x), 3)), rng.normal(size=(index.shape[1], 2))
    layer = nn.EGNNLayer(5, 4, 6, edge_dim, seed=0)
    layer.coord_mlp[2].weight.copy_(rng.normal(size=(1, 6)).astype(np.float32))
    given, state = (features if edge_dim else None), layer.state_dict()
    assert len(state) == 11

    def mlp(name: str, rows: np.ndarray, end: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        first = silu(rows @ state[f"{name}.0.weight"].T + state[f"{name}.0.bias"])
        return end(first @ state[f"{name}.2.weight"].T + state.get(f"{name}.2.bias", 0.0))

    sources, targets = index
    gaps = pos[targets] - pos[sources]
    rows = [x[targets], x[sources], (gaps**2).sum(1, keepdims=True), *([features] if edge_dim else [])]
    messages = mlp("edge_mlp", np.concatenate(rows, axis=1), silu)
    moves, sums = np.zeros((len(x), 3)), np.zeros((len(x), 6))
    np.add.at(moves, targets, gaps * mlp("coord_mlp", messages, np.asarray))
    np.add.at(sums, targets, messages)
    counts = np.maximum(np.bincount(targets, minlength=len(x)), 1)[:, None]
    graph = rg.Graph.from_edge_index(index, len(x))
    h, moved = layer(x, graph, pos, given)
    within(moved, pos + moves / counts, 1e-5)
    within(h, mlp("node_mlp", np.concatenate([x, sums], axis=1), np.asarray), 1e-5)
    assert_state(
        lambda seed: nn.EGNNLayer(5, 4, 6, edge_dim, seed=seed),
        layer,
        tmp_path,
        lambda other: rg.concat(other(x, graph, pos, given), axis=1),
    )

    order = rng.permutation(index.shape[1])
    shuffled = rg.Graph.from_edge_index(index[:, order], len(x))
    again, followed = layer(x, shuffled, pos, None if given is None else given[order])
    within(again, h, 1e-5)
    within(followed, moved, 1e-5)
    alone = rg.Graph.from_adjacency([[]])
    within(layer(x[:1], alone, pos[:1], None if given is None else given[:0])[1], pos[:1], 1e-7)
    with pytest.raises(rg.ConfigError, match="edge_dim"):
        layer(x, graph, pos, None if edge_dim else features)
    with pytest.raises(rg.ShapeError):
        layer(x, graph, pos[:4], given)
    with pytest.raises(rg.ShapeError):
        layer(x[:, :4], graph, pos, given)
    with pytest.raises(rg.ShapeError, match="finite"):
        layer(x, graph, np.where(pos == pos[0, 0], np.inf, pos), given)


@given(seed=st.integers(0, 1000), dim=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_egnn_follows_every_motion(seed: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    x, index, _ = problem(12, 40)
    graph, layer = rg.Graph.from_edge_index(index, 12), nn.EGNNLayer(5, 4, seed=seed)
    layer.coord_mlp[2].weight.copy_(rng.normal(size=(1, 4)).astype(np.float32))
    pos, by = rng.normal(size=(12, dim)), rng.normal(size=dim)
    turn, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    h, moved = layer(x, graph, pos)
    other, followed = layer(x, graph, pos @ turn + by)
    within(other, h, 1e-4)
    within(followed, moved.numpy() @ turn + by, 1e-4)


# Experts


def test_experts_are_convolutions_and_can_be_balanced() -> None:
    x, index, weights = problem()
    graph = rg.Graph.from_edge_index(index, len(x), weights)
    layer = nn.MixtureOfExpertsLayer(5, 3, num_experts=4, top_k=2, seed=0)
    out, gates = layer(x, graph, return_gates=True)
    expected = np.zeros((len(x), 3))
    for number, expert in enumerate(layer.experts):
        convolution = nn.GCNLayer(5, 3)
        convolution.load_state_dict({"lin.weight": expert.weight.numpy(), "bias": expert.bias.numpy()})
        expected += gates.numpy()[:, number, None] * convolution(x, graph).numpy()
    within(out, expected, 1e-5)
    scores = x @ layer.gate.weight.numpy().T
    largest = np.sort(scores, axis=1)[:, -2:]
    np.testing.assert_array_equal(gates.numpy() > 0, scores >= largest[:, :1])
    expected = np.exp(largest) / np.exp(largest).sum(axis=1, keepdims=True)
    within(np.sort(gates.numpy(), axis=1)[:, -2:], expected, 1e-5)
    sums = gates.numpy().sum(axis=0)
    assert nn.load_balance_loss(gates).item() == pytest.approx(sums.var() / sums.mean() ** 2, rel=1e-4)
    optimizer = rg.optim.Adam(layer.parameters(), lr=0.02)
    before = nn.load_balance_loss(gates).item()
    for _ in range(200):
        optimizer.zero_grad()
        loss = nn.load_balance_loss(layer(x, graph, return_gates=True)[1])
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3 * before
