"""How long `VectorDB.open` takes, by the documents in its snapshot, behind it, and deleted.

    python benches/opening.py [--dim 64] [--sizes 20000 80000 160000]

Each row is a database whose writer died: documents were added after the last snapshot, and deleted.
Medians of five openings for reading, with everything in the page cache.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from ruvector_gnn.db import VectorDB

REPEATS = 5


def killed(folder: Path, dim: int, size: int, behind: int, dead: int) -> Path:
    """The files that a writer leaves when it dies."""
    stream = np.random.default_rng(0)
    path = folder / f"{size}.rvdb"
    options = {"m": 8, "ef_construction": 40}
    with VectorDB.open(path, dim=dim, index_options=options) as db:
        if len(db) == 0:
            rows = stream.standard_normal((size, dim), dtype=np.float32)
            db.add(range(size), rows, [{"number": number} for number in range(size)])
    copy = folder / f"{size}-{behind}-{dead}.rvdb"
    shutil.copytree(path, copy)
    victim = folder / "victim.rvdb"
    db = VectorDB.open(copy)
    if dead:
        db.delete(range(dead))
    if behind:
        db.add(range(size, size + behind), stream.standard_normal((behind, dim), dtype=np.float32))
    shutil.copytree(copy, victim, ignore=shutil.ignore_patterns("*-shm"))
    db.close()
    shutil.rmtree(copy)
    return victim


def opening(path: Path) -> float:
    """The median time of an opening, in milliseconds."""
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        db = VectorDB.open(path, mode="r")
        times.append(time.perf_counter() - begin)
        db.close()
    return 1e3 * statistics.median(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 80_000, 160_000])
    options = parser.parse_args()
    print("| in the snapshot | behind it | deleted | open, ms |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            for behind, dead in ((0, 0), (1_000, 0), (4_000, 0), (0, 1), (0, 1_000)):
                path = killed(Path(folder), options.dim, size, behind, dead)
                print(f"| {size:,} | {behind:,} | {dead:,} | {opening(path):.1f} |", flush=True)
                shutil.rmtree(path)


if __name__ == "__main__":
    main()
