"""The layers. Each holds its parameters and hands them to its forward pass in Rust.

`seed` fixes a layer's initial values; without it the next seed of the sequence that `rg.manual_seed`
restarts is taken, so that the same calls give the same weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from numpy.typing import ArrayLike

from ruvector_gnn import _core
from ruvector_gnn._core import Graph, Tensor
from ruvector_gnn.errors import ConfigError
from ruvector_gnn.nn.module import Module, Parameter

if TYPE_CHECKING:
    Input = ArrayLike | Tensor

__all__ = [
    "Activation",
    "Dropout",
    "GCNLayer",
    "GRUCell",
    "LayerNorm",
    "Linear",
    "MultiheadAttention",
    "RuvectorLayer",
    "SAGELayer",
]

_MASK = 2**64 - 1


def _seed(seed: int | None) -> int:
    return _core.next_seed() if seed is None else seed


def _dims(**dims: int) -> None:
    for name, value in dims.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")


def _draw(kind: str, shape: tuple[int, ...], ins: int, outs: int, seed: int) -> Parameter:
    return Parameter(_core.init_parameter(kind, list(shape), ins, outs, seed & _MASK))


def _filled(value: float, size: int) -> Parameter:
    return Parameter([value] * size)


class Linear(Module):
    r"""A linear map, `y = x W^T + b`, as `torch.nn.Linear`.

    Takes `x (.., in_dim)`, gives `(.., out_dim)`. Parameters `weight (out_dim, in_dim)` and `bias
    (out_dim)`, drawn uniformly in `±1/sqrt(in_dim)`. `init="normal"` draws weights from a normal
    distribution with standard deviation `sqrt(2 / (in_dim + out_dim))`, and sets the bias to zero.

    >>> Linear(3, 2, seed=0)([[1.0, 2.0, 3.0]]).shape
    (1, 2)
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        bias: bool = True,
        *,
        init: Literal["uniform", "normal", "glorot"] = "uniform",
        seed: int | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        _dims(in_dim=in_dim, out_dim=out_dim)
        kinds = {"uniform": "fan_in", "normal": "glorot_normal", "glorot": "glorot_uniform"}
        if init not in kinds:
            raise ConfigError(f"init must be one of {sorted(kinds)}, got {init!r}")
        seed = _seed(seed)
        self.weight = _draw(kinds[init], (out_dim, in_dim), in_dim, out_dim, seed)
        self.bias: Parameter | None = None
        if bias:
            drawn = init == "uniform"
            self.bias = (
                _draw("fan_in", (out_dim,), in_dim, out_dim, seed + 1) if drawn else _filled(0.0, out_dim)
            )

    def forward(self, x: Input) -> Tensor:
        """Map the last axis of `x`."""
        return _core.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Describe the settings."""
        out_dim, in_dim = self.weight.shape
        return f"{in_dim}, {out_dim}" + ("" if self.bias is not None else ", bias=False")


class LayerNorm(Module):
    """Layer normalization (Ba et al. 2016), `(x - mean) / sqrt(var + eps) * weight + bias` over the last
    axis.

    As `torch.nn.LayerNorm`. Takes and gives `(.., dim)`.

    >>> LayerNorm(2)([[1.0, 3.0]]).numpy().round(3)
    array([[-1.,  1.]], dtype=float32)
    """

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        """See the class."""
        super().__init__()
        _dims(dim=dim)
        self.eps = eps
        self.weight = _filled(1.0, dim)
        self.bias = _filled(0.0, dim)

    def forward(self, x: Input) -> Tensor:
        """Normalize the last axis of `x`."""
        return _core.layer_norm(x, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"{self.weight.size}, eps={self.eps}"


class Dropout(Module):
    """Dropout (Srivastava et al. 2014): in training, drops each value with probability `rate`, scales the
    others.

    Each call in training takes the next seed of the sequence that `rg.manual_seed` restarts.

    >>> Dropout(0.5).eval()([[1.0, 2.0]]).numpy()
    array([[1., 2.]], dtype=float32)
    """

    def __init__(self, rate: float = 0.5) -> None:
        """See the class; `0 <= rate < 1`."""
        super().__init__()
        if not 0 <= rate < 1:
            raise ConfigError(f"dropout must be in [0, 1), got {rate}")
        self.rate = rate

    def forward(self, x: Input) -> Tensor:
        """Drop values in training; give `x` itself in evaluation."""
        x = x if isinstance(x, Tensor) else Tensor(x)
        return x.dropout(self.rate) if self.training else x

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"{self.rate}"


class Activation(Module):
    """A function of one value by name: relu, leaky_relu, elu, gelu, sigmoid or tanh.

    >>> Activation("relu")([-1.0, 2.0]).numpy()
    array([0., 2.], dtype=float32)
    """

    def __init__(self, name: str) -> None:
        """See the class."""
        super().__init__()
        self.name = name
        _core.activate([0.0], name)

    def forward(self, x: Input) -> Tensor:
        """Apply the function."""
        return _core.activate(x, self.name)

    def extra_repr(self) -> str:
        """Describe the settings."""
        return repr(self.name)


class GCNLayer(Module):
    """Graph convolution (Kipf & Welling 2017), as PyG's `GCNConv`.

    `out = act(D^-1/2 (A + I) D^-1/2 x W^T + b)`. Takes `x (N, in_dim)`, gives `(N, out_dim)`. With
    `add_self_loops`, nodes without a loop get one of weight 1. Edge weights are those of the graph.

    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[1], [0, 2], [1]])
    >>> GCNLayer(4, 2, seed=0)([[1.0] * 4] * 3, graph).shape
    (3, 2)
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        activation: str | None = None,
        add_self_loops: bool = True,
        bias: bool = True,
        *,
        seed: int | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        if activation is not None:
            _core.activate([0.0], activation)
        self.activation, self.add_self_loops = activation, add_self_loops
        self.lin = Linear(in_dim, out_dim, bias=False, init="glorot", seed=seed)
        self.bias = _filled(0.0, out_dim) if bias else None

    def forward(self, x: Input, graph: Graph) -> Tensor:
        """Convolve `x` over `graph`."""
        return _core.gcn(x, graph, self.lin.weight, self.bias, self.add_self_loops, self.activation)

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"activation={self.activation!r}, add_self_loops={self.add_self_loops}"


