"""Ctrl-C ends what only reads within a second, on one thread and on several, and changes nothing."""

import os
import subprocess
import sys
import textwrap

import pytest

# Each case takes many seconds; `call` must end within a second of the signal.
CASES = {
    "search": """
        index = rg.HNSWIndex(64); index.add(rng.normal(size=(3000, 64)))
        queries = np.tile(rng.normal(size=(2000, 64)).astype("f4"), (2000, 1))
        call = lambda: index.search(queries, k=10, ef=400)
    """,
    "filtered search": """
        index = rg.HNSWIndex(64); index.add(rng.normal(size=(3000, 64)))
        queries = np.tile(rng.normal(size=(2000, 64)).astype("f4"), (2000, 1))
        call = lambda: index.search(queries, k=10, ef=400, filter=np.arange(0, 3000, 3))
    """,
    "exact_search": """
        index = rg.HNSWIndex(256); index.add(rng.normal(size=(3000, 256)))
        queries = np.tile(rng.normal(size=(2000, 256)).astype("f4"), (500, 1))
        call = lambda: index.exact_search(queries, k=10)
    """,
    "range_search": """
        index = rg.HNSWIndex(64, metric="l2"); index.add(rng.normal(size=(3000, 64)))
        queries = np.tile(rng.normal(size=(2000, 64)).astype("f4"), (200, 1))
        call = lambda: index.range_search(queries, radius=1.0, exact=True)
    """,
    "learner.search": """
        rows = rng.normal(size=(3000, 64)); index = rg.HNSWIndex(64); index.add(rows)
        learner = rg.SearchLearner(index)
        queries = np.tile(rows[:2000].astype("f4"), (1000, 1))
        call = lambda: learner.search(queries, k=20)
    """,
    "matmul": """
        a = rg.tensor(np.ones((14000, 14000), "f4"))
        call = lambda: a @ a
    """,
    "long inner dimension": """
        a = rg.tensor(np.ones((400, 600_000), "f4")); b = rg.tensor(np.ones((600_000, 400), "f4"))
        def call():
            for _ in range(60): a @ b
    """,
    "full attention": """
        layer = rg.nn.MultiheadAttention(256, 4); x = rng.normal(size=(12_000, 256)).astype("f4")
        def call():
            with rg.no_grad(): layer(x)
    """,
    "random walks": """
        graph = rg.Graph.from_edge_index(rng.integers(20_000, size=(2, 400_000)), num_nodes=20_000)
        call = lambda: graph.random_walk_subgraphs(roots=20_000, walk_length=20_000, num_batches=3)
    """,
    "backward": """
        w = rg.tensor(np.ones((9000, 9000), "f4"), requires_grad=True)
        x = rg.tensor(np.ones((400, 9000), "f4"))
        def call():
            loss = ((x @ w) @ (w @ w)).sum()
            loss.backward()
    """,
}

RUN = """
import os, signal, threading, time
import numpy as np, ruvector_gnn as rg
rng = np.random.default_rng(0)
{setup}
begin = time.monotonic()
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    call()
    print("ran to its end after", time.monotonic() - begin)
except KeyboardInterrupt:
    print("interrupted", time.monotonic() - begin - 0.5)
"""


