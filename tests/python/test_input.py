"""Input that carries more than its numbers is honoured or refused, at every entry point."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
import pytest
import ruvector_gnn as rg

DIM = 4
X = np.random.default_rng(0).normal(size=(6, DIM)).astype(np.float32)
MASKED = np.ma.masked_array(X, mask=X > 0)
ROWS = np.ma.masked_array([0, 1], mask=[False, True])
RING = rg.Graph.from_adjacency([[1], [2], [3], [4], [5], [0]])
TAPED = rg.tensor(X, requires_grad=True)
PROBE = rg.tensor(X[0], requires_grad=True)


class Text(str, Enum):
    L2 = "l2"
    I8 = "i8"


def index(**options: Any) -> rg.HNSWIndex:
    made = rg.HNSWIndex(DIM, metric="l2", **options)
    made.add(X)
    return made


@pytest.fixture(scope="module")
def held() -> rg.HNSWIndex:
    return index()


def database(folder: Any) -> rg.VectorDB:
    return rg.VectorDB.open(folder / "a.rvdb", dim=DIM)


TAKES_NUMBERS: dict[str, Callable[[Any, rg.HNSWIndex, Any], object]] = {
    "add": lambda x, index, folder: index.add(x),
    "update": lambda x, index, folder: index.update(range(6), x),
    "search": lambda x, index, folder: index.search(x),
    "exact_search": lambda x, index, folder: index.exact_search(x),
    "range_search": lambda x, index, folder: index.range_search(x, 1.0),
    "knn": lambda x, index, folder: rg.Graph.knn(x, 2),
    "weights": lambda x, index, folder: rg.Graph.from_edge_index([[0] * 6, range(6)], weights=x[:, 0]),
    "csr weights": lambda x, index, folder: rg.Graph.from_csr([0, 6], [0] * 6, weights=x[:, 0]),
    "fit": lambda x, index, folder: rg.SearchLearner(index).fit(x, [[0]] * 6),
    "evaluate": lambda x, index, folder: rg.SearchLearner(index).evaluate(x, [[0]] * 6),
    "learned search": lambda x, index, folder: rg.SearchLearner(index).search(x),
    "targets": lambda x, index, folder: rg.losses.cross_entropy(X, x),
    "encode": lambda x, index, folder: rg.search.GNNEmbedder(rg.nn.GCNLayer(DIM, 2)).encode(x, RING),
    "db.add": lambda x, index, folder: database(folder).add(range(6), x),
    "db.search": lambda x, index, folder: database(folder).search(x[0]),
    "db.record": lambda x, index, folder: database(folder).record(x[0], [1]),
    "list of rows": lambda x, index, folder: index.add(list(x)),
    "tuple in a list": lambda x, index, folder: index.add([X[0], (x[0][0], 0, 0, 0)]),
}


@pytest.mark.parametrize("call", TAKES_NUMBERS)
def test_constants_have_neither_masks_nor_gradients(call: str, held: rg.HNSWIndex, tmp_path: Any) -> None:
    masked = np.ma.masked_array(X, mask=True)
    before = held.fingerprint
    with pytest.raises(rg.ShapeError, match="masked entries"):
        TAKES_NUMBERS[call](masked, held, tmp_path)
    with pytest.raises(rg.ConfigError, match=r"tensor\.detach\(\)"):
        TAKES_NUMBERS[call](TAPED, held, tmp_path)
    assert held.fingerprint == before


@pytest.mark.parametrize(
    "call",
    [
        lambda: rg.tensor(MASKED),
        lambda: rg.nn.Linear(DIM, 2)(MASKED),
        lambda: rg.nn.SAGELayer(DIM, 2)(MASKED, RING),
        lambda: rg.losses.mse(X, MASKED),
        lambda: rg.tensor(X) + MASKED,
        lambda: rg.tensor(X)[ROWS],
        lambda: rg.Graph.from_edge_index(np.ma.masked_array([[0], [1]], mask=[[True], [False]])),
        lambda: RING.sample(ROWS, [1]),
        lambda: index().vectors(ROWS),
        lambda: index().remove(ROWS),
        lambda: index().search(X, filter=ROWS),
        lambda: index().search(X, filter=np.ma.masked_array([True] * 6, mask=[True] + [False] * 5)),
        lambda: rg.nn.Linear(DIM, 6).load_state_dict({"weight": MASKED, "bias": np.zeros(6)}),
        lambda: rg.nn.global_mean_pool(X[:2], ROWS),
        lambda: rg.nn.InnerProductDecoder()(X, [ROWS, ROWS]),
        lambda: rg.metrics.ndcg(np.ma.masked_array([[1]], mask=True), [[1]]),
        lambda: rg.metrics.ndcg([[1]], [ROWS]),
        lambda: rg.SearchLearner(index()).evaluate(X[:1], [ROWS]),
        lambda: rg.Triples(ROWS, [0, 1], [1, 1]),
    ],
)
def test_masked_entries_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(rg.ShapeError, match="masked entries"):
        call()


def test_arrays_that_only_could_be_masked_are_taken() -> None:
    plain = np.ma.masked_array(X)
    made = rg.HNSWIndex(DIM)
    made.add(plain)
    np.testing.assert_array_equal(made.vectors(), X)
    np.testing.assert_array_equal(rg.tensor(plain).numpy(), X)


def test_tensors_with_gradients_are_taken_where_gradients_flow() -> None:
    assert rg.nn.Linear(DIM, 2)(TAPED).requires_grad
    assert rg.losses.mse(TAPED, X).requires_grad
    np.testing.assert_array_equal(np.asarray(TAPED), X)
    rg.HNSWIndex(DIM).add(TAPED.detach())


@pytest.mark.parametrize(
    "call",
    [
        lambda big: rg.Graph.from_edge_index(big.reshape(2, 1)),
        lambda big: rg.Graph.from_adjacency([big, []]),
        lambda big: rg.Graph.from_adjacency([[], []]).with_node_ids(big),
        lambda big: RING.k_hop(big, 1),
        lambda big: index().vectors(big),
        lambda big: index().search(X, filter=big),
        lambda big: rg.losses.cross_entropy(X[:2], big),
        lambda big: rg.metrics.ndcg([[1]], [big]),
        lambda big: rg.SearchLearner(index()).evaluate(X[:1], [big]),
    ],
)
def test_integers_beyond_63_bits_are_refused_by_value(call: Callable[[Any], object]) -> None:
    with pytest.raises(rg.RowError, match=str(2**64 - 3)):
        call(np.array([0, 2**64 - 3], dtype=np.uint64))


@pytest.mark.parametrize("name", [2**63, -(2**63) - 1, 2**70, np.uint64(2**63)])
def test_node_names_beyond_63_bits_are_refused_by_value(name: Any) -> None:
    networkx = pytest.importorskip("networkx")
    with pytest.raises(rg.ConfigError, match=str(int(name))):
        rg.Graph.from_networkx(networkx.Graph([(name, 1)]))
    kept = rg.Graph.from_networkx(networkx.Graph([(2**63 - 1, -(2**63))]))
    assert kept.node_ids is not None and kept.node_ids.tolist() == [2**63 - 1, -(2**63)]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64])
def test_a_mask_of_integers_is_refused(dtype: type, held: rg.HNSWIndex) -> None:
    mask = np.array([1, 0, 0, 1, 1, 0], dtype=dtype)
    for search in (held.search, held.exact_search, rg.SearchLearner(held).search):
        with pytest.raises(rg.ShapeError, match=r"filter=mask\.astype\(bool\)"):
            search(X[:1], k=3, filter=mask)
        assert set(search(X[:1], k=3, filter=mask.astype(bool))[0][0].tolist()) == {0, 3, 4}
        assert set(search(X[:1], k=6, filter=mask[:5])[0][0].tolist()) == {0, 1, -1}  # rows, as they repeat


def test_two_distinct_rows_of_two_are_rows() -> None:
    two = rg.HNSWIndex(DIM)
    two.add(X[:2])
    assert set(two.search(X[0], k=2, filter=[0, 1]).rows[0].tolist()) == {0, 1}
    with pytest.raises(rg.ShapeError, match="mask"):
        two.search(X[0], k=2, filter=[1, 1])


def test_strings_of_enumerations_name_what_they_are_worth(tmp_path: Any) -> None:
    made = rg.HNSWIndex(DIM, metric=Text.L2, storage=Text.I8)  # type: ignore[arg-type] # strings by type
    assert (made.metric, made.storage) == ("l2", "i8")
    options = {"storage": Text.I8}
    with rg.VectorDB.open(tmp_path / "a.rvdb", dim=DIM, metric=Text.L2, index_options=options) as db:
        db.add(range(6), X)
    with rg.VectorDB.open(tmp_path / "a.rvdb", metric="l2", index_options={"storage": "i8"}) as db:
        assert db.metric == "l2" and db.stats()["index_options"] == {"storage": "i8"}
        db.verify()


@pytest.mark.parametrize("value", [-1, 2**64, 2**70, -(2**70)])
def test_seeds_out_of_range_are_refused_by_name(value: int, held: rg.HNSWIndex, tmp_path: Any) -> None:
    pytest.importorskip("pymetis")
    db = database(tmp_path)
    db.add(range(6), X)
    db.record(X[0], [1])
    for call in (
        lambda: rg.HNSWIndex(DIM, seed=value),
        lambda: rg.SearchLearner(held, seed=value),
        lambda: rg.VectorDB.open(tmp_path / "b.rvdb", dim=DIM, seed=value),
        lambda: db.learn(seed=value),
        lambda: RING.partition(2, seed=value),
        lambda: RING.sample([0], [1], seed=value),
        lambda: RING.layer_sample([0], [1], seed=value),
        lambda: RING.random_walk_subgraphs(1, 1, 1, seed=value),
        lambda: rg.manual_seed(value),
        lambda: rg.nn.Linear(DIM, 2, seed=value),
    ):
        with pytest.raises(rg.ConfigError, match="seed"):
            call()


@pytest.mark.parametrize("value", [2**63, 2**70])
def test_counts_beyond_any_machine_are_refused_by_name(value: int, held: rg.HNSWIndex) -> None:
    layer = rg.nn.GCNLayer(DIM, 2)
    for name, call in {
        "dim": lambda: rg.HNSWIndex(value),
        "m": lambda: rg.HNSWIndex(DIM, m=value),
        "level": lambda: held.graph(value),
        "k": lambda: held.search(X, k=value),
        "roots": lambda: RING.random_walk_subgraphs(value, 1, 1),
        "walk_length": lambda: RING.random_walk_subgraphs(1, value, 1),
        "num_batches": lambda: RING.random_walk_subgraphs(1, 1, value),
        "nodes": lambda: rg.Graph.from_edge_index([[0], [1]], num_nodes=value),
    }.items():
        with pytest.raises((rg.ConfigError, MemoryError), match=name):
            call()
    assert held.search(X[0], k=1, ef=value).rows.tolist() == [[0]]
    encode = rg.search.GNNEmbedder(layer).encode
    np.testing.assert_allclose(encode(X, RING, batch_size=value), layer(X, RING).numpy(), atol=1e-6)
