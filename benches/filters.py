"""Filtered search beside an exact scan and faiss with a bitmap of allowed rows, in one run.

    pip install '.[bench]' && python benches/filters.py [--data DIR] [--repeats 5]

A filter lets a share of the rows through: at random, or those that lie farthest along a random direction;
then the queries are the quarter that lies farthest along it as well ("with the query"), or against it
("against"). For each library the smallest candidate list that reaches recall@10 0.95 against brute force is
taken, and its queries per second are the median of interleaved repeats, one thread, all queries in one call.
Where faiss does not get there, its best recall stands instead of a speed.

Data: 100,000 clustered 128-d vectors under l2, made here; and, where `--data` names a folder that has them,
40,000 embeddings of sentences under cosine.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from peers_search import Faiss, K, Ours, clock, clustered, recall, retrieval

EFS = (
    10,
    12,
    14,
    17,
    20,
    24,
    28,
    34,
    40,
    48,
    56,
    68,
    80,
    100,
    120,
    160,
    200,
    250,
    320,
    400,
    640,
    1000,
    1600,
    2500,
)
TARGET = 0.95
SHARES = (0.001, 0.01, 0.1, 0.5)


def masks(vectors: np.ndarray, queries: np.ndarray, share: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By kind of filter the allowed rows as marks, and the queries."""
    rng = np.random.default_rng(5)
    along = rng.standard_normal(vectors.shape[1], dtype=np.float32)
    count = round(share * len(vectors))
    far = np.zeros(len(vectors), dtype=bool)
    far[np.argsort(vectors @ along)[-count:]] = True
    chance = np.zeros(len(vectors), dtype=bool)
    chance[rng.choice(len(vectors), count, replace=False)] = True
    order, quarter = np.argsort(queries @ along), len(queries) // 4
    return {
        "at random": (chance, queries),
        "with the query": (far, queries[order[-quarter:]]),
        "against": (far, queries[order[:quarter]]),
    }


def compare(title: str, vectors: np.ndarray, queries: np.ndarray, metric: str, repeats: int) -> None:
    """Print one table."""
    ours, faiss = Ours(vectors, metric), Faiss(vectors, metric)
    print(f"\n{title}: {len(vectors):,} x {vectors.shape[1]}, {metric}, queries/s at recall@10 >= {TARGET}\n")
    print("| filter | allowed | ours (ef, recall) | exact scan | faiss (ef, recall) | ours : better |")
    print("|---|---|---|---|---|---|")
    for share in SHARES:
        for kind, (mask, asked) in masks(vectors, queries, share).items():
            bits = np.packbits(mask, bitorder="little")
            selector = faiss.faiss.IDSelectorBitmap(bits)

            def find(ef: int, mask: np.ndarray = mask, asked: np.ndarray = asked) -> np.ndarray:
                return ours.index.search(asked, K, ef=ef, filter=mask).rows

            def scan(mask: np.ndarray = mask, asked: np.ndarray = asked) -> np.ndarray:
                return ours.index.exact_search(asked, K, filter=mask).rows

            def peer(ef: int, selector: object = selector, asked: np.ndarray = asked) -> np.ndarray:
                parameters = faiss.faiss.SearchParametersHNSW(efSearch=ef, sel=selector)
                return faiss.index.search(asked, K, params=parameters)[1]

            truth = scan()
            reached: dict[str, tuple[int, float]] = {}
            for name, search in (("ours", find), ("faiss", peer)):
                recalls = []
                for ef in EFS:
                    recalls.append(recall(search(ef), truth))
                    if recalls[-1] >= TARGET:
                        break
                reached[name] = (EFS[len(recalls) - 1], recalls[-1])
            tasks = {"scan": scan, "ours": partial(find, reached["ours"][0])}
            if reached["faiss"][1] >= TARGET:
                tasks["faiss"] = partial(peer, reached["faiss"][0])
            seconds = {name: [] for name in tasks}
            for _ in range(repeats):
                for name, task in tasks.items():
                    seconds[name].append(clock(task))
            speed = {name: len(asked) / float(np.median(times)) for name, times in seconds.items()}
            best = max(speed["scan"], speed.get("faiss", 0.0))
            notes = {name: f"({ef}, {found:.3f})" for name, (ef, found) in reached.items()}
            theirs = f"{speed['faiss']:,.0f}" if "faiss" in speed else "-"
            print(
                f"| {kind} | {share:.1%} | {speed['ours']:,.0f} {notes['ours']} | {speed['scan']:,.0f} "
                f"| {theirs} {notes['faiss']} | {speed['ours'] / best:.2f} |",
                flush=True,
            )


def main() -> None:
    """Run the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with sentences.npz")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    compare("clustered", *clustered(100_000, 128, 1000, 0), "l2", options.repeats)
    if options.data is not None:
        compare("sentences", *retrieval(options.data / "sentences.npz"), "cosine", options.repeats)


if __name__ == "__main__":
    main()
