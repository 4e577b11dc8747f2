"""Calls that need more memory than there is raise MemoryError, and the index is as it was before."""

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of address space")

HEAD = """
import os, resource, sys
import numpy as np, ruvector_gnn as rg
rng = np.random.default_rng(0)

def limited(call, headroom=64 << 20):
    "What `call` raises while the process may take so much more address space; None if nothing."
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + headroom, resource.RLIM_INFINITY))
    try:
        call()
    except MemoryError as error:
        return error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

def refused(call, headroom=64 << 20):
    error = limited(call, headroom)
    assert error is not None, "it fitted"
    return error
"""


def _run(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(HEAD) + textwrap.dedent(script), *arguments],
        # Large blocks that were freed go back to the system, so that they don't serve later requests.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "panicked" not in done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ("storage='f32'", 120_000),
        ("storage='f16'", 120_000),
        pytest.param("storage='i8'", 200_000, marks=pytest.mark.long),
        pytest.param("storage='i8', rescore=False", 500_000, marks=pytest.mark.long),
        pytest.param("storage='binary', rescore=False", 900_000, marks=pytest.mark.long),
    ],
)
def test_add(options, rows):
    out = _run(f"""
        x = rng.normal(size=({rows}, 128)).astype("f4")
        index = rg.HNSWIndex(128, m=8, ef_construction=16, {options})
        index.add(x[:300])
        before, found = index.fingerprint, index.search(x[:20], k=5).rows
        error = refused(lambda: index.add(x))
        print(len(index), index.num_rows, index.fingerprint == before, "bytes" in str(error))
        assert (index.search(x[:20], k=5).rows == found).all()
        index.add(x[300:400])
        print(len(index), index.stats()["unreachable"])
    """)
    assert out.split() == ["300", "300", "True", "True", "400", "0"]


def test_load_pickle_and_results(tmp_path):
    out = _run(
        """
        import pickle
        path = sys.argv[1]
        index = rg.HNSWIndex(256, metric="l2", m=4, ef_construction=8)
        index.add(rng.normal(size=(24_000, 256)).astype("f4"))
        index.save(path)
        queries = rng.normal(size=(4_000, 256)).astype("f4")
        few = 12 << 20
        mapped = rg.HNSWIndex.load(path, mmap=True)
        print(type(refused(lambda: mapped.add(queries[:1]), few)).__name__, len(mapped))
        print(type(refused(lambda: rg.HNSWIndex.load(path), few)).__name__)
        print(type(refused(lambda: pickle.dumps(index), few)).__name__)
        print(type(refused(lambda: index.vectors(), few)).__name__)
        print(type(refused(lambda: index.search(queries, k=3_000))).__name__)
        print(type(refused(lambda: index.exact_search(queries, k=3_000))).__name__)
        print(type(refused(lambda: index.range_search(queries[:500], radius=1e9, exact=True), few)).__name__)
        print(limited(lambda: index.search(queries[:10], k=5)), len(index), index.stats()["unreachable"])
        """,
        str(tmp_path / "index.rvx"),
    )
    assert out.split() == ["MemoryError", "24000", *["MemoryError"] * 6, "None", "24000", "0"]


def test_compact_optimize_and_row_numbers():
    out = _run("""
        index = rg.HNSWIndex(4, metric="l2", m=32, ef_construction=32)
        rows = index.add(rng.normal(size=(40_000, 4)).astype("f4"))
        index.remove(rows[:5_000:7])
        before = index.fingerprint
        for call in (index.compact, index.optimize):
            error = limited(call, 4 << 20)
            assert isinstance(error, MemoryError), error
            assert index.fingerprint == before
        error = refused(lambda: index.skip_rows(2**31))
        print(index.num_rows, index.fingerprint == before)
        index.compact()
        print(index.stats()["free"], index.stats()["unreachable"])
    """)
    assert out.split() == ["40000", "True", "0", "0"]


def test_absurd_sizes():
    out = _run("""
        index = rg.HNSWIndex(8, metric="l2")
        x = rng.normal(size=(50, 8)); index.add(x)
        huge = (2**31, 2**40, 2**62, 2**63 - 1)
        def calls():
            for n in huge:
                yield lambda: rg.HNSWIndex(n)
                yield lambda: rg.HNSWIndex(8, m=n)
                yield lambda: rg.HNSWIndex(8, ef_construction=n).add(x)
                yield lambda: rg.HNSWIndex(8, ef_search=n).search(x, k=1)
                yield lambda: index.search(x, k=n)
                yield lambda: index.search(x, k=1, ef=n)
                yield lambda: index.exact_search(x, k=n)
                yield lambda: index.search(x, k=3, filter=[n])
                yield lambda: index.skip_rows(n)
                yield lambda: index.remove([n])
                yield lambda: index.update([n], x[:1])
                yield lambda: index.vectors([n])
                yield lambda: index.graph(n)
                yield lambda: n in index
            for n in (-1, 0):
                yield lambda: index.search(x, k=n)
                yield lambda: index.search(x, k=1, ef=n)
                yield lambda: index.exact_search(x, k=n)
                yield lambda: rg.HNSWIndex(n)
            yield lambda: index.skip_rows(-1)
            yield lambda: index.add(np.broadcast_to(np.float32(1), (2**20, 8)).reshape(-1, 8)[:0])
        before = index.fingerprint
        def attempt(call):
            try:
                call()
            except (rg.RuvectorError, MemoryError):
                pass
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, resource.RLIM_INFINITY))
        for call in calls():
            attempt(call)
        print(index.fingerprint == before, index.num_rows, len(index))
    """)
    assert out.split() == ["True", "50", "50"]
