"""The worked examples run from end to end."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scipy.sparse as sp
from planted import planted

ROOT = Path(__file__).resolve().parents[2]
CORA = Path(os.environ.get("RUVECTOR_SHARED", ROOT.parent / "shared")) / "data" / "cora.npz"


@pytest.fixture(scope="module")
def cora() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cora", ROOT / "examples" / "cora.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cora"] = module
    spec.loader.exec_module(module)
    return module



@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A planted graph in the layout of the example's file."""
    x, edges, labels = planted(size=50, dim=100, signal=1.0)
    features = sp.csr_matrix(np.maximum(x - 0.5, 0))
    order = np.random.default_rng(0).permutation(len(labels))
    path = tmp_path_factory.mktemp("data") / "small.npz"
    np.savez(
        path,
        feat_data=features.data,
        feat_indices=features.indices,
        feat_indptr=features.indptr,
        feat_shape=features.shape,
        edge_index=edges,
        labels=labels,
        train_idx=order[:40],
        val_idx=order[40:100],
        test_idx=order[100:],
    )
    return path


@pytest.mark.parametrize("model", ["gcn", "gat"])
def test_a_small_graph(cora: ModuleType, small: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cora.main([str(small), "--model", model, "--seeds", "2", "--epochs", "120", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["model"] == model
    assert figures["test_accuracy_mean"] > 90, figures
    assert cora.main([str(small), "--model", model, "--seeds", "1", "--epochs", "3"]) == 0
    assert "ms an epoch" in capsys.readouterr().out


def test_a_seed_gives_the_same_result_again(cora: ModuleType, small: Path) -> None:
    data = cora.load(str(small))
    first, second = (cora.train(data, cora.GCN, 3, 20)[0] for _ in range(2))
    assert first == second


@pytest.mark.long
@pytest.mark.skipif(not CORA.exists(), reason="the data set is not here")
@pytest.mark.parametrize("model, least", [("gcn", 81.0), ("gat", 82.5)])
def test_cora_reaches_the_published_accuracy(
    cora: ModuleType, model: str, least: float, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cora.main([str(CORA), "--model", model, "--seeds", "10", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test_accuracy_mean"] >= least
