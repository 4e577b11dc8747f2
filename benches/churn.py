"""Churn: an index whose rows are replaced in rounds, beside one built of what it then holds; and speeds.

    python benches/churn.py [--rows 10000] [--dim 64] [--rounds 30] [--share 0.2] [--speed-rows 100000]

Independent normal values, the hardest case of their dimension. Recall is that of the 10 nearest of 2,000
queries at `ef=64` and `ef=200`; *lost* rows do not find themselves at `ef=64`. Speeds are those of one run,
in rows a second: adding, removing in calls of one row and of 1,000, updating in calls of 1,000.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import ruvector_gnn as rg
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


def figures(index: rg.HNSWIndex, queries: Vectors) -> dict[str, float]:
    truth = index.exact_search(queries).rows

    def recall(ef: int) -> float:
        found = index.search(queries, ef=ef).rows
        return float(np.mean([np.isin(want, got).mean() for want, got in zip(truth, found, strict=True)]))

    stats = index.stats()
    lost = int((index.search(index.vectors(), k=1, ef=64).rows[:, 0] != index.rows()).sum())
    return {
        "recall at ef=64": recall(64),
        "recall at ef=200": recall(200),
        "lost": lost,
        "unreachable": stats["unreachable"],
        "links a row": stats["levels"][0]["mean_degree"],
        "bytes a row": stats["bytes_per_vector"],
    }


def churn(rows: int, dim: int, rounds: int, share: float, seed: int) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(seed)
    each = int(rows * share)
    vectors = rng.standard_normal((rows + rounds * each, dim), dtype=np.float32)
    index = rg.HNSWIndex(dim, metric="l2")
    index.add(vectors[:rows])
    for start in range(rows, len(vectors), each):
        index.remove(rng.permutation(index.rows())[:each])
        index.add(vectors[start : start + each])
    fresh = rg.HNSWIndex(dim, metric="l2")
    fresh.add(index.vectors())
    queries = rng.standard_normal((2_000, dim), dtype=np.float32)
    return {"churned": figures(index, queries), "fresh": figures(fresh, queries)}


def speed(rows: int, dim: int) -> dict[str, float]:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((rows, dim), dtype=np.float32)
    index = rg.HNSWIndex(dim, metric="l2")

    def rate(count: int, work: Callable[[], object]) -> float:
        begin = time.perf_counter()
        work()
        return count / (time.perf_counter() - begin)

    speeds = {"add": rate(rows, lambda: index.add(vectors))}
    order = rng.permutation(rows)
    index.remove(order[:1])  # counts the links to each row
    single, many, updated = order[1:501], order[501:5_501].reshape(5, -1), order[5_501:8_501].reshape(3, -1)
    speeds["remove, 1 a call"] = rate(single.size, lambda: [index.remove([row]) for row in single])
    speeds["remove, 1,000 a call"] = rate(many.size, lambda: [index.remove(some) for some in many])
    speeds["update, 1,000 a call"] = rate(
        updated.size, lambda: [index.update(some, vectors[some[::-1]]) for some in updated]
    )
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0, help="of the vectors that are replaced")
    parser.add_argument("--speed-rows", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    quality = churn(options.rows, options.dim, options.rounds, options.share, options.seed)
    speeds = speed(options.speed_rows, options.dim)
    if options.json:
        print(json.dumps({**quality, "rows a second": speeds}))
        return
    for name in quality["fresh"]:
        print(f"{name:20} {quality['churned'][name]:12.4f} {quality['fresh'][name]:12.4f}")
    for name, value in speeds.items():
        print(f"{name:20} {value:12.0f} a second, {value / speeds['add']:.2f} of adding")


if __name__ == "__main__":
    main()
