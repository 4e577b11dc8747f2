"""What learning gains on real collections: nDCG@10 of future queries, before and after.

    python benches/learning.py [feedbackqa worldtree cranfield] [--seeds 3] [--small] [--latency]

Reads `NAME.npz` (docs, queries, qrels, train, val, test) from `../shared/data` beside the checkout, or
`--data`. The learner gets train and val as one log, with its defaults; cranfield is cross-validated in five
folds. `shuffled` permutes the clicks among the queries, `--small` draws logs of 50, 150 and 500 queries (of
cranfield's 225 the rest is the future).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import ruvector_gnn as rg

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
NAMES = ("feedbackqa", "worldtree", "cranfield")


def load(name: str, folder: Path = DATA) -> dict[str, Any] | None:
    """One collection, its vectors at length 1; None if it is not there."""
    path = folder / f"{name}.npz"
    if not path.exists():
        return None
    with np.load(path) as arrays:
        data: dict[str, Any] = {key: arrays[key] for key in arrays}
    for key in ("docs", "queries"):
        values = data[key].astype(np.float32)
        data[key] = values / np.linalg.norm(values, axis=1, keepdims=True)
    relevant: list[list[int]] = [[] for _ in data["queries"]]
    for query, row, _ in data["qrels"]:
        relevant[query].append(int(row))
    data["relevant"] = [np.array(rows, dtype=np.int64) for rows in relevant]
    index = rg.HNSWIndex(data["docs"].shape[1])
    index.add(data["docs"])
    return {**data, "name": name, "index": index}


def splits(data: dict[str, Any], seed: int, log: int | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Past and future queries; the past drawn down to `log` queries."""
    if data["name"] != "cranfield":
        past = np.concatenate([data["train"], data["val"]])
        if log is not None:
            past = np.random.default_rng(seed).choice(past, log, replace=False)
        return [(past, data["test"])]
    order = np.random.default_rng(99 + seed).permutation(len(data["queries"]))
    if log is not None:
        return [(order[:log], order[log:])]
    return [(np.delete(order, np.s_[fold::5]), order[fold::5]) for fold in range(5)]


def ndcg(rows: np.ndarray, relevant: list[np.ndarray]) -> np.ndarray:
    """nDCG@10 per query, binary."""
    discount = 1 / np.log2(np.arange(2, 12))
    gains = [np.isin(found[:10], wanted) @ discount / discount[: min(10, len(wanted))].sum()
             for found, wanted in zip(rows, relevant, strict=True)]
    return np.array(gains)


def run(data: dict[str, Any], seed: int, shuffled: bool = False, log: int | None = None) -> dict[str, Any]:
    """Fit on the past, judge on the future; the figures are means over the future queries."""
    parts: dict[str, list[np.ndarray]] = {key: [] for key in ("before", "after", "cold_before", "cold_after")}
    seconds, chosen = 0.0, []
    for past, future in splits(data, seed, log):
        clicks = [data["relevant"][i] for i in past]
        if shuffled:
            clicks = [clicks[i] for i in np.random.default_rng(seed).permutation(len(clicks))]
        learner = rg.SearchLearner(data["index"], seed=seed)
        begin = time.perf_counter()
        learner.fit(data["queries"][past], clicks)
        seconds += time.perf_counter() - begin
        report = learner.report
        assert report is not None
        chosen.append(report.chosen)
        wanted = [data["relevant"][i] for i in future]
        warm = np.unique(np.concatenate(clicks))
        cold = [np.setdiff1d(rows, warm) for rows in wanted]
        some = [i for i, rows in enumerate(cold) if len(rows)]
        for key, learned in (("before", False), ("after", True)):
            rows = learner.search(data["queries"][future], k=10, learned=learned).rows
            parts[key].append(ndcg(rows, wanted))
            if some:
                parts[f"cold_{key}"].append(ndcg(rows[some], [cold[i] for i in some]))
    means = {
        key: float(np.concatenate(values).mean()) if values else float("nan") for key, values in parts.items()
    }
    return {**means, "seconds": seconds, "chosen": chosen, "learner": learner}


def latency(data: dict[str, Any], learner: rg.SearchLearner) -> tuple[float, float]:
    """Median microseconds of one query, plain and learned, alternating."""
    queries = data["queries"][data["test"]][:500]
    times: dict[bool, list[float]] = {False: [], True: []}
    for query in queries:
        for learned in (False, True):
            begin = time.perf_counter()
            learner.search(query, k=10, learned=learned)
            times[learned].append(time.perf_counter() - begin)
    return 1e6 * float(np.median(times[False])), 1e6 * float(np.median(times[True]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(NAMES))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="also logs of 50, 150 and 500 queries")
    parser.add_argument("--latency", action="store_true", help="also the time of one query")
    options = parser.parse_args()
    for name in options.names:
        data = load(name, options.data)
        if data is None:
            print(f"{name}: not in {options.data}")
            continue
        kinds: list[tuple[str, dict[str, Any], int]] = [
            ("full log", {}, options.seeds),
            ("shuffled", {"shuffled": True}, 1),
        ]
        if options.small:
            logs = (50, 150, 500) if name != "cranfield" else (50, 150)
            kinds += [(f"{log} queries", {"log": log}, 5) for log in logs]
        for label, arguments, seeds in kinds:
            runs = [run(data, seed, **arguments) for seed in range(seeds)]
            mean = {key: float(np.mean([run[key] for run in runs])) for key in
                    ("before", "after", "cold_before", "cold_after", "seconds")}
            gains = " ".join(f"{r['after'] - r['before']:+.4f}" for r in runs)
            cold = 100 * (mean["cold_after"] / mean["cold_before"] - 1)
            print(f"{name:11} {label:12} {mean['before']:.4f} -> {mean['after']:.4f} ({gains}) "
                  f"never clicked {cold:+.1f}%  fit {mean['seconds']:.1f} s", flush=True)
            if label == "full log":
                print("    chose", "; ".join(sorted({c for r in runs for c in r["chosen"]})))
                if options.latency:
                    plain, learned = latency(data, runs[0]["learner"])
                    ratio = f"{learned / plain:.1f}x"
                    print(f"    one query: plain {plain:.0f} us, learned {learned:.0f} us ({ratio})")


if __name__ == "__main__":
    main()
