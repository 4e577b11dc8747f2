"""Weights in a mapped file: the same bits, no copy before a write; a file that never changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ruvector_gnn as rg
from ruvector_gnn import _core, nn

RNG = np.random.default_rng(0)


def saved(path: Path, seed: int = 0) -> nn.Linear:
    layer = nn.Linear(24, 8, seed=seed)
    layer.save_weights(path)
    return layer


def mapped(path: Path) -> nn.Linear:
    layer = nn.Linear(24, 8, seed=99)
    layer.load_weights(path, mmap=True)
    return layer


def train(layer: nn.Module, x: np.ndarray) -> None:
    optimizer = rg.optim.SGD(list(layer.parameters()), lr=0.1)
    (layer(x) ** 2).sum().backward()
    optimizer.step()


def test_training_copies_and_modules_do_not_see_each_other(tmp_path: Path) -> None:
    path, x = tmp_path / "layer.safetensors", RNG.standard_normal((5, 24)).astype(np.float32)
    read = saved(path)
    before, content = read.state_dict(), path.read_bytes()
    one, other = mapped(path), mapped(path)
    np.testing.assert_array_equal(one(x).numpy(), read(x).numpy())
    assert all(parameter.requires_grad for parameter in one.parameters())
    train(one, x)
    train(read, x)
    for name, value in one.state_dict().items():
        np.testing.assert_array_equal(value, read.state_dict()[name])
        assert (value != before[name]).any()
        np.testing.assert_array_equal(other.state_dict()[name], before[name])
    one.load_state_dict({name: np.zeros_like(value) for name, value in before.items()})
    assert not one(x).numpy().any()
    assert path.read_bytes() == content


def test_the_mapped_file_may_be_replaced(tmp_path: Path) -> None:
    path, x = tmp_path / "layer.safetensors", RNG.standard_normal((5, 24)).astype(np.float32)
    first = saved(path)
    layer = mapped(path)
    second = saved(path, seed=1)
    np.testing.assert_array_equal(layer(x).numpy(), first(x).numpy())
    np.testing.assert_array_equal(mapped(path)(x).numpy(), second(x).numpy())
    train(layer, x)
    layer.save_weights(path)
    again = mapped(path)
    again.save_weights(path)
    np.testing.assert_array_equal(mapped(path)(x).numpy(), layer(x).numpy())
    path.unlink()
    np.testing.assert_array_equal(again(x).numpy(), layer(x).numpy())


def test_what_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "layer.safetensors"
    layer = saved(path)
    before = layer.state_dict()
    weight, bias = np.ones((8, 24), np.float32), np.ones(8, np.float32)
    for state, error, text in (
        ({"weight": weight}, rg.NotFoundError, "missing"),
        ({"weight": weight, "bias": bias[:7]}, rg.ShapeError, r"bias has shape \(7,\), expected \(8,\)"),
        ({"weight": weight.reshape(2, 2, 2, 24), "bias": bias}, rg.ShapeError, "weight has shape"),
        ({"weight": weight, "bias": bias * np.nan}, rg.ShapeError, "bias must be finite"),
        ({"weight": weight, "bias": bias, "more": bias}, rg.NotFoundError, "unknown"),
    ):
        _core.save_tensors(str(path), list(state.items()))
        for mmap in (False, True):
            with pytest.raises(error, match=text):
                layer.load_weights(path, mmap=mmap)
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    _core.save_tensors(str(path), [("bias", bias), ("other", weight * np.nan)])
    layer.load_weights(path, strict=False, mmap=True)
    np.testing.assert_array_equal(layer.bias.numpy(), bias)
    np.testing.assert_array_equal(layer.weight.numpy(), before["weight"])


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "layer.safetensors"
    layer = saved(path)
    content = path.read_bytes()
    endless, no_json = b"\xff" * 8 + content[8:], content[:8] + b"[" + content[9:]
    for damaged in (b"", content[:40], content[:-1], endless, no_json):
        path.write_bytes(damaged)
        with pytest.raises(rg.FormatError):
            layer.load_weights(path, mmap=True)
    with pytest.raises(FileNotFoundError):
        layer.load_weights(tmp_path / "none", mmap=True)
    with pytest.raises(OSError, match=str(tmp_path)):
        layer.load_weights(tmp_path, mmap=True)


def anonymous_bytes() -> int:
    """Memory of this process that no file stands behind."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Anonymous:"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_mapped_weights_take_no_memory_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    layer, x = nn.Linear(4096, 2048, bias=False, seed=0), np.ones((1, 4096), np.float32)
    layer.save_weights(path)
    layers = [nn.Linear(4096, 2048, bias=False, seed=seed) for seed in (1, 2, 3)]
    before = anonymous_bytes()
    for other in layers:
        other.load_weights(path, mmap=True)
    assert anonymous_bytes() - before < path.stat().st_size // 4
    with rg.no_grad():
        for other in layers:
            np.testing.assert_array_equal(other(x).numpy(), layer(x).numpy())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_replaced_values_is_released(tmp_path: Path) -> None:
    script = """
import re, sys
import ruvector_gnn as rg

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024

before = anonymous()
model = rg.nn.Sequential(*(rg.nn.Linear(width, 1024, bias=False, seed=0) for width in (16_384, 8_192)))
model.save_weights(sys.argv[1])
assert anonymous() - before > 90
model.load_weights(sys.argv[1], mmap=True)
print(anonymous() - before)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "large.safetensors")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(run.stdout) < 15, f"{run.stdout} MiB beyond those of the import, of 96 MiB of weights"


@pytest.mark.parametrize("mmap", [False, True])
def test_every_flipped_bit_is_refused(tmp_path: Path, mmap: bool) -> None:
    path = tmp_path / "layer.safetensors"
    layer = nn.Linear(3, 2, seed=0)
    layer.save_weights(path)
    content = bytearray(path.read_bytes())
    for bit in range(8 * len(content)):
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        with pytest.raises(rg.FormatError):
            layer.load_weights(path, mmap=mmap)
        content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    layer.load_weights(path, mmap=mmap)
