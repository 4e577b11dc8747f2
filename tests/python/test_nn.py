"""Layers against recorded outputs of PyTorch Geometric and of `ruvector`, and what every layer must keep."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ruvector_gnn as rg
from assert_layer import assert_layer, assert_same_bits_on_any_threads, problem, within
from ruvector_gnn import _core, nn

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("RUVECTOR_SHARED", ROOT.parent / "shared")) / "golden"


def golden() -> dict[str, np.ndarray]:
    """All recorded cases where the full files are there, else the committed small ones."""
    if (SHARED / "pyg_layers.npz").exists() and (SHARED / "ruvector_layer.npz").exists():
        files = {"pyg": "pyg_layers.npz", "ruvector": "ruvector_layer.npz"}
        arrays = {f"{name}/{key}": value for name, file in files.items()
                  for key, value in np.load(SHARED / file).items()}
        return {key: np.frombuffer(str(value).encode(), np.uint8) if key.endswith("/json") else value
                for key, value in arrays.items()}
    return dict(np.load(ROOT / "tests" / "golden" / "layers.npz"))


GOLDEN = golden()


def under(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    start = f"{prefix}/"
    return {key.removeprefix(start): value for key, value in arrays.items() if key.startswith(start)}


def case(name: str) -> dict[str, np.ndarray]:
    return under(f"pyg/{name}", GOLDEN)


def cases(*kinds: str) -> list[str]:
    names = sorted({key.split("/")[1] for key in GOLDEN if key.startswith("pyg/")})
    return [name for name in names if name.rstrip("0123456789") in kinds]


def mlp(ins: int, outs: int, seed: int | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Linear(ins, outs, seed=seed), nn.ReLU(), nn.Linear(outs, outs, seed=seed))


PYG: dict[str, Callable[[int, int], nn.Module]] = {
    "gcn": nn.GCNLayer,
    "gcn_weighted": nn.GCNLayer,
    "sage_mean": nn.SAGELayer,
    "sage_norm": lambda ins, outs: nn.SAGELayer(ins, outs, normalize=True),
    "sage_max": lambda ins, outs: nn.SAGELayer(ins, outs, aggregator="max"),
    "sage_lstm": lambda ins, outs: nn.SAGELayer(ins, outs, aggregator="lstm"),
    "graphconv": nn.GraphConv,
    "gin": lambda ins, outs: nn.GINLayer(mlp(ins, outs), train_eps=True),
}


@pytest.mark.parametrize("name", cases(*PYG))
def test_pyg_outputs_and_gradients(name: str, tmp_path: Path) -> None:
    data = case(name)
    (ins, outs), state = (data["x"].shape[1], data["y"].shape[1]), under("param", data)
    layer = PYG[name.rstrip("0123456789")](ins, outs)
    # As safetensors, which is how weights come out of PyTorch.
    _core.save_tensors(str(tmp_path / "pyg.safetensors"), list(state.items()))
    layer.load_weights(tmp_path / "pyg.safetensors")
    graph = rg.Graph.from_edge_index(data["edge_index"], len(data["x"]), data.get("edge_weight"))
    x = rg.tensor(data["x"], requires_grad=True)
    y = layer(x, graph)
    within(y, data["y"], 1e-5)
    with rg.no_grad():
        within(layer(x, graph), data["y"], 1e-5)
    y.backward(data["grad_y"])
    within(x.grad, data["grad_x"], 1e-4)
    gradients = under("grad", data)
    assert gradients.keys() == state.keys()
    for key, parameter in layer.named_parameters():
        within(parameter.grad, gradients[key], 1e-4)


@pytest.mark.parametrize("name", cases("lstm"))
def test_lstm_outputs(name: str) -> None:
    data = case(name)
    layer = nn.LSTM(data["x"].shape[2], data["y"].shape[2])
    layer.load_state_dict(under("param", data))
    y, (h, c) = layer(data["x"])
    within(y, data["y"], 1e-5)
    within(h[0], data["y"][:, -1], 1e-5)
    first, states = layer(data["x"][:, :2])
    rest, (again, _) = layer(data["x"][:, 2:], states)
    within(rg.concat([first, rest], axis=1), data["y"], 1e-5)
    within(again, h, 1e-5)
    alone, (h, c) = layer(data["x"][0])
    within(alone, data["y"][0], 1e-5)
    assert h.shape == c.shape == (1, data["y"].shape[2])


@pytest.mark.parametrize("name", cases("mha"))
def test_attention_is_pytorchs(name: str) -> None:
    data = case(name)
    nodes, dim = data["x"].shape[1:]
    layer = nn.MultiheadAttention(dim, data["att"].shape[1])
    layer.load_state_dict(under("param", data))
    graph = rg.Graph.from_adjacency([list(range(nodes))] * nodes)
    y, weights = layer(data["x"], need_weights=True)
    within(y, data["y"], 1e-5)
    within(weights, data["att"], 1e-5)
    within(layer(data["x"], data["x"], data["x"]), data["y"], 1e-5)
    for number, x in enumerate(data["x"]):
        within(layer(x, graph), data["y"][number], 1e-5)
        y, weights = layer(x, x[:3], need_weights=True)
        assert (y.shape, weights.shape) == ((nodes, dim), (data["att"].shape[1], nodes, 3))
        within(weights.sum(-1), np.ones(weights.shape[:2]), 1e-5)


@pytest.mark.parametrize("number", sorted({key.split("/")[0] for key in under("ruvector", GOLDEN)}))
def test_ruvector_outputs(number: str) -> None:
    data = under(f"ruvector/{number}", GOLDEN)
    layer = nn.RuvectorLayer.from_ruvector_json(data["json"].tobytes().decode())
    neighbors = len(data["neighbors"])
    edges = np.stack([np.arange(1, neighbors + 1), np.zeros(neighbors, int)])
    graph = rg.Graph.from_edge_index(edges, neighbors + 1, data["edge_weights"])
    x = np.concatenate([data["node"][None], data["neighbors"]])
    within(layer.eval()(x, graph).numpy()[0], data["output"], 1e-5)


def test_adamw_follows_pytorch() -> None:
    data = case("optim")
    parameter = rg.tensor(data["adamw/p0"], requires_grad=True)
    optimizer = rg.optim.AdamW([parameter], lr=0.01, weight_decay=0.1)
    for grad in data["adamw/grads"]:
        parameter.grad = grad
        optimizer.step()
    within(parameter, data["adamw/p100"], 1e-6)


LAYERS: dict[str, tuple[int, Callable[[int], nn.Module]]] = {
    "gcn": (8, lambda seed: nn.GCNLayer(5, 8, activation="relu", seed=seed)),
    "gcn narrowing": (3, lambda seed: nn.GCNLayer(5, 3, seed=seed)),
    "sage": (8, lambda seed: nn.SAGELayer(5, 8, seed=seed)),
    "sage sum": (3, lambda seed: nn.SAGELayer(5, 3, aggregator="sum", normalize=True, seed=seed)),
    "sage max": (3, lambda seed: nn.SAGELayer(5, 3, aggregator="max", seed=seed)),
    "sage lstm": (3, lambda seed: nn.SAGELayer(5, 3, aggregator="lstm", seed=seed)),
    "sage lstm unpadded": (
        3,
        lambda seed: nn.SAGELayer(5, 3, aggregator="lstm", lstm_padding=False, seed=seed),
    ),
    "gat": (8, lambda seed: nn.GATLayer(5, 4, num_heads=2, seed=seed)),
    "gat mean": (3, lambda seed: nn.GATLayer(5, 3, num_heads=4, concat_heads=False, seed=seed)),
    "gatv2": (9, lambda seed: nn.GATv2Layer(5, 3, num_heads=3, seed=seed)),
    "graphconv": (3, lambda seed: nn.GraphConv(5, 3, seed=seed)),
    "graphconv max": (8, lambda seed: nn.GraphConv(5, 8, "max", bias=False, seed=seed)),
    "gin": (8, lambda seed: nn.GINLayer(mlp(5, 8, seed), eps=0.5)),
    "attention": (5, lambda seed: nn.MultiheadAttention(5, 5, seed=seed)),
    "ruvector": (8, lambda seed: nn.RuvectorLayer(5, 8, num_heads=2, seed=seed)),
    "gnn gcn": (5, lambda seed: nn.GNN("gcn", 5, 8, 5, num_layers=3, dropout=0.2, seed=seed)),
    "gnn gin": (3, lambda seed: nn.GNN("gin", 5, 5, 3, num_layers=2, norm=False, seed=seed)),
    "gnn gat": (4, lambda seed: nn.GNN("gat", 5, 8, 4, num_layers=2, num_heads=2, seed=seed)),
    "gnn gatv2": (4, lambda seed: nn.GNN("gatv2", 5, 8, 4, num_layers=3, num_heads=2, seed=seed)),
    "gnn ruvector": (4, lambda seed: nn.GNN("ruvector", 5, 8, 4, num_layers=2, num_heads=2, seed=seed)),
    "sequential": (4, lambda seed: nn.Sequential(nn.GraphConv(5, 6, seed=seed), nn.ReLU(), mlp(6, 4, seed))),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer(name: str, tmp_path: Path) -> None:
    width, make = LAYERS[name]
    assert_layer(make, tmp_path, width)


@pytest.mark.parametrize("name", LAYERS)
def test_bits_do_not_depend_on_the_number_of_threads(name: str) -> None:
    assert_same_bits_on_any_threads(LAYERS[name][1])


def test_seeds() -> None:
    def weights(seed: int | None = None) -> np.ndarray:
        return nn.Linear(3, 4, seed=seed).weight.numpy()

    np.testing.assert_array_equal(weights(5), weights(5))
    rg.manual_seed(1)
    first, second = weights(), weights()
    assert (first != second).any()
    rg.manual_seed(1)
    np.testing.assert_array_equal(first, weights())


def test_dropout_only_in_training() -> None:
    layer, x = nn.Dropout(0.5), np.ones((100, 10))
    dropped = layer(x).numpy()
    assert set(np.unique(dropped)) == {0.0, 2.0}
    np.testing.assert_array_equal(layer.eval()(x), x)
    with pytest.raises(rg.ConfigError):
        nn.Dropout(1.0)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.GCNLayer(5, 16, activation="relu", seed=1)
        self.second = nn.SAGELayer(16, 2, seed=2)
        self.scale = nn.Parameter([1.0])

    def forward(self, x: Any, graph: rg.Graph) -> rg.Tensor:
        return self.second(self.first(x, graph), graph) * self.scale


def test_modules_train_save_and_load(tmp_path: Path) -> None:
    x, index, _ = problem()
    graph, classes = rg.Graph.from_edge_index(index, len(x)), (x[:, 0] > 0).astype(int)
    model = Net()
    assert list(model.state_dict()) == [
        "scale",
        "first.bias",
        "first.lin.weight",
        "second.lin_l.weight",
        "second.lin_l.bias",
        "second.lin_r.weight",
    ]
    optimizer = rg.optim.AdamW([{"params": model.parameters(), "lr": 0.02, "weight_decay": 0.0}])
    losses = []
    for _ in range(100):
        loss = rg.losses.cross_entropy(model(x, graph), classes)
        optimizer.zero_grad()
        loss.backward()
        rg.optim.clip_grad_norm(model.parameters(), 5.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    model.save_weights(tmp_path / "model.safetensors")
    other = Net()
    other.load_weights(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(other(x, graph), model(x, graph))


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    model = Net()
    before = model.state_dict()
    good = {key: value + 1 for key, value in before.items()}
    with pytest.raises(rg.NotFoundError, match="missing"):
        model.load_state_dict({"scale": [1.0]})
    with pytest.raises(rg.ShapeError, match=r"second\.lin_r\.weight"):
        model.load_state_dict({**good, "second.lin_r.weight": np.zeros((1, 1))})
    with pytest.raises(rg.ShapeError, match="finite"):
        model.load_state_dict({**good, "second.lin_r.weight": np.full((2, 16), np.nan)})
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[key])
    model.load_state_dict({"scale": [3.0]}, strict=False)
    assert model.scale.item() == 3.0


def test_damaged_weights_and_json_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"\x10\0\0\0\0\0\0\0{broken")
    with pytest.raises(rg.FormatError):
        nn.Linear(1, 1).load_weights(path)
    with pytest.raises(FileNotFoundError):
        nn.Linear(1, 1).load_weights(tmp_path / "none")
    with pytest.raises(rg.FormatError, match="layer is missing"):
        nn.RuvectorLayer.from_ruvector_json("{}")


def test_settings_are_checked() -> None:
    for wrong in (
        lambda: nn.Linear(0, 1),
        lambda: nn.RuvectorLayer(4, 6, num_heads=4),
        lambda: nn.GCNLayer(1, 1, activation="swish"),
        lambda: nn.GraphConv(1, 1, "softmax"),  # type: ignore[arg-type] # the wrong value is the test
        lambda: nn.GINLayer(abs),  # type: ignore[arg-type] # the wrong value is the test
        lambda: nn.GNN("gcn2", 1, 1, 1, 1),
        lambda: nn.GNN("gcn", 1, 1, 1, 0),
        lambda: nn.MultiheadAttention(4, 3),
        lambda: nn.LSTM(1, 0),
        lambda: nn.SAGELayer(1, 1, aggregator="median"),  # type: ignore[arg-type] # the wrong value is the test
        lambda: rg.optim.AdamW([]),
        lambda: rg.optim.AdamW([rg.tensor([1.0], requires_grad=True)], lr=-1),
    ):
        with pytest.raises(rg.ConfigError):
            wrong()


def test_metrics_by_hand() -> None:
    ranked = [[9, 8, 7, 1], [1, 2, -1, -1]]
    triples = rg.Triples([0, 0, 1], [7, 8, 5], [3, 1, 1])
    dicts = [{7: 3.0, 8: 1.0}, {5: 1.0}]
    gain = (1 / np.log2(3) + 3 / 2) / (3 + 1 / np.log2(3))
    for relevant in (triples, dicts):
        assert rg.metrics.ndcg(ranked, relevant) == pytest.approx(gain / 2)
    assert rg.metrics.mrr(ranked, [[7, 8], []]) == 0.5
    assert rg.metrics.recall_at_k(ranked, [[7, 8], [5]], k=2) == 0.25
    with pytest.raises(rg.ConfigError):
        rg.metrics.ndcg(ranked, dicts, k=0)


def test_losses_agree_with_numpy() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(6, 5))
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    classes = np.arange(6) % 5
    expected = -logs[np.arange(6), classes]
    within(rg.losses.cross_entropy(scores, classes, reduction="none"), expected, 1e-6)
    within(rg.losses.CrossEntropy("none")(scores, [[c] for c in classes]), expected, 1e-6)
    within(rg.losses.cross_entropy(scores, np.eye(5)[classes], reduction="sum"), expected.sum(), 1e-6)
    a, p, n = (rng.normal(size=(4, 8)) for _ in range(3))
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, p, n)]
    own, others = (unit[0] * unit[1]).sum(1) / 0.07, unit[0] @ unit[2].T / 0.07
    total = np.log(np.exp(own) + np.exp(others).sum(1))
    within(rg.losses.info_nce(a, p, n), np.mean(total - own), 1e-5)
    within(rg.losses.InfoNCE()(a, p, n), np.mean(total - own), 1e-5)
