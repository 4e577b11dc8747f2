"""Layers of continuous depth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ruvector_gnn import _core
from ruvector_gnn._arguments import typed, whole_graph
from ruvector_gnn._core import Graph, Tensor
from ruvector_gnn.nn.gcn import GCNLayer
from ruvector_gnn.nn.init import require_positive
from ruvector_gnn.nn.module import Module

if TYPE_CHECKING:
    from ruvector_gnn.nn.init import Input

__all__ = ["NeuralODELayer"]


class NeuralODELayer(Module):
    """A layer of continuous depth (Chen et al. 2018; Poli et al. 2019).

    The rows of all nodes follow `dh/dt = field(h, graph)` from `h(0) = x` to `h(time)`, the result, in equal
    steps by the classical Runge-Kutta method of order 4. Takes and gives `(N, dim)`. Gradients are exact for
    these steps: the tape holds all of them, four calls of the field each.

    Keys: `field.*`.

    Args:
        dim: width of rows.
        field: a module, `field(h, graph) -> (N, dim)`; by default `GCNLayer(dim, dim, activation="tanh")`.
        time: how long the field is followed; negative goes backwards.
        steps: in how many steps. The error falls with their fourth power.
        seed: of the first weights of the default field.

    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[1], [0, 2], [1]])
    >>> NeuralODELayer(4, seed=0)([[1.0] * 4] * 3, graph).shape
    (3, 4)
    >>> class Diffusion(rg.nn.Module):
    ...     def forward(self, h, graph):
    ...         return rg.aggregate(h, graph, "mean") - h
    >>> warm = NeuralODELayer(1, Diffusion(), time=20.0, steps=40)
    >>> warm([[3.0], [0.0], [1.0]], graph).numpy().ravel().round(3)
    array([1., 1., 1.], dtype=float32)
    """

    @typed
    def __init__(
        self,
        dim: int,
        field: Module | None = None,
        time: float = 1.0,
        steps: int = 4,
        *,
        seed: int | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        require_positive(dim=dim, steps=steps)
        self.time, self.steps = _core.finite_number("time", time), steps
        self.field = GCNLayer(dim, dim, activation="tanh", seed=seed) if field is None else field

    def forward(self, x: Input, graph: Graph) -> Tensor:
        """Follow the field from `x`; over a block there is no next step, so `graph` must hold all nodes."""
        whole_graph("NeuralODELayer", graph)
        return _core.rk4(x, self.time, self.steps, lambda h: self.field(h, graph))

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"time={self.time}, steps={self.steps}"
