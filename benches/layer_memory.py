"""Memory of one forward pass beyond array and result, without gradients; Linux.

100,000 nodes, average degree 16, 128 -> 64, float32: the rise of the peak of the process (`VmHWM`)
over what it held before, less the result. What a graph keeps of itself, as its normalization, was
made before. Each layer has a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import ruvector_gnn as rg
from ruvector_gnn import nn

NODES, DEGREE, INS, OUTS = 100_000, 16, 128, 64

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "GCN": lambda: nn.GCNLayer(INS, OUTS),
    "SAGE": lambda: nn.SAGELayer(INS, OUTS),
    "GAT": lambda: nn.GATLayer(INS, 8, num_heads=8),
    "GATv2": lambda: nn.GATv2Layer(INS, 8, num_heads=8),
    "RuvectorLayer": lambda: nn.RuvectorLayer(INS, OUTS, 4),
}


def kibibytes(name: str) -> int:
    """A line of the process's status."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def measure(name: str) -> None:
    """Prints what one pass of a layer takes."""
    rng = np.random.default_rng(0)
    edges = rng.integers(0, NODES, (2, NODES * DEGREE))
    graph = rg.Graph.from_edge_index(edges, num_nodes=NODES)
    x = rng.standard_normal((NODES, INS), dtype=np.float32)
    layer = LAYERS[name]()
    del edges
    with rg.no_grad():
        nn.GCNLayer(1, 1)(x[:, :1].copy(), graph)
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        before = kibibytes("VmRSS")
        out = layer(x, graph)
        rise = kibibytes("VmHWM") - before
    result = out.numpy().nbytes
    print(f"{name:15} {rise / 1024 - result / 2**20:6.1f} MB, the result {result / 2**20:.1f} MB")


def main() -> None:
    """A process for each layer, whose peak is its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layer", choices=list(LAYERS), help="only this one, in this process")
    name = parser.parse_args().layer
    if name:
        measure(name)
        return
    for name in LAYERS:
        subprocess.run([sys.executable, __file__, "--layer", name], check=True)


if __name__ == "__main__":
    main()
