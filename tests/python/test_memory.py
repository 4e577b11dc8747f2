"""Memory that is refused: `MemoryError`, or `ConfigError` for sizes beyond any machine, and nothing changes.

Every case runs in a process of its own, under a limit of its address space.
"""

from __future__ import annotations

import inspect
import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import ruvector_gnn as rg

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems don't bound the address space")

HEADROOM = 64 << 20
"""Bytes beyond those in use that a process may take."""

PATIENCE = 30
"""Seconds within which a call must be refused."""


def run(case: str) -> None:
    """Run a function of this module in a process of its own."""
    code = f"import test_memory; test_memory.{case}()"
    environment = {**os.environ, "RUVECTOR_NUM_THREADS": "2"}
    child = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    ended = f"signal {-child.returncode}" if child.returncode < 0 else f"status {child.returncode}"
    assert child.returncode == 0, f"{case} ended with {ended}\n{child.stdout}{child.stderr}"


# --- in the child


@contextmanager
def limited(headroom: int = HEADROOM) -> Iterator[None]:
    """Bound the address space of this process to what it takes by now, and `headroom` bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + headroom, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def warm_up() -> None:
    """Start the threads, whose stacks take address space."""
    x = rg.tensor(np.ones((600, 600)))
    (x @ x).sum().numpy()


class SlowError(Exception):
    """A call was not refused in time."""


def late(signum: int, frame: FrameType | None) -> None:
    raise SlowError(f"not refused within {PATIENCE} s")


def outcome(call: Callable[[], object]) -> BaseException | None:
    """What a call raises under the limit."""
    signal.signal(signal.SIGALRM, late)
    with limited():
        signal.alarm(PATIENCE)
        try:
            call()
        except BaseException as error:  # PyO3's PanicException is no Exception
            return error.with_traceback(None)
        finally:
            signal.alarm(0)
    return None


def refused(**calls: Callable[[], object]) -> None:
    """Check that each call is refused memory, and works when there is some."""
    warm_up()
    for name, call in calls.items():
        raised = outcome(call)
        assert isinstance(raised, MemoryError), f"{name}: {raised!r}"
    for name, call in calls.items():
        try:
            call()
        except Exception as error:
            raise AssertionError(f"{name}, with memory: {error!r}") from error


def unchanged(call: Callable[[], object], state: Callable[[], object]) -> None:
    """Check that a refused call changes nothing, and that the next one is what the first would have been."""
    warm_up()
    before = state()
    raised = outcome(call)
    assert isinstance(raised, MemoryError), repr(raised)
    assert state() == before
    call()
    assert state() != before


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def ring(nodes: int, degree: int) -> rg.Graph:
    """Every node aggregates from the next ones."""
    indices = (np.arange(nodes)[:, None] + np.arange(1, degree + 1)) % nodes
    return rg.Graph.from_csr(np.arange(nodes + 1) * degree, np.sort(indices, axis=1).ravel())


# --- sizes beyond any machine

ABSURD = [2**40, 2**63, 2**70, -1, -(2**70)]

SMALL: dict[str, Any] = {
    "dim": 4,
    "edge_dim": 2,
    "ffn_dim": 8,
    "field": None,
    "heads": 2,
    "hidden_dim": 4,
    "in_dim": 4,
    "k": 2,
    "layer": "gat",
    "max_hops": 2,
    "n": 1,
    "node": 0,
    "num_batches": 1,
    "num_experts": 3,
    "num_global": 2,
    "num_heads": 2,
    "num_hops": 1,
    "num_layers": 2,
    "num_negatives": 1,
    "num_nodes": 6,
    "num_parts": 2,
    "num_segments": 4,
    "num_sources": 6,
    "out_dim": 4,
    "pe_dim": 2,
    "roots": 2,
    "seed": 0,
    "size": 2,
    "start": 0,
    "stop": 2,
    "top_k": 1,
    "walk_length": 3,
}
"""Parameters that are sizes, counts or numbers, with values that are fine."""

NOT_TRIED = {"steps", "n", "roots", "walk_length", "num_batches"}
"""Numbers whose work is time rather than memory: steps of an integration, walks; and threads."""


def arguments() -> dict[str, Any]:
    """Values for all other required parameters of the public functions, by name."""
    graph, x = ring(6, 2), random(6, 4)
    graph_edges = np.array([[0, 1, 2], [1, 2, 3]])
    return {
        **SMALL,
        "anchors": x,
        "array": x,
        "assignment": np.array([0, 0, 0, 1, 1, 1]),
        "index": rg.HNSWIndex(4),
        "batch": np.zeros(6, np.int64),
        "candidates": x,
        "data": x,
        "edge_index": graph_edges,
        "edges": graph_edges,
        "embeddings": x,
        "encoder": rg.nn.Linear(4, 4, seed=0),
        "fanouts": [2, 2],
        "gates": np.full((6, 2), 0.5),
        "gnn": rg.nn.GCNLayer(4, 4, seed=0),
        "graph": graph,
        "graphs": [graph],
        "hop_weights": [1.0],
        "hops": 1,
        "indices": graph.indices,
        "indptr": graph.indptr,
        "layers": [rg.nn.RuvectorLayer(4, 4, 2, seed=0)],
        "level_embeddings": [x],
        "lists": [[1], [0]],
        "mask": np.ones((6, 4), bool),
        "mlp": rg.nn.Linear(4, 4, seed=0),
        "nodes": [0, 3],
        "non_neighbors": np.zeros((6, 1), np.int64),
        "positives": x,
        "query": x,
        "ranked": [[1, 2]],
        "rate": 0.5,
        "relevant": [[1]],
        "scores": x,
        "segments": [0, 1, 2, 3, 0, 1],
        "sizes": [2, 2],
        "source": [0, 1],
        "targets": [0, 1, 2, 3, 0, 1],
        "tensors": [x, x],
        "vectors": x,
        "x": x,
    }


def public() -> Iterator[tuple[str, Callable[..., object]]]:
    """All public functions and classes of these rooms, and the methods of `Graph` and `Tensor`."""
    for module in (rg, rg.nn, rg.losses, rg.optim, rg.search, rg.metrics):
        for name in module.__all__:
            thing = getattr(module, name)
            is_error = inspect.isclass(thing) and issubclass(thing, BaseException)
            apart = {"HNSWIndex", "LearningReport", "SearchResult", "VectorDB"}
            if callable(thing) and not is_error and name not in apart:
                yield f"{module.__name__}.{name}", thing
    for thing in (ring(6, 2), rg.tensor(random(6, 4))):
        for name in dir(thing):
            if not name.startswith("_") and callable(getattr(thing, name)):
                yield f"{type(thing).__name__}.{name}", getattr(thing, name)


def numbers(function: Callable[..., object]) -> tuple[list[str], list[str]]:
    """The parameters that are sizes, counts or numbers, and the required others."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return [], []
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    whole = {p.name for p in named if type(p.default) is int or str(p.annotation).startswith("int")}
    sizes = [p.name for p in named if p.name in whole or p.name in SMALL or p.name.startswith("axis")]
    required = [p.name for p in named if p.default is p.empty]
    return [name for name in sizes if name not in NOT_TRIED], required


