"""`SearchLearner` beside what one tries first: a tuned memory, a tuned centroid, a linear query adapter.

    python benches/baselines.py [feedbackqa worldtree cranfield] [--seeds 3]     # as they are
    python benches/baselines.py --made 30                                       # collections made from them

Reads the collections of `benches/learning.py` from `--data`. Baselines are tuned on a fifth of the past
queries and then given all of them; the learner gets the same log and its defaults. A made collection is one
of the three with a log of 50 to all queries, with a third of its documents, with the queries of one topic
(those nearest to one of them), or with its queries turned by a random rotation. Figures are nDCG@10 of future
queries, differences with their paired standard errors.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ruvector_gnn as rg
from learning import DATA, NAMES, load, ndcg

Rows = list[np.ndarray]


class Task(NamedTuple):
    """A collection: unit vectors, past and future queries with their relevant documents."""

    docs: np.ndarray
    past: np.ndarray
    clicks: Rows
    future: np.ndarray
    wanted: Rows


Scores = Callable[[np.ndarray], np.ndarray]


def votes(task: Task, neighbors: int, width: float) -> Scores:
    """The clicks of the nearest past queries, each with the weight `exp((cos - 1) / width)`."""
    def score(queries: np.ndarray) -> np.ndarray:
        cosines = queries @ task.past.T
        table = np.zeros((len(queries), len(task.docs)), np.float32)
        for row, nearest in enumerate(np.argsort(-cosines, axis=1, kind="stable")[:, :neighbors]):
            for other in nearest:
                table[row, task.clicks[other]] += np.exp((cosines[row, other] - 1) / width)
        return table
    return score


def memory(task: Task, neighbors: int, width: float, weight: float) -> Scores:
    """Cosine and votes."""
    voted = votes(task, neighbors, width)
    return lambda queries: queries @ task.docs.T + weight * voted(queries)


def centroid(task: Task, pull: float, share: float) -> Scores:
    """Cosine, with documents drawn to the queries that clicked them (Rocchio 1971)."""
    sums, counts = np.zeros_like(task.docs), np.zeros(len(task.docs), np.float32)
    for query, rows in zip(task.past, task.clicks, strict=True):
        sums[rows] += query
        counts[rows] += 1
    moved = task.docs + pull * sums / (counts + 1)[:, None]
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    mixed = share * moved + (1 - share) * task.docs
    return lambda queries: queries @ mixed.T


def adapter(task: Task, epochs: int) -> Scores:
    """A matrix that maps queries, by in-batch softmax."""
    width = task.docs.shape[1]
    matrix = rg.tensor(np.eye(width, dtype=np.float32), requires_grad=True)
    optimizer = rg.optim.AdamW([matrix], lr=5e-4, weight_decay=0.0)
    rng = np.random.default_rng(0)
    for _ in range(epochs):
        order = rng.permutation(len(task.past))
        for start in range(0, len(order), 128):
            batch = order[start:start + 128]
            chosen = np.array([rng.choice(task.clicks[query]) for query in batch])
            scores = (rg.tensor(task.past[batch]) @ matrix).normalize() @ rg.tensor(task.docs[chosen].T)
            optimizer.zero_grad()
            rg.losses.cross_entropy(scores * 20.0, np.arange(len(batch))).backward()
            optimizer.step()
    learned = matrix.numpy()
    return lambda queries: (queries @ learned) @ task.docs.T


BASELINES: dict[str, tuple[Callable[..., Scores], list[tuple[Any, ...]]]] = {
    "memory": (memory, [(k, tau, weight) for k in (5, 20, 60) for tau in (0.05, 0.1, 0.2, 0.4)
                        for weight in (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)]),
    "centroid": (centroid, [(pull, share) for pull in (0.0, 0.75, 1.5, 4.0) for share in (0.5, 1.0)]),
    "adapter": (adapter, [(epochs,) for epochs in (0, 1, 3, 6, 12, 24)]),
}


def judged(score: Scores, queries: np.ndarray, wanted: Rows) -> np.ndarray:
    """nDCG@10 per query."""
    return ndcg(np.argsort(-score(queries), axis=1, kind="stable")[:, :10], wanted)


def tuned(task: Task, name: str, seed: int) -> np.ndarray:
    """nDCG@10 of the future queries under the baseline with the best settings."""
    make, settings = BASELINES[name]
    order = np.random.default_rng([seed, 5]).permutation(len(task.past))
    held, rest = np.split(order, [max(1, len(order) // 5)])
    part = task._replace(past=task.past[rest], clicks=[task.clicks[query] for query in rest])
    wanted = [task.clicks[query] for query in held]
    figures = [judged(make(part, *setting), task.past[held], wanted).mean() for setting in settings]
    return judged(make(task, *settings[int(np.argmax(figures))]), task.future, task.wanted)


def learned(task: Task, seed: int) -> np.ndarray:
    """nDCG@10 of the future queries under the learner's defaults."""
    index = rg.HNSWIndex(task.docs.shape[1])
    index.add(task.docs)
    learner = rg.SearchLearner(index, seed=seed).fit(task.past, task.clicks)
    return ndcg(learner.search(task.future, k=10).rows, task.wanted)


