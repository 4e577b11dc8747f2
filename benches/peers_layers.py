"""Layers beside PyTorch Geometric and DGL, in one run.

    pip install ".[bench-layers]" && python benches/peers_layers.py [--nodes 100000] [--rounds 15]

A random graph of average degree 16 and one of nearest neighbours, 128 -> 64 in float32, two threads for all.
Each task is checked first: given the same weights, outputs agree within 1e-4. Then ours and the peers take
turns, round by round, so that a busy machine slows all alike; each figure is the median, in ms. A training
step is forward, backward from ones, and Adam. PyG is timed as documented, with `edge_index`, and where its
layer takes one with a sparse CSR matrix, which is faster, and with its normalization kept, as ours is; torch
alone is its `embedding_bag`, the fastest sum that it has. malloc is told to keep freed memory, which makes
PyG faster than it is out of the box. A peer that is not installed (DGL has to be by hand, for its releases
name the versions of torch that they fit) is left out and named.

One table has full attention within a graph, beside PyTorch's encoder layer in evaluation and in training. The
last samples mini-batches of 1,024 seeds with fanouts 10 and 5, two SAGE layers: seeds per second.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["RUVECTOR_NUM_THREADS"] = "2"
# Threads that wait must not spin: they would take the processors from whoever has the next turn.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import numpy as np
import ruvector_gnn as rg

warnings.filterwarnings("ignore", category=FutureWarning)  # DGL's and PyG's use of torch
INS, OUTS, HEADS, DEGREE = 128, 64, 8, 16
BATCH, FANOUTS = 1024, [10, 5]

Work = Callable[[], Any]


def optional(name: str) -> Any:
    """The module, or None with a word about it."""
    try:
        if name == "dgl":
            # Its sampling library is built for one version of torch only; nothing here needs it.
            sys.modules["dgl.graphbolt"] = types.ModuleType("dgl.graphbolt")
        __import__(name)
    except (ImportError, OSError) as error:
        print(f"{name} is left out: {error}", file=sys.stderr)
        return None
    return sys.modules[name]


torch, pyg, dgl = optional("torch"), optional("torch_geometric"), optional("dgl")


@dataclass
class Setting:
    """One graph for all libraries, and features."""

    ours: rg.Graph
    x: rg.Tensor
    peers: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, sources: np.ndarray, targets: np.ndarray, nodes: int) -> Setting:
        # Loops and repeated edges, on whose meaning libraries differ, are left out.
        kept = np.unique(np.stack([sources, targets])[:, sources != targets], axis=1)
        edges = np.ascontiguousarray(kept[:, np.random.default_rng(3).permutation(kept.shape[1])])
        x = np.random.default_rng(1).standard_normal((nodes, INS), dtype=np.float32)
        setting = cls(rg.Graph.from_edge_index(edges, nodes), rg.tensor(x))
        if torch is not None:
            graph = setting.ours
            setting.peers["x"] = torch.from_numpy(x)
            setting.peers["edges"] = torch.from_numpy(edges)
            pointers, columns = torch.from_numpy(graph.indptr), torch.from_numpy(graph.indices)
            setting.peers["bags"] = columns, pointers[:-1]
            setting.peers["csr"] = torch.sparse_csr_tensor(
                pointers, columns, torch.ones(len(columns)), (nodes, nodes)
            )
        if dgl is not None:
            pair = setting.peers["edges"]
            setting.peers["dgl"] = dgl.graph((pair[0], pair[1]), num_nodes=nodes)
            loops = dgl.add_self_loop(dgl.remove_self_loop(setting.peers["dgl"]))
            setting.peers["dgl, loops"] = loops
            # GCN's normalization by in-degrees, as PyG's; DGL's own mixes in- and out-degrees.
            scale = loops.in_degrees().float() ** -0.5
            setting.peers["dgl, scale"] = scale.unsqueeze(1)
            for graph in (setting.peers["dgl"], loops):
                graph.create_formats_()
        return setting


def random_graph(nodes: int) -> Setting:
    rng = np.random.default_rng(0)
    sources, targets = rng.integers(nodes, size=(2, nodes * DEGREE))
    return Setting.of(sources, targets, nodes)


def nearest_graph(nodes: int) -> Setting:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((1000, 32), dtype=np.float32)
    vectors = centres[rng.integers(1000, size=nodes)]
    vectors += 0.5 * rng.standard_normal(vectors.shape, dtype=np.float32)
    index = rg.HNSWIndex(32, metric="l2")
    index.add(vectors)
    sources = index.search(vectors, DEGREE, ef=32).rows.ravel()
    return Setting.of(sources, np.repeat(np.arange(nodes), DEGREE), nodes)


def forward(layer: Any, *inputs: Any) -> Any:
    """The result without a tape, of our layer or of one of torch."""
    if isinstance(layer, rg.nn.Module):
        with rg.no_grad():
            return layer(*inputs)
    with torch.no_grad():
        return layer(*inputs)


def trainer(layer: Any, *inputs: Any) -> Work:
    """A training step."""
    optimizer = (rg.optim if isinstance(layer, rg.nn.Module) else torch.optim).Adam(list(layer.parameters()))

    def step() -> None:
        optimizer.zero_grad()
        layer(*inputs).sum().backward()
        optimizer.step()

    return step


def with_weights(layer: Any, weights: dict[str, np.ndarray]) -> Any:
    layer.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return layer


class Stack:
    """Two SAGE layers with a ReLU between, of a peer."""

    def __init__(self, first: Any, second: Any, graph_first: bool = False) -> None:
        self.layers, self.graph_first = (first, second), graph_first

    def parameters(self) -> Iterator[Any]:
        return (p for layer in self.layers for p in layer.parameters())

    def __call__(self, x: Any, graph: Any) -> Any:
        for number, layer in enumerate(self.layers):
            x = layer(graph, x) if self.graph_first else layer(x, graph)
            x = torch.relu(x) if number == 0 else x
        return x


class OurStack(rg.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = rg.nn.SAGELayer(INS, OUTS, seed=1), rg.nn.SAGELayer(OUTS, OUTS, seed=2)

    def forward(self, x: rg.nn.Input, graph: rg.Graph) -> rg.Tensor:
        return self.second(self.first(x, graph).relu(), graph)


class Normalized:
    """DGL's convolution with PyG's normalization, on the rows rather than on the edges, which is faster."""

    def __init__(self, layer: Any, bias: np.ndarray) -> None:
        self.layer, self.bias = layer, torch.nn.Parameter(torch.from_numpy(bias))

    def parameters(self) -> Iterator[Any]:
        return iter([*self.layer.parameters(), self.bias])

    def __call__(self, graph: Any, x: Any, scale: Any) -> Any:
        return self.layer(graph, x * scale) * scale + self.bias


def gcn(s: Setting) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    ours = rg.nn.GCNLayer(INS, OUTS, seed=0)
    yield "ours", ours, (s.x, s.ours)
    state = ours.state_dict()
    if pyg is not None:
        for name, graph in (("PyG", s.peers["edges"]), ("PyG, CSR", s.peers["csr"])):
            layer = pyg.nn.GCNConv(INS, OUTS, cached=name == "PyG, CSR")
            yield name, with_weights(layer, state), (s.peers["x"], graph)
    if dgl is not None:
        layer = dgl.nn.GraphConv(INS, OUTS, norm="none", bias=False)
        layer = with_weights(layer, {"weight": state["lin.weight"].T.copy()})
        yield (
            "DGL",
            Normalized(layer, state["bias"]),
            (s.peers["dgl, loops"], s.peers["x"], s.peers["dgl, scale"]),
        )


def sage(s: Setting) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    ours = OurStack()
    yield "ours", ours, (s.x, s.ours)
    states = [ours.first.state_dict(), ours.second.state_dict()]
    if pyg is not None:
        for name, graph in (("PyG", s.peers["edges"]), ("PyG, CSR", s.peers["csr"])):
            layers = [with_weights(pyg.nn.SAGEConv(w["lin_r.weight"].shape[1], OUTS), w) for w in states]
            yield name, Stack(*layers), (s.peers["x"], graph)
    if dgl is not None:
        layers = []
        for w in states:
            layer = dgl.nn.SAGEConv(w["lin_r.weight"].shape[1], OUTS, "mean")
            names = {"fc_neigh.weight": "lin_l.weight", "fc_self.weight": "lin_r.weight"}
            names["bias" if "bias" in layer.state_dict() else "fc_self.bias"] = "lin_l.bias"
            layers.append(with_weights(layer, {there: w[here] for there, here in names.items()}))
        yield "DGL", Stack(*layers, graph_first=True), (s.peers["x"], s.peers["dgl"])


def gat(s: Setting) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    ours = rg.nn.GATLayer(INS, OUTS // HEADS, HEADS, seed=0)
    yield "ours", ours, (s.x, s.ours)
    state = ours.state_dict()
    if pyg is not None:
        layer = with_weights(pyg.nn.GATConv(INS, OUTS // HEADS, HEADS), state)
        yield "PyG", layer, (s.peers["x"], s.peers["edges"])
    if dgl is not None:
        names = {"fc.weight": "lin.weight", "attn_l": "att_src", "attn_r": "att_dst", "bias": "bias"}
        layer = dgl.nn.GATConv(INS, OUTS // HEADS, HEADS)
        layer = with_weights(layer, {there: state[here] for there, here in names.items()})
        yield "DGL", layer, (s.peers["dgl, loops"], s.peers["x"])


def gatv2(s: Setting) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    ours = rg.nn.GATv2Layer(INS, OUTS // HEADS, HEADS, seed=0)
    yield "ours", ours, (s.x, s.ours)
    state = ours.state_dict()
    if pyg is not None:
        layer = with_weights(pyg.nn.GATv2Conv(INS, OUTS // HEADS, HEADS), state)
        yield "PyG", layer, (s.peers["x"], s.peers["edges"])
    if dgl is not None:
        layer = dgl.nn.GATv2Conv(INS, OUTS // HEADS, HEADS)
        names = {"fc_src": "lin_l", "fc_dst": "lin_r"}
        weights = {"attn": state["att"]}
        for there, here in names.items():
            weights |= {f"{there}.{kind}": state[f"{here}.{kind}"] for kind in ("weight", "bias")}
        layer = with_weights(layer, weights)
        yield "DGL", layer, (s.peers["dgl, loops"], s.peers["x"])


LAYERS = {"GCN": gcn, "SAGE, 2 layers": sage, "GAT 8 x 8": gat, "GATv2 8 x 8": gatv2}


def aggregations(s: Setting, columns: int, reduce: str) -> Iterator[tuple[str, Work]]:
    x = np.ascontiguousarray(s.x.numpy()[:, :columns])
    yield "ours", partial(rg.aggregate, rg.tensor(x), s.ours, reduce=reduce)
    if torch is None:
        return
    held = torch.from_numpy(x)
    columns_of, offsets = s.peers["bags"]
    bag = torch.nn.functional.embedding_bag
    yield "torch", lambda: bag(columns_of, held, offsets, mode=reduce)
    if pyg is not None:
        sources, targets = s.peers["edges"]
        scatter = partial(pyg.utils.scatter, dim_size=len(x), reduce=reduce)
        yield "PyG", lambda: scatter(held[sources], targets)
    if dgl is not None:
        operation = dgl.ops.copy_u_sum if reduce == "sum" else dgl.ops.copy_u_max
        yield "DGL", lambda: operation(s.peers["dgl"], held)


def medians(works: dict[str, Work], rounds: int) -> dict[str, float]:
    """Milliseconds, the works taking turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 2):
        for name, work in works.items():
            begin = time.perf_counter()
            work()
            if number >= 2:  # the first rounds warm up
                times[name].append(time.perf_counter() - begin)
    return {name: 1e3 * float(np.median(values)) for name, values in times.items()}