def absurd() -> None:
    """Every size of every public function."""
    warm_up()
    given, wrong, tried = arguments(), [], 0
    for name, function in public():
        sizes, required = numbers(function)
        for size in sizes:
            unknown = [other for other in required if other not in given and other != size]
            assert not unknown, f"{name}: give values for {unknown} in `arguments`"
            for value in ABSURD:
                values = {**{other: given[other] for other in required}, size: value}
                raised = outcome(lambda f=function, v=values: f(**v))
                tried += 1
                if not isinstance(raised, MemoryError | rg.RuvectorError | None):
                    wrong.append(f"{name}({size}={value}): {raised!r}")
    assert tried > 400, tried
    assert not wrong, "\n".join(wrong)


def by_hand() -> dict[str, Callable[[], object]]:
    """Calls whose sizes are not a single parameter, and what constructors take at their word."""
    graph, x, huge = ring(6, 2), rg.tensor(random(6, 4)), 2**40
    column, row = rg.tensor(random(1_000_000, 1)), rg.tensor(random(1, 1_000_000))
    tall, wide = rg.tensor(np.zeros((2**34, 0))), rg.tensor(np.zeros((0, 2**34)))
    gat = rg.nn.GATLayer(4, 4, 2, seed=0)
    return {
        "broadcast": lambda: column + row,
        "outer": lambda: column @ row,
        "empty inner": lambda: tall @ wide,
        "stacks": lambda: tall.reshape(2**10, 2**24, 0) @ wide.reshape(2**10, 0, 2**24),
        "linear": lambda: rg.nn.Linear(2**20, 2**20),
        "layers": lambda: [gat, rg.nn.GATLayer(huge, huge, huge)],
        "reshape": lambda: x.reshape(huge, huge),
        "reshape one": lambda: x.reshape(2**70, -1),
        "slice": lambda: x.slice(0, huge),
        "slice back": lambda: x.slice(3, 1),
        "at": lambda: x[2**70],
        "at minus": lambda: x[-(2**63)],
        "rows": lambda: x.index_select([2**33]),
        "permuted": lambda: x.transpose(0, 2**63),
        "segments": lambda: rg.segment_sum(x, [0, 1, 2, 3, 4, 5], huge),
        "segments of nothing": lambda: rg.segment_sum(np.zeros((0, 2**34)), [], 2**31),
        "nodes": lambda: rg.Graph.from_edge_index([[0], [1]], num_nodes=2**32 - 1),
        "sources": lambda: rg.Graph.from_csr([0, 1], [0], num_sources=2**32 - 1).transpose(),
        "indptr": lambda: rg.Graph.from_csr([0, 2**62], [0]),
        "sample": lambda: graph.sample([0], [huge, -2]),
        "sample none": lambda: graph.sample([0], []),
        "negatives": lambda: rg.losses.sparse_adjacency(x, [[0], [1]], num_negatives=huge),
        "encoding": lambda: graph.laplacian_positional_encoding(huge),
        "seed": lambda: rg.manual_seed(2**64),
        "mask": lambda: rg.where(np.ones((1, 1), bool), column, row),
        "pool": lambda: rg.nn.global_sum_pool(x, np.zeros(6, np.int64), size=huge),
        "adjacency": lambda: rg.losses.adjacency_reconstruction(
            random(400_000, 1), rg.Graph.from_edge_index([[], []], num_nodes=400_000)
        ),
        "info_nce": lambda: rg.losses.info_nce(random(400_000, 1), random(400_000, 1)),
        "search": lambda: rg.search.differentiable_search(random(400_000, 1), random(400_000, 1), 1),
        "distances": lambda: ring(100_000, 1).distances(np.arange(100_000)),
    }


