"""Churn: an index whose rows are replaced in rounds, beside one built of what it then holds; and speeds.

    python benches/churn.py [--rows 10000] [--dim 64] [--rounds 30] [--share 0.2] [--queries 20000]
                            [--speed-rows 100000]

Independent normal values, the hardest case of their dimension. Recall is that of the 10 nearest of 20,000
queries at `ef=64` and `ef=200`, to tell a difference of .002 from chance; behind it, the change from the
fresh index with its standard error. *Lost* rows do not find themselves at `ef=64`. Speeds are those of one
run, in rows a second: adding, removing in calls of one row and of 1,000, updating in calls of 1,000.
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


def recalls(index: rg.HNSWIndex, queries: Vectors, ef: int) -> NDArray[np.float64]:
    """The share of the 10 nearest that each query finds."""
    truth, found = index.exact_search(queries).rows, index.search(queries, ef=ef).rows
    return (truth[:, :, None] == found[:, None, :]).any(axis=2).mean(axis=1)


def figures(index: rg.HNSWIndex) -> dict[str, float]:
    stats = index.stats()
    lost = int((index.search(index.vectors(), k=1, ef=64).rows[:, 0] != index.rows()).sum())
    return {
        "lost": lost,
        "unreachable": stats["unreachable"],
        "links a row": stats["levels"][0]["mean_degree"],
        "bytes a row": stats["bytes_per_vector"],
    }


def churn(
    rows: int, dim: int, rounds: int, share: float, count: int, seed: int
) -> dict[str, dict[str, float]]:
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
    queries = rng.standard_normal((count, dim), dtype=np.float32)
    quality = {}
    for ef in (64, 200):
        churned, built = recalls(index, queries, ef), recalls(fresh, queries, ef)
        quality[f"recall at ef={ef}"] = {
            "churned": churned.mean(),
            "fresh": built.mean(),
            "change": (churned - built).mean(),
            "standard error": (churned - built).std() / count**0.5,
        }
    churned, built = figures(index), figures(fresh)
    return quality | {name: {"churned": churned[name], "fresh": built[name]} for name in built}


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
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="of the vectors that are replaced")
    parser.add_argument("--speed-rows", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    quality = churn(
        options.rows, options.dim, options.rounds, options.share, options.queries, options.seed
    )
    speeds = speed(options.speed_rows, options.dim) if options.speed_rows else {}
    if options.json:
        print(json.dumps({**quality, "rows a second": speeds}))
        return
    for name, values in quality.items():
        text = f"{name:20} {values['churned']:12.4f} {values['fresh']:12.4f}"
        if "change" in values:
            text += f"   {values['change']:+.4f} (standard error {values['standard error']:.4f})"
        print(text)
    for name, value in speeds.items():
        print(f"{name:20} {value:12.0f} a second, {value / speeds['add']:.2f} of adding")


if __name__ == "__main__":
    main()