def splits(data: dict[str, Any], seed: int) -> list[Task]:
    """The collection as it is; cranfield in five folds."""
    def task(past: np.ndarray, future: np.ndarray) -> Task:
        relevant = data["relevant"]
        return Task(data["docs"], data["queries"][past], [relevant[query] for query in past],
                    data["queries"][future], [relevant[query] for query in future])
    if data["name"] != "cranfield":
        return [task(np.concatenate([data["train"], data["val"]]), data["test"])]
    order = np.random.default_rng(99 + seed).permutation(len(data["queries"]))
    return [task(np.delete(order, np.s_[fold::5]), order[fold::5]) for fold in range(5)]


def made(task: Task, number: int) -> tuple[str, Task]:
    """One of the collections made from this one."""
    rng = np.random.default_rng([number, 6])
    kind = ("log", "third", "topic", "turned")[number % 4]
    if kind == "third":
        keep = np.sort(rng.permutation(len(task.docs))[: len(task.docs) // 3])
        place = np.full(len(task.docs), -1)
        place[keep] = np.arange(len(keep))
        def held(queries: np.ndarray, clicks: Rows) -> tuple[np.ndarray, Rows]:
            rows = [place[one][place[one] >= 0] for one in clicks]
            some = [at for at, one in enumerate(rows) if len(one)]
            return queries[some], [rows[at] for at in some]
        task = Task(task.docs[keep], *held(task.past, task.clicks), *held(task.future, task.wanted))
    elif kind == "topic":
        middle = task.past[rng.integers(len(task.past))]
        def near(queries: np.ndarray, clicks: Rows) -> tuple[np.ndarray, Rows]:
            some = np.argsort(-queries @ middle)[: len(queries) // 4]
            return queries[some], [clicks[at] for at in some]
        task = Task(task.docs, *near(task.past, task.clicks), *near(task.future, task.wanted))
    elif kind == "turned":
        turn, _ = np.linalg.qr(rng.normal(size=(task.docs.shape[1],) * 2))
        task = task._replace(past=(task.past @ turn).astype("f4"), future=(task.future @ turn).astype("f4"))
    most = len(task.past)
    count = int(50 * (most / 50) ** rng.random()) if most > 50 else most
    some = rng.permutation(most)[:count]
    clicks = [task.clicks[at] for at in some]
    return f"{kind}, {count} queries", task._replace(past=task.past[some], clicks=clicks)


def compare(name: str, tasks: list[Task], seeds: int) -> float:
    """One row: means, and the learner less the best baseline with its paired error."""
    figures: dict[str, list[np.ndarray]] = {key: [] for key in ("plain", "learner", *BASELINES)}
    for seed in range(seeds):
        for task in tasks:
            plain: Scores = lambda queries, task=task: queries @ task.docs.T  # noqa: E731
            figures["plain"].append(judged(plain, task.future, task.wanted))
            figures["learner"].append(learned(task, seed))
            for baseline in BASELINES:
                figures[baseline].append(tuned(task, baseline, seed))
    values = {key: np.concatenate(parts) for key, parts in figures.items()}
    best = max(("plain", *BASELINES), key=lambda key: values[key].mean())
    gain = values["learner"] - values[best]
    error = gain.std() / (len(gain) / seeds) ** 0.5
    cells = " ".join(f"{key} {value.mean():.4f}" for key, value in values.items())
    print(f"{name}: {cells}; learner - {best} {gain.mean():+.4f} ({error:.4f})", flush=True)
    return float(gain.mean())


def main() -> None:
    """Compare on all collections."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("names", nargs="*", default=list(NAMES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--made", type=int)
    parser.add_argument("--data", type=Path, default=DATA)
    given = parser.parse_args()
    sets = {name: data for name in given.names if (data := load(name, given.data)) is not None}
    if given.made is None:
        for name, data in sets.items():
            compare(name, splits(data, 0), given.seeds)
        return
    gains = []
    for number in range(given.made):
        name = list(sets)[number // 4 % len(sets)]
        kind, task = made(splits(sets[name], 0)[number % 5 if name == "cranfield" else 0], number)
        gains.append(compare(f"{number}: {name}, {kind}", [task], given.seeds))
    print(f"mean of {given.made}: {np.mean(gains):+.4f}")


if __name__ == "__main__":
    main()
