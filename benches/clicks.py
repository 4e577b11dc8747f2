"""What a database learns from the clicks of simulated users: biased by place, and partly chance.

    python benches/clicks.py [feedbackqa worldtree] [--explore 0.1] [--users cascade] [--rounds 3]

Reads the collections of `benches/learning.py` from `--data`. In a round each past query (`train` and `val`)
is asked `--impressions` times: `VectorDB.search` answers with 20 documents, of which a share is shuffled, a
simulated user clicks, and `VectorDB.record_all` logs it. Then `VectorDB.learn` learns from the whole log, and
the next round is answered in the learned order. Position-based users examine place r with probability 1/r;
cascade users stop at the first relevant document that they click. An examined document is clicked with .9 if
it is relevant, else with .1.

Each figure is the mean over seeds with half of its 95% interval over seeds and future queries (`test`).
`naive` is `SearchLearner.fit` on the clicks of the first round without what was shown. Harm is the share of
future queries that lose more than .1.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import ruvector_gnn as rg
from learning import DATA, NAMES, load, ndcg

DEPTH = 20
PLACES = np.array([2, 5, 10, 20])


def ask(
    db: rg.VectorDB, data: dict[str, Any], past: np.ndarray, given: argparse.Namespace, seed: int
) -> None:
    """Let users ask every past query, and record what they click."""
    asked = np.repeat(past, given.impressions)
    answers = [db.search(data["queries"][query], DEPTH, explore=given.explore) for query in asked]
    clicks = rg.clicks.simulate(
        data["queries"][asked],
        [answer.ids for answer in answers],
        [data["relevant"][query] for query in asked],
        impressions=1,
        users=given.users,
        depth=DEPTH,
        seed=seed,
    )
    impressions = zip(asked, clicks.clicked, answers, strict=True)
    db.record_all(
        [
            (data["queries"][query], rows.tolist(), answer.ids, answer.explored)
            for query, rows, answer in impressions
        ]
    )


def future(data: dict[str, Any], db: rg.VectorDB, learned: bool) -> np.ndarray:
    """nDCG@10 of the future queries."""
    queries = data["test"]
    found = [np.array(db.search(data["queries"][query], 10, learned=learned).ids) for query in queries]
    return ndcg(found, [data["relevant"][query] for query in queries])


def naive(data: dict[str, Any], log: rg.ClickLog, seed: int) -> np.ndarray:
    """The same of a learner that takes clicks for relevance."""
    learner = rg.SearchLearner(data["index"], seed=seed).fit(log.queries, log.clicked)
    queries = data["test"]
    rows = learner.search(data["queries"][queries], k=10).rows
    return ndcg(rows, [data["relevant"][query] for query in queries])


def interval(values: list[np.ndarray]) -> str:
    """The mean over seeds, and half of its 95% interval, over queries and seeds."""
    means = np.array([value.mean() for value in values])
    error = np.mean(values, axis=0).std() / len(values[0]) ** 0.5
    spread = means.std(ddof=1) / len(means) ** 0.5 if len(means) > 1 else 0.0
    return f"{means.mean():.4f} +- {1.96 * np.hypot(error, spread):.4f} {np.round(means, 4)}"


def run(data: dict[str, Any], given: argparse.Namespace) -> None:
    """One collection: a line a round."""
    past, dim = np.concatenate([data["train"], data["val"]]), data["docs"].shape[1]
    plain: list[np.ndarray] = []
    rounds: list[list[np.ndarray]] = [[] for _ in range(given.rounds)]
    errors, untaught = [], []
    for seed in range(given.seeds):
        with (
            tempfile.TemporaryDirectory() as folder,
            rg.VectorDB.open(f"{folder}/db", dim=dim) as db,
        ):
            db.add(np.arange(len(data["docs"])), data["docs"])
            plain.append(future(data, db, learned=False))
            for number, found in enumerate(rounds):
                ask(db, data, past, given, 100 * seed + number)
                report = db.learn(seed=seed)
                print(f"  seed {seed}, round {number + 1}: {report.chosen}; {report.clicks}", flush=True)
                found.append(future(data, db, learned=True))
                if number == 0:
                    log = db.log()
                    model = rg.clicks.PositionBiasedModel().fit(log)
                    errors.append(np.abs(model.examination[PLACES - 1] * PLACES - 1))
                    untaught.append(naive(data, log, seed))
    print(f"{data['name']}: {given.users} users, {given.explore:.0%} explored: plain {interval(plain)}")
    print(f"  naive {interval(untaught)}, harm {harm(untaught, plain):.1%}")
    for number, found in enumerate(rounds):
        print(f"  round {number + 1}: {interval(found)}, harm {harm(found, plain):.1%}")
    if given.users == "position":
        print(f"  examination off by {np.round(np.mean(errors, axis=0), 3)} at places {PLACES}", flush=True)


def harm(after: list[np.ndarray], before: list[np.ndarray]) -> float:
    """The share of queries that lose more than .1."""
    return float(np.mean(np.array(after) < np.array(before) - 0.1))


def main() -> None:
    """Run on the collections named."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("names", nargs="*", default=list(NAMES[:2]))
    parser.add_argument("--explore", type=float, default=0.1)
    parser.add_argument("--users", choices=["position", "cascade"], default="position")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--impressions", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=DATA)
    given = parser.parse_args()
    for name in given.names:
        data = load(name, given.data)
        if data is None:
            print(f"{name}: not there")
        else:
            run(data, given)


if __name__ == "__main__":
    main()