PEERS = ["torch", "PyG", "PyG, CSR", "DGL"]


def report(task: str, took: dict[str, float]) -> None:
    cells = [f"{took['ours']:.1f}"]
    for peer in PEERS:
        cells.append(f"{took[peer]:.1f} ({took[peer] / took['ours']:.1f}x)" if peer in took else "")
    print(f"| {task} | " + " | ".join(cells) + " |", flush=True)


def agree(task: str, works: dict[str, Work]) -> None:
    """The peers compute what we do."""
    expected = np.asarray(works["ours"]())
    for name, work in works.items():
        gap = np.abs(np.asarray(work()).reshape(expected.shape) - expected).max()
        if gap > 1e-4 * max(1.0, np.abs(expected).max()):
            raise SystemExit(f"{task}: {name} differs from ours by {gap:.1e}")


def layers(kind: str, s: Setting, rounds: int, only: str) -> None:
    print(f"\n| {kind} graph | ours | " + " | ".join(PEERS) + " |")
    print("|---" * (len(PEERS) + 2) + "|")
    for reduce in ("sum", "max"):
        for columns in (OUTS, INS):
            task = f"{reduce} over neighbours, {columns} columns"
            if only in task:
                works = dict(aggregations(s, columns, reduce))
                agree(task, works)
                report(task, medians(works, rounds))
    for task, cases in LAYERS.items():
        if only.lower() not in task.lower():
            continue
        made = list(cases(s))
        works = {name: partial(forward, layer, *inputs) for name, layer, inputs in made}
        agree(task, works)
        report(f"{task}, forward", medians(works, rounds))
        steps = {name: trainer(layer, *inputs) for name, layer, inputs in made}
        report(f"{task}, training step", medians(steps, max(3, rounds // 3)))


def transformers(rounds: int) -> None:
    """Full attention within one graph of so many nodes."""
    print("\n| full attention, 8 heads of 16 | ours | " + " | ".join(PEERS) + " |")
    print("|---" * (len(PEERS) + 2) + "|")
    dim = INS
    for nodes in (300, 3_000, 10_000):
        x = np.random.default_rng(0).standard_normal((nodes, dim), dtype=np.float32)
        graph = rg.Graph.from_adjacency([[]] * nodes)
        ours = rg.nn.GraphTransformerLayer(dim, HEADS, pe_dim=0, seed=0)
        made: dict[str, tuple[Any, tuple[Any, ...]]] = {"ours": (ours, (rg.tensor(x), graph))}
        if torch is not None:
            peer = torch.nn.TransformerEncoderLayer(dim, HEADS, 2 * dim, dropout=0.0, batch_first=True)
            made["torch"] = with_weights(peer, ours.state_dict()), (torch.from_numpy(x)[None],)
        for layer, _ in made.values():
            layer.eval()
        works = {name: partial(forward, layer, *inputs) for name, (layer, inputs) in made.items()}
        agree(f"{nodes} nodes", works)
        report(f"{nodes:,} nodes, forward", medians(works, rounds))
        for layer, _ in made.values():
            layer.train()
        steps = {name: trainer(layer, *inputs) for name, (layer, inputs) in made.items()}
        report(f"{nodes:,} nodes, training step", medians(steps, rounds))


def batches(s: Setting, rounds: int) -> None:
    """Sampling, inference and training on mini-batches, seeds per second."""
    rng = np.random.default_rng(2)
    nodes = len(s.x)
    model = rg.nn.GraphSAGE(INS, OUTS, hidden_dim=OUTS, sample_sizes=FANOUTS, seed=0)
    optimizer = rg.optim.Adam(list(model.parameters()))
    draw = partial(rng.choice, nodes, BATCH, replace=False)

    @rg.no_grad()
    def infer() -> None:
        model.forward_minibatch(s.x, s.ours, draw(), 0)

    def train() -> None:
        optimizer.zero_grad()
        model.forward_minibatch(s.x, s.ours, draw(), 0).sum().backward()
        optimizer.step()

    tasks: dict[str, dict[str, Work]] = {
        "sampling": {"ours": lambda: s.ours.sample(draw(), FANOUTS, 0)},
        "inference": {"ours": infer},
        "training": {"ours": train},
    }
    if dgl is not None:
        # DGL draws for the last layer first, as we do; it wants the fanouts in the order of the layers.
        sampler = dgl.dataloading.NeighborSampler(FANOUTS[::-1])
        pair = [dgl.nn.SAGEConv(INS, OUTS, "mean"), dgl.nn.SAGEConv(OUTS, OUTS, "mean")]
        adam = torch.optim.Adam([p for layer in pair for p in layer.parameters()])

        def sampled() -> tuple[Any, Any]:
            inputs, _, blocks = sampler.sample(s.peers["dgl"], torch.from_numpy(draw()))
            return inputs, blocks

        def run() -> Any:
            inputs, blocks = sampled()
            hidden = torch.relu(pair[0](blocks[0], s.peers["x"][inputs]))
            return pair[1](blocks[1], hidden)

        def peer_infer() -> None:
            with torch.no_grad():
                run()

        def peer_train() -> None:
            adam.zero_grad()
            run().sum().backward()
            adam.step()

        for task, work in zip(tasks, (sampled, peer_infer, peer_train), strict=True):
            tasks[task]["DGL"] = work
    print("\n| mini-batches, seeds per second | ours | DGL |\n|---|---|---|")
    for task, works in tasks.items():
        took = medians(works, 4 * rounds)
        speeds = {name: 1e3 * BATCH / ms for name, ms in took.items()}
        peer = f"{speeds['DGL']:,.0f}" if "DGL" in speeds else ""
        print(f"| {task} | {speeds['ours']:,.0f} | {peer} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="a part of the task's name")
    options = parser.parse_args()
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
    if torch is not None:
        torch.set_num_threads(2)
    for module in (torch, pyg, dgl):
        if module is not None:
            print(f"{module.__name__} {module.__version__}", end="  ")
    print()
    if not options.only or options.only in "full attention":
        transformers(options.rounds)
    first = random_graph(options.nodes)
    layers("random", first, options.rounds, options.only)
    if not options.only:
        layers("nearest-neighbour", nearest_graph(options.nodes), options.rounds, options.only)
        batches(first, options.rounds)


if __name__ == "__main__":
    main()
