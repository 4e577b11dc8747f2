"""HNSW search and build beside hnswlib, usearch and faiss, in one run.

    pip install '.[bench]'
    python benches/peers_search.py [--data DIR] [--only clustered] [--repeats 7] [--builds 1]

All libraries get the same vectors, M=16 and ef_construction=200 (of ours, `--ef-construction`), and search
on one thread, all queries in one call. Ours comes with exact and with i8 storage, which scores its last
candidates again with the exact vectors; faiss comes with exact and with 8-bit storage. A sweep of ef
measures recall@10 against exact search; queries per second at recall 0.95 and 0.99 are interpolated between
the two settings on either side (log speed, linear recall). Repeats are interleaved between the libraries,
so that a busy machine slows all alike, and count processor time, which on one thread is what a quiet
machine takes; each figure is the median. Build times are wall-clock on two threads, the libraries in turn,
`--builds` times; builds shorter than a second until each library has built for two seconds. A latency is the
wall-clock time of a call with one query, at the smallest ef of the sweep that reaches recall 0.95.

Data: clustered 128-d vectors under l2, made here: 100,000 in 1,000 clusters; 200,000 of low intrinsic
dimension, in 1,000 clusters within 16 of the dimensions; and 200,000 of high, in 20 clusters that fill all
128. And, where `--data` names a folder with them, the document embeddings of the retrieval sets (`docs` and
`queries` arrays) under cosine.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np

M, EF_CONSTRUCTION, K = 16, 200, 10
BUILD_SECONDS = 2.0
EFS = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448, 640, 900, 1280)


def clustered(n: int, dim: int, centres: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian clusters: vectors and 1,000 queries from the same mixture."""
    rng = np.random.default_rng(seed)
    middle = rng.standard_normal((centres, dim), dtype=np.float32)
    points = middle[rng.integers(centres, size=n + 1000)]
    points += 0.7 * rng.standard_normal(points.shape, dtype=np.float32)
    return points[:n], points[n:]


def embedded(n: int, dim: int, intrinsic: int, centres: int) -> tuple[np.ndarray, np.ndarray]:
    """Clusters within a random subspace of so many intrinsic dimensions."""
    basis = np.random.default_rng(1).standard_normal((intrinsic, dim), dtype=np.float32)
    vectors, queries = clustered(n, intrinsic, centres, 0)
    return vectors @ basis, queries @ basis


