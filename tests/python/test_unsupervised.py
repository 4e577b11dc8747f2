"""Graph autoencoders and Deep Graph Infomax: gradients by differences, and that training teaches."""

from __future__ import annotations

import numpy as np
import pytest
import ruvector_gnn as rg
from planted import graph_of, planted
from ruvector_gnn import nn


def differences(model: nn.Module, loss: object) -> None:
    """The gradient of `loss()` with respect to every parameter, against central differences."""
    assert callable(loss)
    model.zero_grad()
    loss().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        values, numeric = parameter.numpy(), np.empty(parameter.shape)
        for at in np.ndindex(parameter.shape):
            sides = []
            for step in (1e-2, -1e-2):
                shifted = values.copy()
                shifted[at] += step
                parameter.copy_(shifted)
                sides.append(loss().item())
            numeric[at] = (sides[0] - sides[1]) / 2e-2
        parameter.copy_(values)
        np.testing.assert_allclose(parameter.grad, numeric, atol=5e-4, err_msg=name)


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Chance that an edge scores above a pair that is none."""
    return float((positive[:, None] > negative).mean() + 0.5 * (positive[:, None] == negative).mean())


def separability(embeddings: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy of a least-squares classifier on the half of the nodes that it was not fitted to."""
    order = np.random.default_rng(0).permutation(len(labels))
    fit, judge = order[: len(order) // 2], order[len(order) // 2 :]
    design = np.c_[embeddings - embeddings.mean(0), np.ones(len(labels))]
    design[:, :-1] /= design[:, :-1].std() + 1e-9
    gram = design[fit].T @ design[fit] + 0.1 * np.eye(design.shape[1])
    weights = np.linalg.solve(gram, design[fit].T @ np.eye(labels.max() + 1)[labels[fit]])
    return float(((design[judge] @ weights).argmax(1) == labels[judge]).mean())


class Encoder(nn.Module):
    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.first = nn.GCNLayer(ins, 32, activation="relu", seed=1)
        self.second = nn.GCNLayer(32, outs, seed=2)

    def forward(self, x: rg.Tensor, graph: rg.Graph) -> rg.Tensor:
        return self.second(self.first(x, graph), graph)


class Halves(nn.Module):
    """Scores a pair by a map of both embeddings: a decoder of the user's."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(dim, 1, seed=5)

    def forward(self, z: rg.Tensor, edge_index: np.ndarray) -> rg.Tensor:
        both = z.index_select(edge_index[0]) * z.index_select(edge_index[1])
        return self.map(both.tanh()).reshape(-1)


def small() -> tuple[np.ndarray, rg.Graph]:
    x, edges, _ = planted(2, 6, 0.5, 0.1, dim=3)
    return x, graph_of(edges, len(x))


@pytest.mark.parametrize("decoder", [None, Halves(2)])
def test_autoencoder_gradients(decoder: nn.Module | None) -> None:
    x, graph = small()
    model = nn.GraphAutoencoder(nn.SAGELayer(3, 2, seed=0), decoder)
    differences(model, lambda: model.loss(x, graph, num_negatives=2, seed=7))
    assert model.loss(x, graph, seed=7).item() == model.loss(x, graph, seed=7).item()
    assert model.loss(x, graph, seed=7).item() != model.loss(x, graph, seed=8).item()


def test_autoencoder_loss_by_hand() -> None:
    x, graph = small()
    model = nn.GraphAutoencoder(nn.GCNLayer(3, 2, seed=0))
    z, edges = model(x, graph).numpy().astype(float), graph.to_edge_index()
    scores = (z[edges[0]] * z[edges[1]]).sum(1)
    np.testing.assert_allclose(model.decode(z, edges), scores, rtol=1e-4, atol=1e-5)
    losses = rg.losses.sparse_adjacency(z, edges, num_negatives=3, seed=9)
    assert model.loss(x, graph, num_negatives=3, seed=9).item() == pytest.approx(losses.item(), rel=1e-5)
    with pytest.raises(rg.ShapeError, match="edge_index"):
        model.decode(z, edges.T)
    with pytest.raises(rg.RowError):
        model.decode(z, [[0], [99]])


def test_training_an_autoencoder_teaches_it_unseen_edges() -> None:
    x, edges, _ = planted()
    forward = edges[:, edges[0] < edges[1]]
    order = np.random.default_rng(1).permutation(forward.shape[1])
    unseen, seen = forward[:, order[:80]], forward[:, order[80:]]
    graph = graph_of(np.concatenate([seen, seen[::-1]], 1), len(x))
    pairs = np.random.default_rng(2).integers(len(x), size=(2, 4000))
    known = {tuple(pair) for pair in edges.T.tolist()}
    others = pairs[:, [tuple(p) not in known and p[0] != p[1] for p in pairs.T.tolist()]]
    model = nn.GraphAutoencoder(Encoder(x.shape[1], 8))

    def judged() -> float:
        z = model.encode(x, graph)
        return auc(model.decode(z, unseen).numpy(), model.decode(z, others).numpy())

    before, optimizer = judged(), rg.optim.Adam(model.parameters(), lr=0.01)
    for step in range(200):
        optimizer.zero_grad()
        model.loss(x, graph, seed=step).backward()
        optimizer.step()
    assert judged() > max(before + 0.1, 0.8), (before, judged())


def test_infomax_gradients() -> None:
    x, graph = small()
    model = nn.DeepGraphInfomax(nn.SAGELayer(3, 2, seed=0), dim=2, seed=3)
    differences(model, lambda: model.loss(x, graph, seed=7))
    real, corrupted, summary = (part.numpy().astype(float) for part in model(x, graph, seed=7))
    np.testing.assert_allclose(summary, 1 / (1 + np.exp(-real.mean(0))), rtol=1e-5)
    weight = model.state_dict()["weight"].astype(float)
    expected = rg.losses.deep_graph_infomax(real @ weight @ summary, corrupted @ weight @ summary)
    assert model.loss(x, graph, seed=7).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_corruption_is_a_permutation_drawn_from_the_seed() -> None:
    x, graph = small()
    model = nn.DeepGraphInfomax(nn.Linear(3, 3, seed=0), dim=3)
    model.encoder.forward = lambda x, graph: x  # type: ignore[method-assign] # what is embedded is what was given
    _, corrupted, _ = model(x, graph, seed=1)
    assert sorted(corrupted.numpy().tolist()) == sorted(x.tolist())
    np.testing.assert_array_equal(corrupted, model(x, graph, seed=1)[1])
    assert (corrupted.numpy() != model(x, graph, seed=2)[1].numpy()).any()


def test_infomax_without_dim_learns_its_width_and_hides_nothing_before() -> None:
    x, graph = small()
    encoder = nn.SAGELayer(3, 2, seed=0)
    model = nn.DeepGraphInfomax(encoder, seed=3)
    for early in (lambda: list(model.parameters()), model.state_dict, lambda: model.discriminate(x, x[0])):
        with pytest.raises(rg.ConfigError, match="dim"):
            early()
    model(x, graph)
    same = nn.DeepGraphInfomax(encoder, dim=2, seed=3)
    np.testing.assert_array_equal(model.state_dict()["weight"], same.state_dict()["weight"])
    late = nn.DeepGraphInfomax(nn.SAGELayer(3, 2, seed=9))
    late.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(late.embed(x, graph), model.embed(x, graph))


def test_training_infomax_separates_the_groups() -> None:
    x, edges, labels = planted(dim=256, signal=0.25)
    graph = graph_of(edges, len(x))
    encoder = nn.GCNLayer(x.shape[1], 8, activation="tanh", seed=0)
    model = nn.DeepGraphInfomax(encoder, dim=8, seed=0)
    before = separability(model.embed(x, graph), labels)
    optimizer = rg.optim.Adam(model.parameters(), lr=0.002)
    for step in range(150):
        optimizer.zero_grad()
        model.loss(x, graph, seed=step).backward()
        optimizer.step()
    assert encoder.training, "embed must leave the mode as it was"
    after = separability(model.embed(x, graph), labels)
    assert after > max(before + 0.1, 0.95), (before, after)


def test_training_gives_the_same_bits_on_any_number_of_threads() -> None:
    rng = np.random.default_rng(0)
    graph = rg.Graph.from_edge_index(rng.integers(3000, size=(2, 20_000)), 3000)
    x = rng.normal(size=(3000, 16))
    before, results = rg.num_threads(), []
    try:
        for threads in (1, 2, 4):
            rg.set_num_threads(threads)
            rg.manual_seed(0)
            models: list[nn.GraphAutoencoder | nn.DeepGraphInfomax] = [
                nn.GraphAutoencoder(Encoder(16, 8)),
                nn.DeepGraphInfomax(Encoder(16, 8), dim=8),
            ]
            for model in models:
                optimizer = rg.optim.AdamW(model.parameters(), lr=0.01)
                for _ in range(3):
                    optimizer.zero_grad()
                    model.loss(x, graph).backward()
                    optimizer.step()
            results.append([value for model in models for value in model.state_dict().values()])
    finally:
        rg.set_num_threads(before)
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(first, second)