def absurd_by_hand() -> None:
    warm_up()
    raised = {name: outcome(call) for name, call in by_hand().items()}
    wrong = {n: e for n, e in raised.items() if not isinstance(e, MemoryError | rg.RuvectorError)}
    assert not wrong, wrong


def test_sizes_beyond_any_machine_are_refused_everywhere() -> None:
    run("absurd")


def test_sizes_of_several_arguments_are_refused() -> None:
    run("absurd_by_hand")


# --- calls whose results or intermediates do not fit


def tensors() -> None:
    array = random(4800, 5000)  # 96 MB
    x, y = rg.tensor(array), rg.tensor(array[::-1])
    rows, mask = np.arange(4800)[::-1].copy(), array > 0
    a, b = rg.tensor(random(4900, 8)), rg.tensor(random(8, 4900))
    refused(
        tensor=lambda: rg.tensor(array),
        add=lambda: x + y,
        exp=lambda: x.exp(),
        softmax=lambda: x.softmax(),
        columns=lambda: x.softmax(0),
        where=lambda: rg.where(mask, x, y),
        masked_fill=lambda: x.masked_fill(mask, 0.0),
        normalize=lambda: x.normalize(),
        matmul=lambda: a @ b,
        concat=lambda: rg.concat([x, y]),
        stack=lambda: rg.stack([x, y]),
        index_select=lambda: x.index_select(rows),
        index=lambda: x[rows],
        mask=lambda: x[mask],
        steps=lambda: x[:, ::-1],
        slice=lambda: x.slice(1, 4999, axis=1),
        dropout=lambda: x.dropout(0.5, seed=1),
        transpose=lambda: x.T.numpy(),
        numpy=lambda: x.numpy(),
        repr=lambda: repr(x),
        pickle=lambda: pickle.dumps(x),
        float64=lambda: rg.tensor(array.astype(np.float64)),
    )


