"""Recall and speed of quantized storage with 0, 1, 10 and 100 outliers among real vectors.

    python benches/outliers.py DATA/sentences.npz [--rows 40000] [--rounds 5]

The file is a retrieval set, as `benches/peers_search.py` reads it. Outliers take the places of rows drawn
by a seed: every value is multiplied by 1,000. Recall@10 is against the exact index; `found` is the share of
outliers that come first when they are the query. Times are medians of rounds in which all indexes take
turns.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import ruvector_gnn as rg
from numpy.typing import NDArray
from peers_search import retrieval

COUNTS = (0, 1, 10, 100)
STORAGES = ("f32", "f16", "i8", "binary")
EF = {"f32": 64, "f16": 64, "i8": 64, "binary": 400}


def recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """The share of the true rows that were found."""
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(found, truth, strict=True)]))


def main() -> None:
    """Print a line for each storage and number of outliers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    vectors, queries = retrieval(options.data)
    vectors = vectors[: options.rows]
    places = np.random.default_rng(0).choice(len(vectors), max(COUNTS), replace=False)
    indexes: dict[tuple[str, int], rg.HNSWIndex] = {}
    results: dict[tuple[str, int], tuple[float, float]] = {}
    for count in COUNTS:
        rows = vectors.copy()
        rows[places[:count]] *= 1000
        truth: NDArray[np.int64] | None = None
        for storage in STORAGES:
            if storage == "f16" and np.abs(rows).max() > 65504:
                continue
            index = rg.HNSWIndex(rows.shape[1], metric="l2", storage=storage, ef_search=EF[storage])
            index.add(rows)
            truth = index.exact_search(queries, k=10).rows if truth is None else truth
            far = rows[places[:count]]
            found = float((index.search(far, k=1).rows[:, 0] == places[:count]).mean()) if count else 1.0
            results[storage, count] = recall(index.search(queries, k=10).rows, truth), found
            indexes[storage, count] = index
    times: dict[tuple[str, int], list[float]] = {key: [] for key in indexes}
    rg.set_num_threads(1)
    for _ in range(options.rounds):
        for key, index in indexes.items():
            start = time.perf_counter()
            index.search(queries, k=10)
            times[key].append(time.perf_counter() - start)
    print(f"{len(vectors)} x {vectors.shape[1]}, {len(queries)} queries")
    for key in sorted(indexes, key=lambda key: (STORAGES.index(key[0]), key[1])):
        rate = len(queries) / float(np.median(times[key]))
        recalled, found = results[key]
        print(f"{key[0]:7} outliers {key[1]:3}: recall@10 {recalled:.4f}, found {found:.2f}, {rate:,.0f}/s")


if __name__ == "__main__":
    main()
