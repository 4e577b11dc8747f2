"""Arguments of a wrong type raise an error of the package that names the argument."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import ruvector_gnn as rg
from ruvector_gnn import losses, nn, optim

X = np.ones((3, 4))
GRAPH = rg.Graph.from_adjacency([[1], [2], [0]])
EDGES = [[0, 1], [1, 2]]
OTHERS = [[2], [0], [1]]

CLASSES: dict[type, dict[str, Any]] = {
    nn.Activation: {"name": "relu"},
    nn.AttentionPool: {"dim": 4},
    nn.DeepGraphInfomax: {"encoder": nn.Linear(4, 2)},
    nn.Dropout: {},
    nn.EGNNLayer: {"in_dim": 4, "out_dim": 2},
    nn.GATLayer: {"in_dim": 4, "out_dim": 2},
    nn.GATv2Layer: {"in_dim": 4, "out_dim": 2},
    nn.GCNLayer: {"in_dim": 4, "out_dim": 2},
    nn.GINLayer: {"mlp": nn.Linear(4, 2)},
    nn.GNN: {"layer": "gcn", "in_dim": 4, "hidden_dim": 4, "out_dim": 2, "num_layers": 2},
    nn.GRUCell: {"in_dim": 4, "hidden_dim": 2},
    nn.GraphAutoencoder: {"encoder": nn.Linear(4, 2)},
    nn.GraphConv: {"in_dim": 4, "out_dim": 2},
    nn.GraphSAGE: {"in_dim": 4, "out_dim": 2},
    nn.GraphTransformerLayer: {"dim": 4},
    nn.InnerProductDecoder: {},
    nn.LSTM: {"in_dim": 4, "hidden_dim": 2},
    nn.LayerNorm: {"dim": 4},
    nn.Linear: {"in_dim": 4, "out_dim": 2},
    nn.MessagePassing: {},
    nn.MixtureOfExpertsLayer: {"in_dim": 4, "out_dim": 2},
    nn.ModuleList: {},
    nn.MultiheadAttention: {"dim": 4, "heads": 2},
    nn.NeuralODELayer: {"dim": 4},
    nn.PoincareLayer: {"in_dim": 4, "out_dim": 2},
    nn.ReLU: {},
    nn.RuvectorLayer: {"in_dim": 4, "hidden_dim": 4},
    nn.SAGELayer: {"in_dim": 4, "out_dim": 2},
    nn.SparseAttentionLayer: {"dim": 4},
    **{getattr(losses, name): {} for name in losses.__all__ if inspect.isclass(getattr(losses, name))},
    losses.MultiHopContrastiveLoss: {"hop_weights": [1.0, 0.5]},
    **{kind: {"params": [rg.tensor([1.0])]} for kind in (optim.SGD, optim.Adam, optim.AdamW)},
}

FUNCTIONS: dict[Callable[..., Any], dict[str, Any]] = {
    losses.adjacency_reconstruction: {"embeddings": X, "graph": GRAPH},
    losses.angle_preservation: {"embeddings": X, "x": X, "pairs": EDGES},
    losses.bce_with_logits: {"logits": X, "targets": X},
    losses.contrastive: {"x1": X, "x2": X, "y": [0, 1, 1]},
    losses.cross_entropy: {"scores": X, "targets": [0, 1, 2]},
    losses.curvature: {"embeddings": X, "walks": [[0, 1, 2]]},
    losses.deep_graph_infomax: {"positive": X[0], "negative": X[1]},
    losses.distance_preservation: {"embeddings": X, "x": X, "pairs": EDGES},
    losses.embedding_norm: {"embeddings": X},
    losses.feature_reconstruction: {"x": X, "x_hat": X},
    losses.info_nce: {"anchors": X, "positives": X},
    losses.laplacian: {"embeddings": X, "graph": GRAPH},
    losses.link_prediction: {"embeddings": X, "pos_edges": EDGES, "neg_edges": EDGES},
    losses.local_contrastive: {"embeddings": X, "edge_index": EDGES},
    losses.mse: {"x": X, "target": X},
    losses.multi_hop_contrastive: {
        "embeddings": X,
        "graph": GRAPH,
        "hops": 1,
        "hop_weights": [1.0],
        "non_neighbors": OTHERS,
    },
    losses.neighborhood_contrastive: {"embeddings": X, "graph": GRAPH, "non_neighbors": OTHERS},
    losses.orthogonality: {"embeddings": X},
    losses.project_to_sphere: {"embeddings": X},
    losses.sparse_adjacency: {"embeddings": X, "edges": EDGES},
    losses.sparsity: {"embeddings": X},
    losses.triplet: {"anchors": X, "positives": X, "negatives": X},
    nn.global_max_pool: {"x": X, "batch": [0, 0, 1]},
    nn.global_mean_pool: {"x": X, "batch": [0, 0, 1]},
    nn.global_sum_pool: {"x": X, "batch": [0, 0, 1]},
    nn.load_balance_loss: {"gates": X},
    nn.mobius_add: {"x": X / 9, "y": X / 9},
    nn.poincare_distance: {"x": X / 9, "y": X / 9},
    nn.poincare_exp: {"v": X},
    nn.poincare_log: {"x": X / 9},
    nn.poincare_midpoint: {"points": X / 9, "graph": GRAPH},
    optim.clip_grad_norm: {"parameters": [rg.tensor([1.0])], "max_norm": 1.0},
    rg.search.differentiable_search: {"query": X[0], "candidates": X, "k": 2},
    rg.aggregate: {"x": X, "graph": GRAPH},
    rg.edge_softmax: {"scores": [1.0, 2.0, 3.0], "graph": GRAPH},
}

CALLS: dict[str, tuple[nn.Module, dict[str, Any]]] = {
    **{
        type(layer).__name__: (layer, {"x": X, "graph": GRAPH})
        for layer in (
            nn.GATLayer(4, 2, 2),
            nn.GATv2Layer(4, 2, 2),
            nn.GCNLayer(4, 2),
            nn.GINLayer(nn.Linear(4, 2)),
            nn.GNN("gcn", 4, 4, 2, 2),
            nn.GraphConv(4, 2),
            nn.GraphSAGE(4, 2),
            nn.GraphTransformerLayer(4, 2, pe_dim=0),
            nn.MixtureOfExpertsLayer(4, 2),
            nn.NeuralODELayer(4),
            nn.PoincareLayer(4, 2),
            nn.RuvectorLayer(4, 4, 2),
            nn.SAGELayer(4, 2),
            nn.SparseAttentionLayer(4, 2),
        )
    },
    "EGNNLayer": (nn.EGNNLayer(4, 2), {"x": X, "graph": GRAPH, "pos": X}),
    "MultiheadAttention": (nn.MultiheadAttention(4, 2), {"query": X, "graph": GRAPH}),
    "Linear": (nn.Linear(4, 2), {"x": X}),
    "LayerNorm": (nn.LayerNorm(4), {"x": X}),
    "Dropout": (nn.Dropout(), {"x": X}),
    "GRUCell": (nn.GRUCell(4, 2), {"x": X, "h": X[:, :2]}),
    "LSTM": (nn.LSTM(4, 2), {"x": X}),
    "AttentionPool": (nn.AttentionPool(4), {"x": X, "batch": [0, 0, 1]}),
}

NAMES = {"v": "x"}
"""Arguments that an error calls otherwise."""


def _refuses(call: Callable[..., Any], given: dict[str, Any], names: list[str]) -> None:
    call(**given)
    for name in names:
        with pytest.raises(rg.RuvectorError) as refusal:
            call(**{**given, name: object()})
        assert NAMES.get(name, name) in str(refusal.value), f"{name}: {refusal.value}"


def _parameters(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_POSITIONAL]


def test_every_public_class_is_in_the_list() -> None:
    skipped = {nn.Module, nn.Parameter, nn.Sequential, optim.Optimizer}
    public = [getattr(module, name) for module in (nn, losses, optim) for name in module.__all__]
    classes = {kind for kind in public if inspect.isclass(kind)} - skipped
    assert classes == set(CLASSES)
    functions = {kind for kind in public if inspect.isfunction(kind)} - {nn.evaluation}
    assert functions <= set(FUNCTIONS)


@pytest.mark.parametrize("kind", CLASSES)
def test_constructors_name_the_argument(kind: type) -> None:
    _refuses(kind, CLASSES[kind], _parameters(kind))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_name_the_argument(function: Callable[..., Any]) -> None:
    _refuses(function, FUNCTIONS[function], _parameters(function))


@pytest.mark.parametrize("name", CALLS)
def test_calls_of_layers_name_the_argument(name: str) -> None:
    layer, given = CALLS[name]
    _refuses(layer, given, list(given))


def test_what_was_given_and_what_is_taken() -> None:
    for call, message in (
        (lambda: nn.SAGELayer((4, 6), 2), "in_dim must be an integer, got (4, 6)"),
        (lambda: nn.GATLayer("a", 2), "in_dim must be an integer, got 'a'"),
        (lambda: nn.GCNLayer(4.5, 2), "in_dim must be an integer, got 4.5"),
        (lambda: nn.GCNLayer(4, 2, bias="no"), "bias must be True or False, got 'no'"),
        (lambda: nn.Dropout("half"), "rate must be a number, got 'half'"),
        (lambda: nn.GINLayer(3), "mlp must be a Module, got 3"),
        (lambda: optim.Adam([rg.tensor([1.0])], betas=0.9), "betas must be a pair of numbers, got 0.9"),
        (lambda: optim.Adam([1.0]), "params must be Tensors, got float"),
        (lambda: losses.mse(X, X, 5), "reduction must be a string, got 5"),
        (lambda: losses.info_nce(X, X, temperature="warm"), "temperature must be a number, got 'warm'"),
        (
            lambda: losses.info_nce(X, X, temperature=rg.tensor(0.1, requires_grad=True)),
            "temperature must be a number, got a Tensor that collects a gradient, which would be lost",
        ),
        (lambda: rg.aggregate(X, GRAPH, reduce=None), "reduce must be a string, got None"),
    ):
        with pytest.raises(rg.ConfigError) as refusal:
            call()
        assert str(refusal.value) == message
    with pytest.raises(rg.ConfigError, match=r"graph must be a Graph, got ndarray; Graph.from_edge_index\("):
        nn.GCNLayer(4, 2)(X, np.array(EDGES))
    with pytest.raises(rg.ShapeError, match=r"batch must hold .* integers, got None$"):
        nn.global_mean_pool(X, None)
    optimizer = optim.SGD([rg.tensor([1.0])])
    optimizer.param_groups[0]["lr"] = "fast"
    with pytest.raises(rg.ConfigError, match="lr must be a number, got 'fast'"):
        optimizer.step()


@pytest.mark.parametrize("targets", [[0, -100, 2], [[0], [-100], [2]]])
def test_classes_out_of_range_are_called_classes(targets: Any) -> None:
    with pytest.raises(rg.RowError, match="targets must hold classes from 0 up, got -100"):
        losses.cross_entropy(np.eye(3), targets)
    with pytest.raises(rg.RowError, match="targets must hold classes from 0 to 2, got 3"):
        losses.cross_entropy(np.eye(3), [0, 3, 2])