class SAGELayer(Module):
    """GraphSAGE (Hamilton et al. 2017), as PyG's `SAGEConv`.

    `out_i = W_l agg_j(x_j) + b + W_r x_i` with the mean or the sum over neighbours; with `normalize` each
    row is divided by its norm. Takes `x (N, in_dim)`, gives `(N, out_dim)`. Edge weights are not looked at,
    as in PyG.

    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[1], [0, 2], [1]])
    >>> SAGELayer(4, 2, seed=0)([[1.0] * 4] * 3, graph).shape
    (3, 2)
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        aggregator: Literal["mean", "sum"] = "mean",
        normalize: bool = False,
        *,
        seed: int | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        if aggregator not in ("mean", "sum"):
            raise ConfigError(f"aggregator must be 'mean' or 'sum', got {aggregator!r}")
        seed = _seed(seed)
        self.aggregator, self.normalize = aggregator, normalize
        self.lin_l = Linear(in_dim, out_dim, seed=seed)
        self.lin_r = Linear(in_dim, out_dim, bias=False, seed=seed + 2)

    def forward(self, x: Input, graph: Graph) -> Tensor:
        """Aggregate `x` over `graph`."""
        assert self.lin_l.bias is not None
        parameters = [self.lin_l.weight, self.lin_l.bias, self.lin_r.weight]
        return _core.sage(x, graph, parameters, self.aggregator, self.normalize)

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"aggregator={self.aggregator!r}, normalize={self.normalize}"


class MultiheadAttention(Module):
    """Multi-head attention of each node over its neighbours (Vaswani et al. 2017).

    Parameters as `torch.nn.MultiheadAttention`: over a complete graph with loops it is PyTorch's
    self-attention. Takes and gives `(N, dim)`; `heads` must divide `dim`. A node without neighbours gives
    the last map's bias.

    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[0, 1], [0, 1]])
    >>> MultiheadAttention(4, 2, seed=0)([[1.0] * 4] * 2, graph).shape
    (2, 4)
    """

    def __init__(self, dim: int, heads: int, *, seed: int | None = None) -> None:
        """See the class."""
        super().__init__()
        _dims(dim=dim, heads=heads)
        if dim % heads:
            raise ConfigError(f"heads must divide dim {dim}, got {heads}")
        seed = _seed(seed)
        self.heads = heads
        self.in_proj_weight = _draw("glorot_uniform", (3 * dim, dim), dim, 3 * dim, seed)
        self.in_proj_bias = _filled(0.0, 3 * dim)
        self.out_proj = Linear(dim, dim, seed=seed + 1)
        self.out_proj.bias = _filled(0.0, dim)

    def forward(self, x: Input, graph: Graph) -> Tensor:
        """Attend from each node of `graph` over its neighbours."""
        bias = self.out_proj.bias
        assert bias is not None
        parameters = [self.in_proj_weight, self.in_proj_bias, self.out_proj.weight, bias]
        return _core.multihead_attention(x, graph, parameters, self.heads)

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"{self.out_proj.weight.shape[0]}, heads={self.heads}"


class GRUCell(Module):
    """A gated recurrent unit (Chung et al. 2014).

    `z = s(Wz x + Uz h)`, `r = s(Wr x + Ur h)`, `c = tanh(Wh x + Uh (r*h))`, `h' = (1-z)*h + z*c`; every map
    has a bias. Takes `x (N, in_dim)` and `h (N, hidden_dim)`, gives `(N, hidden_dim)`.

    >>> GRUCell(3, 2, seed=0)([[1.0, 2.0, 3.0]], [[0.0, 0.0]]).shape
    (1, 2)
    """

    def __init__(self, in_dim: int, hidden_dim: int, *, seed: int | None = None) -> None:
        """See the class."""
        super().__init__()
        seed = _seed(seed)
        for number, name in enumerate(("w_z", "u_z", "w_r", "u_r", "w_h", "u_h")):
            ins = in_dim if name.startswith("w") else hidden_dim
            setattr(self, name, Linear(ins, hidden_dim, init="normal", seed=seed + number))

    def forward(self, x: Input, h: Input) -> Tensor:
        """Give the next state."""
        return _core.gru(x, h, list(self.parameters()))


class _NeighborAttention(Module):
    """The maps of `RuvectorLayer`'s attention."""

    def __init__(self, dim: int, seed: int) -> None:
        super().__init__()
        for number, name in enumerate(("q", "k", "v", "out")):
            setattr(self, name, Linear(dim, dim, init="normal", seed=seed + number))


