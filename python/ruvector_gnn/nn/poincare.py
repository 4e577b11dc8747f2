"""Hyperbolic space: the Poincaré ball and message passing in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ruvector_gnn import _core
from ruvector_gnn._arguments import typed
from ruvector_gnn._core import Graph, Tensor
from ruvector_gnn.errors import ConfigError
from ruvector_gnn.nn.dense import Linear
from ruvector_gnn.nn.init import draw_seed, filled, require_positive
from ruvector_gnn.nn.module import Module, Parameter

if TYPE_CHECKING:
    from ruvector_gnn.nn.init import Input

__all__ = [
    "PoincareLayer",
    "mobius_add",
    "poincare_distance",
    "poincare_exp",
    "poincare_log",
    "poincare_midpoint",
]


def poincare_exp(v: Input, curvature: float = 1.0) -> Tensor:
    """Map tangent vectors at the origin to points, `tanh(sqrt(c) |v|) v / (sqrt(c) |v|)` (Ganea et al. 2018).

    The ball has the curvature `-c` and the radius `1 / sqrt(c)`; points keep a distance of `0.004` radii to
    its border. `(.., d)` to `(.., d)`.

    >>> poincare_exp([[0.0, 0.5]]).numpy().round(4)
    array([[0.    , 0.4621]], dtype=float32)
    """
    return _core.poincare_map("exp", v, curvature)


def poincare_log(x: Input, curvature: float = 1.0) -> Tensor:
    """Map points to tangent vectors at the origin, `artanh(sqrt(c) |x|) x / (sqrt(c) |x|)`.

    Raises `ShapeError` for a point on the ball's border or outside.

    >>> poincare_log(poincare_exp([[0.0, 0.5]])).numpy().round(4)
    array([[0. , 0.5]], dtype=float32)
    """
    return _core.poincare_map("log", x, curvature)


def mobius_add(x: Input, y: Input, curvature: float = 1.0) -> Tensor:
    """Add points of the ball as Ungar (2008) does, by broadcasting.

    `((1 + 2c<x, y> + c|y|^2) x + (1 - c|x|^2) y) / (1 + 2c<x, y> + c^2 |x|^2 |y|^2)`: `y` translated so that
    the origin comes to `x`. Points outside the ball count as the nearest inside.

    >>> mobius_add([[0.5, 0.0]], [[-0.5, 0.0]]).numpy()
    array([[0., 0.]], dtype=float32)
    """
    return _core.mobius_add(x, y, curvature)


def poincare_distance(x: Input, y: Input, curvature: float = 1.0) -> Tensor:
    """Compute the distances of points (Nickel & Kiela 2017), `(.., d)` to `(..)`.

    `2 / sqrt(c) asinh(sqrt(c) |x - y| / sqrt((1 - c|x|^2) (1 - c|y|^2)))`; points outside count as the
    nearest inside. The gradient is 0 where points are equal.

    >>> poincare_distance([[0.0, 0.0]], [[0.0, 0.5]]).numpy().round(4)
    array([1.0986], dtype=float32)
    """
    return _core.poincare_distance(x, y, curvature)


def poincare_midpoint(points: Input, graph: Graph, curvature: float = 1.0) -> Tensor:
    """Average the points that each node aggregates from, by the graph's weights (Ungar 2008).

    With `l_j = 2 / (1 - c|p_j|^2)` and `m_i = sum_j w_ij l_j p_j / sum_j w_ij (l_j - 1)` the gyromidpoint is
    `m_i / (1 + sqrt(1 - c|m_i|^2))`: translating all points translates it. `(num_sources, d)` to
    `(num_nodes, d)`; the origin for a node without neighbours. Points outside the ball count as the nearest
    inside. Raises `ConfigError` for negative weights.

    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[1, 2], [], []])
    >>> poincare_midpoint([[0.0, 0.0], [0.5, 0.0], [-0.5, 0.0]], graph).numpy()[0]
    array([0., 0.], dtype=float32)
    """
    return _core.poincare_midpoint(points, graph, curvature)


class PoincareLayer(Module):
    """Message passing in hyperbolic space, where trees have room (Ganea et al. 2018; Chami et al. 2019).

    `p_i = exp(W log(x_i)) (+) exp(b)`, `y_i` the gyromidpoint of the `p_j` of node i and its neighbours
    (see `poincare_midpoint`), `out_i = exp(act(log(y_i)))`. Takes `(N, in_dim)`, by default tangent vectors
    at the origin, which any features are; gives points of the ball `(N, out_dim)`. A layer after it takes
    `inputs="points"`. Nodes without a loop get one of weight 1; weights must not be negative.

    Keys: `lin.weight (out_dim, in_dim)`, `bias (out_dim)`.

    Args:
        in_dim: width of the input.
        out_dim: width of the result.
        curvature: `c`: the ball has the curvature `-c`, the radius `1 / sqrt(c)`.
        activation: by name, as in `Activation`, in the tangent space at the origin.
        bias: whether there is one.
        inputs: "tangents", or "points" of the same ball.
        seed: of the first weights.

    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[1], [0, 2], [1]])
    >>> first = PoincareLayer(4, 3, activation="relu", seed=0)
    >>> second = PoincareLayer(3, 2, inputs="points", seed=1)
    >>> points = second(first([[1.0] * 4] * 3, graph), graph)
    >>> points.shape, bool((points.norm().numpy() < 1.0).all())
    ((3, 2), True)
    """

    @typed
    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        curvature: float = 1.0,
        activation: str | None = None,
        bias: bool = True,
        *,
        inputs: Literal["tangents", "points"] = "tangents",
        seed: int | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        require_positive(in_dim=in_dim, out_dim=out_dim)
        if inputs not in ("tangents", "points"):
            raise ConfigError(f"inputs must be 'tangents' or 'points', got {inputs!r}")
        if activation is not None:
            _core.activate([0.0], activation)
        _core.poincare_map("exp", [0.0], curvature)
        self.curvature, self.activation, self.inputs = curvature, activation, inputs
        self.lin = Linear(in_dim, out_dim, bias=False, init="glorot", seed=draw_seed(seed))
        self.bias: Parameter | None = filled(0.0, out_dim) if bias else None

    def forward(self, x: Input, graph: Graph) -> Tensor:
        """Map, translate and average over `graph`.

        Raises:
            ShapeError: if shapes do not fit, or a point that should be inside the ball is not.
            ConfigError: for a graph with negative weights.
        """
        points = self.inputs == "points"
        return _core.poincare(x, graph, self.lin.weight, self.bias, self.curvature, points, self.activation)

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"curvature={self.curvature}, activation={self.activation!r}, inputs={self.inputs!r}"