def retrieval(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Documents and at most 1,000 queries, normalised."""
    with np.load(path) as arrays:
        docs, queries = (arrays[name].astype(np.float32) for name in ("docs", "queries"))
    docs /= np.linalg.norm(docs, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return docs, queries[:1000]


class Ours:
    name = "ruvector_gnn"
    storage = "f32"
    ef_construction = EF_CONSTRUCTION

    def __init__(self, vectors: np.ndarray, metric: str) -> None:
        import ruvector_gnn as rg

        self.rg = rg
        rg.set_num_threads(2)
        self.index = rg.HNSWIndex(
            vectors.shape[1], metric=metric, m=M, ef_construction=self.ef_construction, storage=self.storage
        )
        self.index.add(vectors)
        rg.set_num_threads(1)

    def search(self, queries: np.ndarray, ef: int) -> np.ndarray:
        return self.index.search(queries, K, ef=ef).rows


class OursI8(Ours):
    name = "ruvector_gnn i8"
    storage = "i8"


class Hnswlib:
    name = "hnswlib"

    def __init__(self, vectors: np.ndarray, metric: str) -> None:
        import hnswlib

        self.index = hnswlib.Index(metric, vectors.shape[1])
        self.index.init_index(len(vectors), M=M, ef_construction=EF_CONSTRUCTION)
        self.index.add_items(vectors, num_threads=2)
        self.index.set_num_threads(1)

    def search(self, queries: np.ndarray, ef: int) -> np.ndarray:
        self.index.set_ef(ef)
        return self.index.knn_query(queries, K, num_threads=1)[0]


class Faiss:
    name = "faiss"

    def __init__(self, vectors: np.ndarray, metric: str) -> None:
        import faiss

        self.faiss = faiss
        faiss.omp_set_num_threads(2)
        kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        self.index = self.make(vectors.shape[1], kind)
        self.index.train(vectors)
        self.index.hnsw.efConstruction = EF_CONSTRUCTION
        self.index.add(vectors)
        faiss.omp_set_num_threads(1)

    def make(self, dim: int, kind: int) -> Any:
        return self.faiss.IndexHNSWFlat(dim, M, kind)

    def search(self, queries: np.ndarray, ef: int) -> np.ndarray:
        self.index.hnsw.efSearch = ef
        return self.index.search(queries, K)[1]


class FaissI8(Faiss):
    name = "faiss SQ8"

    def make(self, dim: int, kind: int) -> Any:
        return self.faiss.IndexHNSWSQ(dim, self.faiss.ScalarQuantizer.QT_8bit, M, kind)


class Usearch:
    name = "usearch"

    def __init__(self, vectors: np.ndarray, metric: str) -> None:
        from usearch.index import Index

        kind = {"l2": "l2sq", "cosine": "cos", "ip": "ip"}[metric]
        self.index = Index(
            ndim=vectors.shape[1], metric=kind, dtype="f32", connectivity=M, expansion_add=EF_CONSTRUCTION
        )
        self.index.add(np.arange(len(vectors)), vectors, threads=2)

    def search(self, queries: np.ndarray, ef: int) -> np.ndarray:
        self.index.expansion_search = ef
        return self.index.search(queries, K, threads=1).keys


PEERS = (Ours, OursI8, Hnswlib, Faiss, FaissI8, Usearch)


def exact(vectors: np.ndarray, queries: np.ndarray, metric: str) -> np.ndarray:
    """The nearest rows by brute force in NumPy, independent of every library here."""
    similarity = queries @ vectors.T
    if metric == "l2":
        similarity = 2 * similarity - (vectors**2).sum(axis=1)
    return np.argpartition(-similarity, K, axis=1)[:, :K]


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    """Share of the true neighbours that were found."""
    return float(np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(found, truth, strict=True)]))


def clock(task: Callable[[], object], now: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that a task takes."""
    begin = now()
    task()
    return now() - begin


def speed_at(target: float, recalls: list[float], speeds: list[float]) -> float:
    """Queries per second at a recall, NaN if it is never reached."""
    for i, reached in enumerate(recalls):
        if reached >= target:
            if i == 0:
                return speeds[0]
            share = (target - recalls[i - 1]) / (reached - recalls[i - 1])
            return float(np.exp((1 - share) * np.log(speeds[i - 1]) + share * np.log(speeds[i])))
    return float("nan")


def latencies(
    peers: list[Any], queries: np.ndarray, curves: dict[str, list[float]]
) -> dict[str, list[float]]:
    """Seconds of calls with one query each, the libraries in turn, at the first ef of recall 0.95."""
    seconds: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for i in range(len(queries)):
        for peer in peers:
            reached = (ef for ef, recall in zip(EFS, curves[peer.name], strict=True) if recall >= 0.95)
            ef = next(reached, EFS[-1])
            seconds[peer.name].append(
                clock(lambda peer=peer, ef=ef, i=i: peer.search(queries[i : i + 1], ef))
            )
    return seconds


def compare(
    title: str,
    vectors: np.ndarray,
    queries: np.ndarray,
    metric: str,
    repeats: int,
    at_least: int,
    names: set[str],
) -> None:
    """Print one table."""
    truth = exact(vectors, queries, metric)
    makes = [make for make in PEERS if not names or make.name in names]
    peers, builds = [], {make.name: [] for make in makes}
    for make in makes:
        begin = time.perf_counter()
        peers.append(make(vectors, metric))
        builds[make.name].append(time.perf_counter() - begin)
    def is_brief() -> bool:
        quickest = max(min(seconds) for seconds in builds.values())
        return quickest <= BUILD_SECONDS / 2 and min(map(sum, builds.values())) < BUILD_SECONDS

    while min(map(len, builds.values())) < at_least or is_brief():
        for make in makes:
            builds[make.name].append(clock(lambda make=make: make(vectors, metric)))
    curves = {peer.name: [recall(peer.search(queries, ef), truth) for ef in EFS] for peer in peers}
    times = {peer.name: [[] for _ in EFS] for peer in peers}
    for _ in range(repeats):
        for i, ef in enumerate(EFS):
            for peer in peers:
                # Nothing is asked of a setting far beyond recall 0.99.
                if i == 0 or curves[peer.name][i - 1] < 0.995:
                    seconds = clock(lambda peer=peer, ef=ef: peer.search(queries, ef), time.process_time)
                    times[peer.name][i].append(seconds)
    print(f"\n{title}: {len(vectors):,} x {vectors.shape[1]}, {metric}, {len(queries)} queries\n")
    head = ("library", "build, 2 threads, s", "queries/s at recall 0.95", "at 0.99", "recall@10 at ef=56")
    print(f"| {' | '.join((*head, 'one query, p50, us', 'p99'))} |")
    print("|---|---|---|---|---|---|---|")
    calls = latencies(peers, queries, curves)
    for peer in peers:
        measured = [i for i in range(len(EFS)) if times[peer.name][i]]
        speeds = [len(queries) / float(np.median(times[peer.name][i])) for i in measured]
        recalls = [curves[peer.name][i] for i in measured]
        at = [speed_at(target, recalls, speeds) for target in (0.95, 0.99)]
        name, ef56 = peer.name, curves[peer.name][EFS.index(56)]
        build = np.median(builds[name])
        p50, p99 = np.percentile(calls[name], [50, 99]) * 1e6
        cells = f"{build:.3f} | {at[0]:,.0f} | {at[1]:,.0f} | {ef56:.4f} | {p50:.0f} | {p99:.0f}"
        print(f"| {name} | {cells} |", flush=True)


def main() -> None:
    """Run the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with retrieval sets (*.npz)")
    parser.add_argument(
        "--only", action="append", default=[], help="clustered, low, high, or the name of a set"
    )
    parser.add_argument("--library", action="append", default=[], help="only this library (may be repeated)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--builds", type=int, default=1, help="of each library, at least")
    parser.add_argument(
        "--ef-construction", type=int, default=EF_CONSTRUCTION, help="ours; peers build with 200"
    )
    options = parser.parse_args()
    Ours.ef_construction = options.ef_construction
    sets: dict[str, Callable[[], tuple[np.ndarray, np.ndarray, str]]] = {
        "clustered": lambda: (*clustered(100_000, 128, 1000, 0), "l2"),
        "low": lambda: (*embedded(200_000, 128, 16, 1000), "l2"),
        "high": lambda: (*clustered(200_000, 128, 20, 0), "l2"),
    }
    if options.data is not None:
        for path in sorted(options.data.glob("*.npz")):
            with np.load(path) as arrays:
                if {"docs", "queries"} <= set(arrays.files):
                    sets[path.stem] = lambda path=path: (*retrieval(path), "cosine")
    for name, load in sets.items():
        if not options.only or name in options.only:
            compare(name, *load(), options.repeats, options.builds, set(options.library))


if __name__ == "__main__":
    main()
