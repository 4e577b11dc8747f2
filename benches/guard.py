"""Whether the guard of `SearchLearner` lets in what it should: noise, short logs, claimed gains.

    python benches/guard.py noise --logs 40     # permuted clicks, each query asked three times
    python benches/guard.py once --logs 100     # permuted clicks, every query asked once, logs of 100 to 400
    python benches/guard.py power --logs 20     # clean logs of 50, 150 and 500
    python benches/guard.py rotated --logs 8    # clean logs of 150, queries turned by a fixed random rotation
    python benches/guard.py claims --logs 40    # claimed against true gain, with repeated queries

Reads the collections of `benches/learning.py` from `--data`, all of `--sets`. Each log is drawn from the past
queries (`train` and `val`; of cranfield's 225 queries all that are not kept for the future), the true gain is
nDCG@10 on the future ones. `--plot FILE` draws what `claims` found (needs matplotlib).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ruvector_gnn as rg
from learning import DATA, NAMES, load, ndcg

Rows = list[np.ndarray]


class Outcome(NamedTuple):
    """One log: what its fit reported, and what future queries gained."""

    report: rg.LearningReport
    gain: float


def collection(name: str, folder: Path) -> dict[str, Any] | None:
    """A collection with its past and future queries."""
    data = load(name, folder)
    if data is None:
        return None
    if name == "cranfield":
        order = np.random.default_rng(99).permutation(len(data["queries"]))
        return {**data, "past": order[:175], "future": order[175:]}
    return {**data, "past": np.concatenate([data["train"], data["val"]]), "future": data["test"]}


def outcome(data: dict[str, Any], queries: np.ndarray, clicks: Rows, seed: int) -> Outcome:
    """Fit on a log, judge on the future."""
    learner = rg.SearchLearner(data["index"], seed=seed).fit(queries, clicks)
    report = learner.report
    assert report is not None
    if not report.promoted:
        return Outcome(report, 0.0)
    future = data["future"]
    wanted = [data["relevant"][query] for query in future]
    asked = data["queries"][future]
    before, after = (ndcg(learner.search(asked, 10, learned=order).rows, wanted) for order in (False, True))
    return Outcome(report, float((after - before).mean()))


def log(data: dict[str, Any], count: int, rng: np.random.Generator) -> tuple[np.ndarray, Rows]:
    """So many past queries, and what is relevant to them."""
    asked = rng.permutation(data["past"])[:count]
    return data["queries"][asked], [data["relevant"][query] for query in asked]


def permuted(clicks: Rows, rng: np.random.Generator) -> Rows:
    """The clicks, each given to another query."""
    return [clicks[at] for at in rng.permutation(len(clicks))]


def moved(queries: np.ndarray, noise: Any, rng: np.random.Generator) -> np.ndarray:
    """The queries, moved by noise of this length."""
    step = rng.normal(size=queries.shape)
    step *= noise / np.linalg.norm(step, axis=1, keepdims=True)
    return (queries + step).astype(np.float32)


def noise(data: dict[str, Any], logs: int, kinds: tuple[float | None, ...]) -> None:
    """Logs without signal: how many are promoted."""
    for kind in kinds:
        found = []
        for seed in range(logs):
            rng = np.random.default_rng([seed, 1])
            low, high = (100, 400) if kind is None else (40, 150)
            queries, clicks = log(data, int(rng.integers(low, high + 1)), rng)
            clicks = permuted(clicks, rng)
            if kind is not None:
                queries, clicks = moved(np.concatenate([queries] * 3), kind, rng), clicks * 3
            found.append(outcome(data, queries, clicks, seed))
        promoted = [one.gain for one in found if one.report.promoted]
        trained = sum("adapter" in one.report.tried for one in found)
        name = "asked once" if kind is None else f"asked three times, noise {kind:g}"
        print(f"{data['name']}: {name}: {len(promoted)} of {logs} promoted {np.round(promoted, 3)},"
              f" models trained in {trained}", flush=True)


def power(data: dict[str, Any], logs: int, sizes: tuple[int, ...]) -> None:
    """Clean logs: how many are promoted, and what that gains."""
    for size in sizes:
        found = []
        for seed in range(logs):
            rng = np.random.default_rng([seed, 2])
            found.append(outcome(data, *log(data, size, rng), seed))
        gains = np.array([one.gain for one in found])
        promoted = sum(one.report.promoted for one in found)
        error = 1.96 * gains.std() / len(gains) ** 0.5
        print(f"{data['name']}: logs of {min(size, len(data['past']))}: {promoted} of {logs} promoted, gain"
              f" {gains.mean():+.4f} +- {error:.4f}, worst {gains.min():+.4f}", flush=True)


def claims(data: dict[str, Any], logs: int) -> list[tuple[float, float, float]]:
    """Clean logs with repetitions: claimed gain, true gain, and half of the 95% interval."""
    found, covered = [], 0
    for seed in range(logs):
        rng = np.random.default_rng([seed, 3])
        queries, clicks = log(data, int(rng.integers(150, 501)), rng)
        again = rng.integers(len(queries), size=len(queries))
        lengths = rng.choice([0.0, 0.1, 0.3], size=(len(queries), 1))
        asked = np.concatenate([queries, moved(queries[again], lengths, rng)])
        one = outcome(data, asked, clicks + [clicks[at] for at in again], seed)
        if one.report.promoted:
            low, high = one.report.interval
            found.append((one.report.gain, one.gain, (high - low) / 2))
            covered += low <= one.gain <= high
    if found:
        off = np.mean([claimed - true for claimed, true, _ in found])
        print(f"{data['name']}: {len(found)} of {logs} promoted; claimed less true gain {off:+.4f} in the"
              f" mean, {covered} of {len(found)} within the interval", flush=True)
    return found


def plot(points: list[tuple[float, float, float]], path: str) -> None:
    """Claimed against true gains."""
    import matplotlib.pyplot as plt

    claimed, true, half = np.array(points).T
    figure, axes = plt.subplots(figsize=(5, 5))
    axes.errorbar(true, claimed, yerr=half, fmt=".", elinewidth=0.5)
    axes.axline((0, 0), slope=1, color="grey", linewidth=0.8)
    axes.set(xlabel="true gain in nDCG@10", ylabel="claimed gain, with its 95% interval")
    figure.tight_layout()
    figure.savefig(path)


def rotated(data: dict[str, Any]) -> dict[str, Any]:
    """The same with its queries turned, as if another encoder had made them."""
    width = data["queries"].shape[1]
    turn, _ = np.linalg.qr(np.random.default_rng(7).normal(size=(width, width)))
    return {**data, "queries": (data["queries"] @ turn).astype(np.float32)}


def main() -> None:
    """Run one of the tables."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("table", choices=["noise", "once", "power", "rotated", "claims"])
    parser.add_argument("--logs", type=int, default=20)
    parser.add_argument("--sets", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--plot")
    given = parser.parse_args()
    points = []
    for name in given.sets:
        data = collection(name, given.data)
        if data is None:
            print(f"{name}: not there")
        elif given.table == "noise":
            noise(data, given.logs, (0.0, 0.1, 0.3))
        elif given.table == "once":
            noise(data, given.logs, (None,))
        elif given.table == "power":
            power(data, given.logs, (50, 150, 500))
        elif given.table == "rotated":
            power(rotated(data), given.logs, (150,))
        else:
            points += claims(data, given.logs)
    if given.plot and points:
        plot(points, given.plot)


if __name__ == "__main__":
    main()