def backward() -> None:
    x = rg.tensor(random(4800, 5000), requires_grad=True)
    loss = (x * x).sum()
    unchanged(
        lambda: loss.backward(retain_graph=True),
        lambda: None if x.grad is None else float(x.grad.numpy().sum()),
    )
    before = x.grad
    assert before is not None
    held = before.numpy()
    del before
    assert isinstance(outcome(lambda: loss.backward(retain_graph=True)), MemoryError)
    grad = x.grad
    assert grad is not None and (grad.numpy() == held).all()
    loss.backward()
    grad = x.grad
    assert grad is not None and np.allclose(grad.numpy(), 2 * held)


def grad_of(loss: rg.Tensor, tensors: list[rg.Tensor]) -> None:
    refused(grad=lambda: rg.grad(loss, tensors, retain_graph=True))


def gradients() -> None:
    x = rg.tensor(random(4800, 5000), requires_grad=True)
    grad_of((x * x).sum(), [x])


class Three(rg.nn.Module):
    """Three parameters of 64 MB, and a small one before them."""

    def __init__(self) -> None:
        super().__init__()
        self.small = rg.nn.Parameter(np.ones((3, 3), np.float32))
        for name in ("first", "second", "third"):
            setattr(self, name, rg.nn.Parameter(np.ones((4000, 4000), np.float32)))


def optimizer_of(make: Callable[[list[rg.Tensor]], rg.optim.Optimizer], mapped: bool = False) -> None:
    module = Three()
    if mapped:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "three.safetensors")
            # Buffers that a process has used wait for reuse: another one writes the file.
            code = f"import test_memory; test_memory.Three().save_weights({str(path)!r})"
            subprocess.run([sys.executable, "-c", code], check=True)
            module.load_weights(path, mmap=True)
    parameters = list(module.parameters())
    for parameter in parameters:
        parameter.grad = np.ones(parameter.shape, np.float32)
    optimizer = make(list(parameters))
    unchanged(
        optimizer.step,
        lambda: (
            [float(parameter[:5, :5].numpy().sum()) for parameter in parameters],
            {number: state["step"] for number, state in optimizer.state_dict()["state"].items()},
        ),
    )


def adam() -> None:
    optimizer_of(lambda parameters: rg.optim.Adam(parameters, lr=0.1))


def sgd() -> None:
    optimizer_of(lambda parameters: rg.optim.SGD(parameters, lr=0.1, momentum=0.9))


def mapped_sgd() -> None:
    optimizer_of(lambda parameters: rg.optim.SGD(parameters, lr=0.1), mapped=True)


def modules() -> None:
    module = Three()
    loaded = {name: value + 1 for name, value in module.state_dict().items()}
    unchanged(
        lambda: module.load_state_dict(loaded),
        lambda: [float(parameter[:5, :5].numpy().sum()) for parameter in module.parameters()],
    )
    refused(
        norm=lambda: rg.nn.LayerNorm(50_000_000),
        state_dict=module.state_dict,
    )


def layers() -> None:
    graph, x = ring(100_000, 3), random(100_000, 32)
    refused(
        linear=lambda: rg.nn.Linear(32, 256, seed=0)(x),
        gcn=lambda: rg.nn.GCNLayer(32, 256, seed=0)(x, graph),
        gat=lambda: rg.nn.GATLayer(32, 64, 4, seed=0)(x, graph),
        ruvector=lambda: rg.nn.RuvectorLayer(32, 256, 4, seed=0)(x, graph),
    )


def more_layers() -> None:
    graph, x = ring(100_000, 3), random(100_000, 32)
    wide = random(100_000, 256)
    refused(
        sage=lambda: rg.nn.SAGELayer(32, 256, seed=0)(x, graph),
        lstm=lambda: rg.nn.SAGELayer(32, 256, "lstm", seed=0)(x, graph),
        gatv2=lambda: rg.nn.GATv2Layer(32, 64, 4, seed=0)(x, graph),
        gru=lambda: rg.nn.GRUCell(32, 256, seed=0)(x, np.zeros((100_000, 256), np.float32)),
        experts=lambda: rg.nn.MixtureOfExpertsLayer(32, 256, seed=0)(x, graph),
        max=lambda: rg.aggregate(wide, graph, "max"),
        aggregate=lambda: rg.aggregate(wide, graph, "sum"),
    )