class RuvectorLayer(Module):
    """The layer of the `ruvector` package, over a whole graph at once.

    For node v with neighbours u and edge weights e: `m = W_msg h`; `a = MultiHead(q=m_v, k=m_u, v=m_u)`;
    `g = sum_u (e_uv / sum e) m_u` (uniform without weights); `t = W_agg (a + g)`; `h' = GRU(x=t, h=m_v)`;
    `out = LayerNorm(Dropout(h'))`. A node without neighbours gives `LayerNorm(m_v)`. Takes `x (N, in_dim)`,
    gives `(N, hidden_dim)`; `num_heads` must divide `hidden_dim`.

    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[1], [0, 2], []])
    >>> RuvectorLayer(4, 8, num_heads=2, seed=0)([[1.0] * 4] * 3, graph).shape
    (3, 8)
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int,
        num_heads: int = 4,
        dropout: float = 0.0,
        *,
        seed: int | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        _dims(in_dim=in_dim, hidden_dim=hidden_dim, num_heads=num_heads)
        if hidden_dim % num_heads:
            raise ConfigError(f"num_heads must divide hidden_dim {hidden_dim}, got {num_heads}")
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout must be in [0, 1), got {dropout}")
        seed = _seed(seed)
        self.num_heads, self.dropout = num_heads, dropout
        self.w_msg = Linear(in_dim, hidden_dim, init="normal", seed=seed)
        self.w_agg = Linear(hidden_dim, hidden_dim, init="normal", seed=seed + 1)
        self.attention = _NeighborAttention(hidden_dim, seed + 2)
        self.w_update = GRUCell(hidden_dim, hidden_dim, seed=seed + 6)
        self.norm = LayerNorm(hidden_dim)

    @classmethod
    def from_ruvector_json(cls, text: str) -> RuvectorLayer:
        """Load the JSON that `ruvector`'s `GnnLayer.to_json()` writes; damaged text raises `FormatError`."""
        named, heads, dropout, eps = _core.ruvector_from_json(text)
        state = dict(named)
        hidden_dim, in_dim = state["w_msg.weight"].shape
        layer = cls(in_dim, hidden_dim, heads, dropout, seed=0)
        layer.norm.eps = eps
        layer.load_state_dict({name: tensor.numpy() for name, tensor in state.items()})
        return layer

    def forward(self, x: Input, graph: Graph) -> Tensor:
        """Update every node of `graph` from its neighbours."""
        drop = (self.dropout, _core.next_seed()) if self.training and self.dropout > 0 else None
        return _core.ruvector(x, graph, list(self.parameters()), self.num_heads, self.norm.eps, drop)

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"num_heads={self.num_heads}, dropout={self.dropout}"
