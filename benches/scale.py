"""How search grows with the number of rows, and what a million of them takes.

    python benches/scale.py [--rows 1000000]

For 10,000 rows up to `--rows`, by factors of about 3: build, save, load mapped, and search the mapped file
on one thread at the smallest ef of a sweep whose recall@10 reaches 0.95 against brute force. The index itself
counts its distance evaluations; where they grow as the logarithm of the rows, evaluations over ln(rows) stay
the same. Peak memory is that of the whole process, vectors and brute force included.

Data: 128-d vectors under l2 in 1,000 clusters within 16 of the dimensions, made here.
"""

from __future__ import annotations

import argparse
import math
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import ruvector_gnn as rg

K, TARGET, QUERIES = 10, 0.95, 500
EFS = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320)


def data(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors, a part of one sequence for every size, and queries."""
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((16, 128), dtype=np.float32)
    middle = rng.standard_normal((1000, 16), dtype=np.float32)

    def draw(count: int) -> np.ndarray:
        points = middle[rng.integers(1000, size=count)]
        points += 0.7 * rng.standard_normal(points.shape, dtype=np.float32)
        return points @ basis

    queries = draw(QUERIES)
    return draw(rows), queries


def exact(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The nearest rows by brute force in NumPy, a few queries at a time."""
    norms = np.einsum("ij,ij->i", vectors, vectors)
    found = []
    for part in np.array_split(queries, max(1, len(queries) * len(vectors) // 25_000_000)):
        distances = norms - 2 * (part @ vectors.T)
        found.append(np.argpartition(distances, K, axis=1)[:, :K].copy())
    return np.concatenate(found)


def measure(vectors: np.ndarray, queries: np.ndarray, path: Path) -> str:
    """One row of the table."""
    rg.set_num_threads(2)
    index = rg.HNSWIndex(vectors.shape[1], metric="l2")
    begin = time.perf_counter()
    index.add(vectors)
    built = time.perf_counter() - begin
    per_vector = index.stats()["bytes_per_vector"]
    begin = time.perf_counter()
    index.save(path)
    saved = time.perf_counter() - begin
    del index
    truth = exact(vectors, queries)
    begin = time.perf_counter()
    index = rg.HNSWIndex.load(path, mmap=True)
    loaded = time.perf_counter() - begin
    rg.set_num_threads(1)
    for ef in EFS:
        index.search(queries, K, ef=ef)
        before, begin = index.stats()["evaluations"], time.process_time()
        rows = index.search(queries, K, ef=ef).rows
        seconds = time.process_time() - begin
        evaluations = (index.stats()["evaluations"] - before) / len(queries)
        recall = np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(rows, truth, strict=True)])
        if recall >= TARGET:
            break
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    count = len(vectors)
    figures = (
        f"{count:,} | {built:.1f} | {saved:.2f} | {loaded * 1e3:.0f} | {ef} | {recall:.3f}",
        f"{evaluations:,.0f} | {evaluations / math.log(count):.1f} | {seconds / len(queries) * 1e6:.0f}",
        f"{per_vector:.0f} | {peak:,.0f}",
    )
    return f"| {' | '.join(figures)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    vectors, queries = data(options.rows)
    print(
        "| rows | build, s | save, s | load mapped, ms | ef | recall@10 | evaluations a query | / ln rows "
        "| us a query | bytes a vector | peak, MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    sizes = [n for n in (10_000, 31_600, 100_000, 316_000) if n < options.rows] + [options.rows]
    with tempfile.TemporaryDirectory() as folder:
        for count in sizes:
            print(measure(vectors[:count], queries, Path(folder) / "index.rvx"), flush=True)


if __name__ == "__main__":
    main()
