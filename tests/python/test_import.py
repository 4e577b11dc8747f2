"""`import ruvector_gnn` brings in NumPy and the standard library only."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIBRARIES = ("scipy", "tqdm", "matplotlib", "networkx", "pymetis")


def printed(script: str) -> str:
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return run.stdout.strip()


@pytest.mark.parametrize("module", ["ruvector_gnn", "ruvector_gnn.cli", "ruvector_gnn.db"])
def test_libraries_that_few_calls_need_are_not_imported(module: str) -> None:
    late = (*LIBRARIES, "sqlite3", "ruvector_gnn.db") if module == "ruvector_gnn" else LIBRARIES
    assert printed(f"import sys, {module}; print(sorted(set({late}) & set(sys.modules)))") == "[]"


@pytest.mark.parametrize(
    "use",
    [
        "import ruvector_gnn as rg; rg.VectorDB.open",
        "import ruvector_gnn as rg; rg.db.VectorDB is rg.VectorDB or 1 / 0",
        "import ruvector_gnn.db; import ruvector_gnn as rg; rg.SearchResult is rg.db.SearchResult or 1 / 0",
        "from ruvector_gnn import VectorDB; VectorDB.open",
        "from ruvector_gnn import db; db.VectorDB.open",
        "from ruvector_gnn import *; VectorDB.open, SearchResult",
        "import ruvector_gnn as rg; {'VectorDB', 'db', 'nn'} <= set(dir(rg)) or 1 / 0",
        "import ruvector_gnn as rg; getattr(rg, 'VectorDb', None) is None or 1 / 0",
    ],
)
def test_the_database_is_there_when_it_is_used(use: str) -> None:
    assert printed(f"{use}; print('used')") == "used"


def test_methods_import_what_they_need() -> None:
    script = (
        "import numpy, ruvector_gnn as rg\n"
        "graph = rg.Graph.from_adjacency([[1], [0, 2], [1]])\n"
        "assert abs(graph.laplacian_eigenvalues(2)[1] - 1) < 1e-6\n"
        "assert graph.to_scipy().nnz == graph.laplacian().nnz - 3 == 4\n"
        "assert graph.laplacian_positional_encoding(1).shape == (3, 1)\n"
        "rg.HNSWIndex(4).add(numpy.eye(4), progress=True)\n"
    )
    assert printed(script) == ""
