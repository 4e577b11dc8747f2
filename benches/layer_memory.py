"""Memory of forward passes beyond array, graph and result, without gradients; Linux.

100,000 nodes, average degree 16, 128 -> 64, float32: the peak of the process (`VmHWM`) in the first pass
and in the second, over what it held before the first, less the result. The first pass makes what a graph
keeps of itself, as its normalization or its self loops. Freed buffers stay with the process for reuse.
Each layer has a process of its own.
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
    """Prints what two passes of a layer take."""
    rng = np.random.default_rng(0)
    edges = rng.integers(0, NODES, (2, NODES * DEGREE))
    graph = rg.Graph.from_edge_index(edges, num_nodes=NODES)
    x = rng.standard_normal((NODES, INS), dtype=np.float32)
    layer = LAYERS[name]()
    del edges
    before, peaks = kibibytes("VmRSS"), []
    with rg.no_grad():
        for _ in range(2):
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
            size = 4 * layer(x, graph).size
            peaks.append((kibibytes("VmHWM") - before) / 1024 - size / 2**20)
    print(f"{name:15} first {peaks[0]:6.1f} MB, second {peaks[1]:6.1f} MB, the result {size / 2**20:.1f} MB")


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
