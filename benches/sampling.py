"""Neighbour sampling and GraphSAGE on mini-batches, beside the floor of their gathers and products.

    python benches/sampling.py [--nodes 100000] [--batch 1024] [--fanouts 10 5] [--rounds 60] [--json]

A random graph of average degree 16, 128 features, two layers of 64. Each round takes another batch and times,
in random order, so that none always finds the rows in the cache: sampling; the model on blocks at hand;
`forward_minibatch`, which samples too; a training step (sampling, forward, cross entropy, backward, AdamW);
and the floors. The floor of inference is the batch's own bare work: the sums over neighbours and the rows of
the nodes themselves, both read straight from the table, and the matrix products. The floor of training adds
the products of the backward pass and the sum over the transposed block. Medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import ruvector_gnn as rg
from ruvector_gnn import _core

FEATURES, HIDDEN, DEGREE = 128, 64, 16


def clock(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


class Floor:
    """The gathers and products of one batch, and nothing else."""

    def __init__(self, table: rg.Tensor, blocks: list[rg.Block]) -> None:
        outer, self.inner = blocks
        columns = outer.source_nodes[outer.indices]
        self.outer = rg.Graph.from_csr(outer.indptr, columns, num_sources=outer.num_graph_nodes)
        self.table, self.targets = table, outer.target_nodes
        self.back = self.inner.transpose()
        rng = np.random.default_rng(0)

        def random(*shape: int) -> rg.Tensor:
            return rg.tensor(rng.standard_normal(shape, dtype=np.float32))

        nodes, batch = outer.num_nodes, self.inner.num_nodes
        self.first, self.second = random(HIDDEN, FEATURES), random(HIDDEN, HIDDEN)
        self.wide, self.hidden = random(nodes, FEATURES), random(nodes, HIDDEN)
        self.narrow = random(batch, HIDDEN)
        self.across, self.last = random(HIDDEN, nodes), random(HIDDEN, batch)
        self.features, self.states = random(FEATURES, nodes), random(HIDDEN, batch)

    def forward(self) -> None:
        rg.aggregate(self.table, self.outer)
        self.table.index_select(self.targets)
        _core.linear(self.wide, self.first)
        _core.linear(self.wide, self.first)
        rg.aggregate(self.hidden, self.inner)
        _core.linear(self.narrow, self.second)
        _core.linear(self.narrow, self.second)

    def train(self) -> None:
        self.forward()
        for _ in range(2):
            _core.linear(self.last, self.states)  # gradients of the second layer's weights
            _core.linear(self.narrow, self.second)  # of its input
        rg.aggregate(self.narrow, self.back)
        for _ in range(2):
            _core.linear(self.across, self.features)  # of the first layer's weights


def measure(nodes: int, batch: int, fanouts: list[int], rounds: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    graph = rg.Graph.from_edge_index(rng.integers(nodes, size=(2, nodes * DEGREE)), nodes)
    x = rng.standard_normal((nodes, FEATURES), dtype=np.float32)
    table, labels = rg.tensor(x), rng.integers(HIDDEN, size=nodes)
    model = rg.nn.GraphSAGE(FEATURES, HIDDEN, hidden_dim=HIDDEN, sample_sizes=fanouts, seed=0)
    optimizer = rg.optim.AdamW(model.parameters())

    def train(seeds: np.ndarray, seed: int) -> None:
        loss = rg.losses.cross_entropy(model.forward_minibatch(x, graph, seeds, seed), labels[seeds])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @rg.no_grad()
    def infer(seeds: np.ndarray, seed: int) -> None:
        model.forward_minibatch(x, graph, seeds, seed)

    @rg.no_grad()
    def infer_on_blocks(blocks: list[rg.Block]) -> None:
        model.forward_blocks(x, blocks)

    times: dict[str, list[float]] = {}
    for seed in range(rounds + 5):
        seeds = rng.choice(nodes, batch, replace=False)
        blocks = graph.sample(seeds, fanouts, seed)
        floor = Floor(table, blocks)
        work: dict[str, Callable[[], object]] = {
            "sampling": partial(graph.sample, seeds, fanouts, seed),
            "inference floor": floor.forward,
            "inference, blocks at hand": partial(infer_on_blocks, blocks),
            "inference": partial(infer, seeds, seed),
            "training floor": floor.train,
            "training": partial(train, seeds, seed),
        }
        took = {name: clock(work[name]) for name in rng.permutation(list(work)).tolist()}
        if seed >= 5:  # the first rounds warm up
            for name in work:
                times.setdefault(name, []).append(took[name])
    return {name: float(np.median(values)) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--fanouts", type=int, nargs=2, default=[10, 5])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    medians = measure(options.nodes, options.batch, options.fanouts, options.rounds)
    if options.json:
        print(json.dumps(medians))
        return
    print(f"{'':26} {'ms':>7} {'seeds/s':>10} {': floor':>8}")
    for name, seconds in medians.items():
        kind = name.split()[0].rstrip(",")
        floor = medians.get(f"{kind} floor", float("nan"))
        ratio = f"{seconds / floor:8.2f}" if floor == floor else ""
        print(f"{name:26} {seconds * 1e3:7.2f} {options.batch / seconds:10,.0f} {ratio}")


if __name__ == "__main__":
    main()