def _run(script: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("case", ["search", "exact_search", "matmul"])
def test_ctrl_c_ends_a_call(case, threads):
    script = RUN.format(setup=textwrap.dedent(CASES[case]))
    word, seconds = _run(script, RUVECTOR_NUM_THREADS=threads)[:2]
    assert word == "interrupted"
    assert float(seconds) < 2.5, "a busy machine may double the second that is promised"


@pytest.mark.long
@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("case", CASES)
def test_ctrl_c_ends_any_call_that_reads(case, threads):
    script = RUN.format(setup=textwrap.dedent(CASES[case]))
    word, seconds = _run(script, RUVECTOR_NUM_THREADS=threads)[:2]
    assert word == "interrupted"
    assert float(seconds) < 1.0


def test_what_a_handler_raises_comes_through_and_the_index_goes_on():
    out = _run("""
import signal
import numpy as np, ruvector_gnn as rg
rng = np.random.default_rng(0)
index = rg.HNSWIndex(64); index.add(rng.normal(size=(3000, 64)))
queries = np.tile(rng.normal(size=(2000, 64)).astype("f4"), (300, 1))

class Enough(Exception):
    pass

seen = []
def handler(number, frame):
    # The call that is interrupted reads the index, so this must not wait for it.
    try:
        index.add(rng.normal(size=(1, 64)))
    except rg.ConfigError as error:
        seen.append(str(error))
    raise Enough

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.4)
try:
    index.exact_search(queries, k=10)
except Enough:
    print("raised")
print(len(seen), "signal" in seen[0], len(index))
index.add(rng.normal(size=(1, 64)))
print(len(index), index.search(queries[:2], k=3).rows.shape[1])
""")
    assert out == ["raised", "1", "True", "3000", "3001", "3"]


def test_signals_whose_handlers_return_do_not_end_a_call():
    out = _run("""
import signal
import numpy as np, ruvector_gnn as rg
rng = np.random.default_rng(0)
index = rg.HNSWIndex(32); index.add(rng.normal(size=(2000, 32)))
queries = np.tile(rng.normal(size=(2000, 32)).astype("f4"), (10, 1))
expected = index.exact_search(queries, k=3).rows
ticks = []
signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
found = index.exact_search(queries, k=3).rows
signal.setitimer(signal.ITIMER_REAL, 0)
print(bool((found == expected).all()), len(ticks) > 1)
""")
    assert out == ["True", "True"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of processes")
def test_threads_that_the_system_refuses_are_an_ordinary_error():
    """A limit of processes: the call says so, and works on one thread."""
    out = _run("""
import os, resource
import numpy as np, ruvector_gnn as rg
x = np.random.default_rng(0).normal(size=(3000, 16))
index = rg.HNSWIndex(16)
rg.set_num_threads(8)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65531)
try:
    index.add(x)
    print("added")
except OSError as error:
    print("refused", "set_num_threads(1)" in str(error), len(index))
    rg.set_num_threads(1)
    index.add(x)
print(len(index))
""")
    assert out in (["refused", "True", "0", "3000"], ["added", "3000"])


def test_the_number_of_threads_is_bounded():
    import ruvector_gnn as rg

    before = rg.num_threads()
    for number in (0, -1, 1025, 2**40, 2**62):
        with pytest.raises(rg.ConfigError, match="num_threads"):
            rg.set_num_threads(number)
    assert rg.num_threads() == before
    refused = subprocess.run(
        [sys.executable, "-c", "import ruvector_gnn"],
        env={**os.environ, "RUVECTOR_NUM_THREADS": "2000"},
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 1 and "from 1 to 1024" in refused.stderr
    unset = _run("import ruvector_gnn as rg; print(rg.num_threads() >= 1)", RUVECTOR_NUM_THREADS="")
    assert unset == ["True"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_child_forked_beside_busy_threads_computes():
    """Locks of the pool and of reused buffers are not inherited from threads that the child does not have."""
    out = _run("""
import os, signal, threading
import numpy as np, ruvector_gnn as rg
rng = np.random.default_rng(0)
stop = threading.Event()
def work():
    x = rg.tensor(rng.normal(size=(300, 300)).astype("f4"))
    while not stop.is_set():
        (x @ x + x).relu().sum()
        rg.nn.Linear(20, 20)
threads = [threading.Thread(target=work) for _ in range(3)]
[thread.start() for thread in threads]
codes = []
for _ in range(40):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        y = rg.tensor(np.ones((300, 300), "f4"))
        ok = float((y @ y).sum().item()) == 300.0**3 and rg.nn.Linear(4, 4).weight.shape == (4, 4)
        os._exit(0 if ok else 1)
    codes.append(os.waitpid(child, 0)[1])
stop.set()
[thread.join() for thread in threads]
print(codes == [0] * 40)
""")
    assert out == ["True"]