def training() -> None:
    graph, x = ring(60_000, 3), random(60_000, 64)
    model = rg.nn.Sequential(rg.nn.Linear(64, 256, seed=0), rg.nn.ReLU(), rg.nn.Linear(256, 64, seed=1))
    gat = rg.nn.GATLayer(64, 64, 4, concat_heads=False, seed=2)

    def state() -> object:
        parameters = [*model.parameters(), *gat.parameters()]
        return [None if p.grad is None else float(p.grad.numpy().sum()) for p in parameters]

    unchanged(lambda: (gat(model(x), graph) ** 2).sum().backward(), state)


def losses() -> None:
    a, b = rg.tensor(random(4900, 16), requires_grad=True), random(4900, 16)
    scores = rg.tensor(random(4900, 4900), requires_grad=True)
    refused(
        info_nce=lambda: rg.losses.info_nce(a, b),
        cross_entropy=lambda: rg.losses.cross_entropy(scores, np.arange(4900)),
        adjacency=lambda: rg.losses.adjacency_reconstruction(a, ring(4900, 2)),
    )


def more_losses() -> None:
    a, b = rg.tensor(random(4900, 16), requires_grad=True), random(4900, 16)
    scores = rg.tensor(random(4900, 4900), requires_grad=True)
    refused(
        soft=lambda: rg.losses.cross_entropy(scores, np.full((4900, 4900), 1 / 4900, np.float32)),
        mse=lambda: rg.losses.mse(scores, np.zeros((4900, 4900), np.float32)),
        bce=lambda: rg.losses.bce_with_logits(scores, np.zeros((4900, 4900), np.float32)),
        sparse=lambda: rg.losses.sparse_adjacency(a, ring(4900, 2).to_edge_index(), num_negatives=500),
        search=lambda: rg.search.differentiable_search(a, b, 10),
    )


def graphs() -> None:
    nodes = 3_000_000
    graph = ring(nodes, 4)
    edges = graph.to_edge_index()
    shuffled = edges[:, ::-1].copy()
    weighted = rg.Graph.from_csr(graph.indptr, graph.indices, np.ones(4 * nodes, np.float32))
    all_nodes = np.arange(nodes)
    refused(
        from_edges=lambda: rg.Graph.from_edge_index(shuffled),
        indices=lambda: graph.indices.sum() + graph.indices.sum() + graph.to_edge_index().sum(),
        edge_index=graph.to_edge_index,
        transpose=graph.transpose,
        loops=graph.add_self_loops,
        normalize=graph.gcn_normalize,
        weighted=weighted.gcn_normalize,
        batch=lambda: rg.Graph.batch([graph, graph]),
        sample=lambda: graph.sample(all_nodes, [4, 4]),
        layer_sample=lambda: graph.layer_sample(all_nodes, [nodes, nodes]),
        subgraph=lambda: graph.subgraph(all_nodes),
        walks=lambda: graph.random_walk_subgraphs(800_000, 4, 2),
        distances=lambda: graph.distances(np.arange(8)),
        scipy=graph.to_scipy,
        pickle=lambda: pickle.dumps(graph),
    )


def learner() -> None:
    vectors = random(6000, 1600)
    index = rg.HNSWIndex(1600, m=4, ef_construction=10)
    index.add(vectors)
    served = rg.SearchLearner(index)
    queries, clicks = vectors[:12] + 0.1, [[row] for row in range(12)]
    served.fit(queries[:6], clicks[:6])
    unchanged(lambda: served.fit(queries, clicks), lambda: str(served.report))
    raised = outcome(lambda: served.search(queries, k=2**40))
    assert isinstance(raised, MemoryError | rg.ConfigError), repr(raised)


QUICK = ["backward", "gradients", "adam", "mapped_sgd", "layers", "losses"]
LONG = ["tensors", "sgd", "modules", "more_layers", "training", "more_losses", "graphs", "learner"]


@pytest.mark.parametrize("case", QUICK)
def test_what_does_not_fit_is_refused_and_changes_nothing(case: str) -> None:
    run(case)


@pytest.mark.long
@pytest.mark.parametrize("case", LONG)
def test_what_does_not_fit_is_refused_and_changes_nothing_at_length(case: str) -> None:
    run(case)


# --- the index: its cases belong here
