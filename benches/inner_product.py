"""Recall and distance evaluations of `metric="ip"` over rows of unequal length, beside hnswlib.

    python benches/inner_product.py [--rows 6000] [--large]

Each set is made anew from a seed. Recall is against float64; the numbers beside it are distance evaluations
of one search, and, for a build, of one row. `--large` adds 100,000 rows of 64 values with lognormal
lengths. hnswlib is left out where it is not installed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import ruvector_gnn as rg
from numpy.typing import NDArray

QUERIES = 100
CUTOFFS = (10, 600)

Floats = NDArray[np.float64]


def sets(rows: int, *, large: bool) -> Iterator[tuple[str, Floats, Floats]]:
    """Names, rows and queries."""
    dim, rng = 32, np.random.default_rng(0)

    def normal(count: int, width: int = dim) -> Floats:
        return rng.normal(size=(count, width))

    def unit(vectors: Floats) -> Floats:
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def lengths(count: int) -> Floats:
        return rng.lognormal(0, 0.5, size=(count, 1))

    popular = np.c_[0.3 * normal(rows, dim - 1), rng.exponential(3, size=rows)]
    yield "popularity in one dimension", popular, np.c_[normal(QUERIES, dim - 1), 0.3 * normal(QUERIES, 1)]
    yield "shifted, lognormal lengths", (normal(rows) + 1) * lengths(rows), normal(QUERIES)
    yield "non-negative, negative queries", np.abs(normal(rows)), -np.abs(normal(QUERIES))
    yield "uniform, negative queries", rng.uniform(size=(rows, dim)), -rng.uniform(size=(QUERIES, dim))
    yield "lognormal lengths", normal(rows) * lengths(rows), normal(QUERIES)
    yield "normal", normal(rows), normal(QUERIES)
    yield "equal lengths", unit(normal(rows)), unit(normal(QUERIES))
    yield "equal lengths, shifted", unit(normal(rows) + 1), unit(normal(QUERIES) + 1)
    if large:
        yield "100,000 x 64, lognormal lengths", normal(100_000, 64) * lengths(100_000), normal(QUERIES, 64)


def recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """The share of the true rows that were found."""
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(found, truth, strict=True)]))


def peer(vectors: Floats, queries: Floats, truths: list[NDArray[np.int64]]) -> list[float] | None:
    """Recall of hnswlib with the same parameters."""
    try:
        import hnswlib
    except ImportError:
        return None
    index = hnswlib.Index(space="ip", dim=vectors.shape[1])
    index.init_index(len(vectors), ef_construction=200, M=16, random_seed=0)
    index.add_items(vectors)
    found = []
    for truth in truths:
        index.set_ef(max(64, truth.shape[1]))
        found.append(recall(index.knn_query(queries, k=truth.shape[1])[0].astype(np.int64), truth))
    return found


def main() -> None:
    """Print a line for each set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    for name, vectors, queries in sets(options.rows, large=options.large):
        index = rg.HNSWIndex(vectors.shape[1], metric="ip")
        index.add(vectors)
        evaluations = index.stats()["evaluations"]
        line = f"{name:32} build {evaluations / len(vectors):5.0f}"
        truths = [np.argsort(-(queries @ vectors.T), axis=1)[:, :k] for k in CUTOFFS]
        for k, truth in zip(CUTOFFS, truths, strict=True):
            found = index.search(queries, k=k).rows
            now = index.stats()["evaluations"]
            line += f" | @{k} {recall(found, truth):.3f}, {(now - evaluations) / QUERIES:5.0f}"
            evaluations = now
        theirs = peer(vectors, queries, truths)
        if theirs is not None:
            found_by_peer = (f"@{k} {value:.3f}" for k, value in zip(CUTOFFS, theirs, strict=True))
            line += " | hnswlib " + " ".join(found_by_peer)
        print(line, flush=True)


if __name__ == "__main__":
    main()
