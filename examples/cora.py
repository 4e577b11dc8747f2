"""Node classification: which class does each node of a graph have, knowing that of a few?

    python examples/cora.py cora.npz --model gcn --seeds 10

The file holds arrays: features as compressed rows (`feat_indptr`, `feat_indices`, `feat_data`,
`feat_shape`), `edge_index (2, E)` with both directions of every edge, `labels`, and the numbers of the nodes
to train on, to choose the epoch by and to judge on: `train_idx`, `val_idx`, `test_idx`. Models and settings
are those of the papers: GCN (Kipf & Welling 2017) and GAT (Velickovic et al. 2018). The test nodes are looked
at once, with the weights of the last epoch that was the best so far on the validation nodes, in accuracy and
in loss; training ends early when neither has got better for a while. That is the rule of GAT's authors.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass

import numpy as np
import ruvector_gnn as rg
import scipy.sparse as sp
from ruvector_gnn import nn


@dataclass
class Data:
    """A graph whose nodes have features and classes, and the nodes to learn from and to judge by."""

    x: rg.Tensor
    graph: rg.Graph
    labels: np.ndarray
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1


def load(path: str) -> Data:
    """Read a file; each node's features are divided by their sum."""
    with np.load(path) as file:
        parts = (file["feat_data"], file["feat_indices"], file["feat_indptr"])
        features = sp.csr_matrix(parts, shape=tuple(file["feat_shape"]), dtype=np.float32).toarray()
        features /= np.maximum(features.sum(1, keepdims=True), 1e-12)
        graph = rg.Graph.from_edge_index(file["edge_index"], len(features))
        split = (file[f"{part}_idx"] for part in ("train", "val", "test"))
        return Data(rg.tensor(features), graph, file["labels"].astype(np.int64), *split)


class GCN(nn.Module):
    """Two graph convolutions with 16 hidden values."""

    epochs, patience = 200, 200

    def __init__(self, ins: int, classes: int, seed: int) -> None:
        """Draw the weights from `seed`."""
        super().__init__()
        self.first = nn.GCNLayer(ins, 16, activation="relu", seed=seed)
        self.second = nn.GCNLayer(16, classes, seed=seed + 1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: rg.Tensor, graph: rg.Graph) -> rg.Tensor:
        """Score the classes of every node."""
        return self.second(self.dropout(self.first(self.dropout(x), graph)), graph)

    def optimizer(self) -> rg.optim.Optimizer:
        """Adam; only the first layer's weights decay."""
        first = {"params": self.first.parameters(), "weight_decay": 5e-4}
        return rg.optim.Adam([first, {"params": self.second.parameters()}], lr=0.01)


class GAT(nn.Module):
    """Two attention layers: 8 heads of 8 values, then one head."""

    epochs, patience = 1000, 100

    def __init__(self, ins: int, classes: int, seed: int) -> None:
        """Draw the weights from `seed`."""
        super().__init__()
        self.first = nn.GATLayer(ins, 8, num_heads=8, dropout=0.6, seed=seed)
        self.second = nn.GATLayer(64, classes, num_heads=1, concat_heads=False, dropout=0.6, seed=seed + 1)
        self.dropout = nn.Dropout(0.6)

    def forward(self, x: rg.Tensor, graph: rg.Graph) -> rg.Tensor:
        """Score the classes of every node."""
        return self.second(self.dropout(self.first(self.dropout(x), graph).elu()), graph)

    def optimizer(self) -> rg.optim.Optimizer:
        """Adam; all weights decay."""
        return rg.optim.Adam(self.parameters(), lr=0.005, weight_decay=5e-4)


def accuracy(scores: np.ndarray, labels: np.ndarray, nodes: np.ndarray) -> float:
    """Share of `nodes` whose best score is their class."""
    return float((scores[nodes].argmax(1) == labels[nodes]).mean())


def train(
    data: Data, kind: type[GCN] | type[GAT], seed: int, epochs: int | None
) -> tuple[float, list[float]]:
    """Train one model; return its accuracy on the test nodes and the seconds of each epoch."""
    rg.manual_seed(seed)
    model = kind(data.x.shape[1], data.classes, seed=1000 * seed)
    optimizer, targets, seconds = model.optimizer(), data.labels[data.train], []
    best, chosen, waited = (-1.0, float("inf")), model.state_dict(), 0
    for _ in range(epochs or model.epochs):
        begin = time.perf_counter()
        optimizer.zero_grad()
        scores = model(data.x, data.graph).index_select(data.train)
        rg.losses.cross_entropy(scores, targets).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begin)
        with nn.evaluation(model):
            scores = model(data.x, data.graph)
            loss = rg.losses.cross_entropy(scores.index_select(data.val), data.labels[data.val]).item()
        reached = accuracy(scores.numpy(), data.labels, data.val)
        if reached >= best[0] and loss <= best[1]:
            chosen = model.state_dict()
        waited = 0 if reached >= best[0] or loss <= best[1] else waited + 1
        best = (max(best[0], reached), min(best[1], loss))
        if waited >= model.patience:
            break
    model.load_state_dict(chosen)
    with nn.evaluation(model):
        return accuracy(model(data.x, data.graph).numpy(), data.labels, data.test), seconds


def main(arguments: list[str] | None = None) -> int:
    """Train once per seed; print the mean, the standard deviation and the time of an epoch."""
    parser = argparse.ArgumentParser(description="Node classification with a GCN or a GAT.")
    parser.add_argument("file", help="an .npz file; the arrays are named above")
    parser.add_argument("--model", choices=["gcn", "gat"], default="gcn")
    parser.add_argument("--seeds", type=int, default=10, help="how many models to train (default 10)")
    parser.add_argument("--epochs", type=int, help="at most so many (default: the model's own)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if options.seeds < 1 or (options.epochs is not None and options.epochs < 1):
        parser.error("--seeds and --epochs must be at least 1")
    data = load(options.file)
    results, seconds = [], []
    for seed in range(options.seeds):
        result, times = train(data, GCN if options.model == "gcn" else GAT, seed, options.epochs)
        results.append(100 * result)
        seconds += times
        if not options.json:
            print(f"seed {seed}: {results[-1]:.1f}% of the test nodes", file=sys.stderr)
    figures = {
        "model": options.model,
        "seeds": options.seeds,
        "test_accuracy_mean": round(statistics.mean(results), 2),
        "test_accuracy_std": round(statistics.pstdev(results), 2),
        "epoch_ms_median": round(1000 * statistics.median(seconds), 2),
    }
    if options.json:
        print(json.dumps(figures))
    else:
        mean, spread = figures["test_accuracy_mean"], figures["test_accuracy_std"]
        print(f"{mean} ± {spread} % of the test nodes, {figures['epoch_ms_median']} ms an epoch")
    return 0


if __name__ == "__main__":
    sys.exit(main())
